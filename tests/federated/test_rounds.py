"""What a killed federation goes on from: the server's state comes back as it was or not at all, and so does what stays with a client."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from trustsnn.errors import RunError, UnsafeArtifactError
from trustsnn.federated.rounds import STATE, Rounds, keep_own, own_before, read, resume, write

ROWS = [{"round": 1, "asked": [0, 2], "failed": {"1": "no \u201canswer\u201d"}, "test": {"value": 0.1 + 0.25}, "share": None}]


def weights(seed=0):
    draws = np.random.default_rng(seed)
    return {
        "b": draws.standard_normal((2, 3)).astype(np.float32),
        "a.scale": np.array(-0.0, np.float32),
        "c": np.zeros((0, 4), np.float32),
    }


def same(one, two):
    return one.keys() == two.keys() and all(
        (one[name].shape, one[name].dtype, one[name].tobytes()) == (two[name].shape, two[name].dtype, two[name].tobytes())
        for name in one
    )


@pytest.fixture
def saved(tmp_path):
    Rounds(7, weights(), ROWS).save(tmp_path, "this one")
    return tmp_path


def test_a_state_comes_back_as_it_was(saved):
    found = resume(saved, "this one")
    assert (found.round, found.rows) == (7, ROWS)
    assert same(found.arrays, weights())
    assert [path.name for path in saved.iterdir()] == [STATE]


def test_there_is_none_before_the_first_round(tmp_path):
    assert resume(tmp_path, "this one") is None
    assert resume(tmp_path / "new", "this one") is None


def test_the_last_round_is_the_one_that_is_there(saved):
    Rounds(8, weights(1), [*ROWS, *ROWS]).save(saved, "this one")
    found = resume(saved, "this one")
    assert (found.round, len(found.rows)) == (8, 2)
    assert same(found.arrays, weights(1))


def test_equal_states_are_equal_bytes(saved, tmp_path):
    Rounds(7, dict(reversed(weights().items())), ROWS).save(tmp_path / "other", "this one")
    assert (saved / STATE).read_bytes() == (tmp_path / "other" / STATE).read_bytes()


def test_the_state_of_another_federation_is_refused(saved):
    with pytest.raises(RunError, match="holds another federation"):
        resume(saved, "that one")


def test_a_file_of_another_kind_is_refused(tmp_path):
    keep_own(tmp_path, 3, weights())
    (tmp_path / "round-00003.safetensors").rename(tmp_path / STATE)
    with pytest.raises(RunError, match="holds another federation"):
        resume(tmp_path, "this one")


def test_a_state_that_is_cut_short_is_refused(saved):
    whole = (saved / STATE).read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        (saved / STATE).write_bytes(whole[:size])
        with pytest.raises(UnsafeArtifactError, match=r"is not a whole state of a federation.*Delete"):
            resume(saved, "this one")


def test_a_state_with_a_changed_byte_is_refused_wherever_it_is(saved):
    whole = (saved / STATE).read_bytes()
    for place in range(len(whole)):
        (saved / STATE).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((UnsafeArtifactError, RunError)):
            resume(saved, "this one")
    (saved / STATE).write_bytes(whole + b"x")
    with pytest.raises(UnsafeArtifactError):
        resume(saved, "this one")


def headed(whole, change):
    """The file with its header changed by `change`, a function of the parsed one."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


CHANGES = {
    "another dtype of the same width": lambda header: header["b"].update(dtype="I32"),
    "another shape of the same size": lambda header: header["b"].update(shape=[3, 2]),
    "another name": lambda header: header.update(d=header.pop("b")),
    "no state": lambda header: header["__metadata__"].pop("state"),
    "a state that is no object": lambda header: header["__metadata__"].update(state="[1]"),
    "a state that is no JSON": lambda header: header["__metadata__"].update(state="{"),
    "a later round": lambda header: header["__metadata__"].update(state=header["__metadata__"]["state"].replace('"round":7', '"round":8')),
    "no hash": lambda header: header["__metadata__"].update(state='{"round":7,"identity":"this one","rows":[]}'),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_was_edited_is_refused(saved, change):
    whole = (saved / STATE).read_bytes()
    assert read_back(saved, headed(whole, lambda header: None)) is not None
    with pytest.raises(UnsafeArtifactError, match="is not a whole state"):
        read_back(saved, headed(whole, CHANGES[change]))


def read_back(folder, content):
    (folder / STATE).write_bytes(content)
    return resume(folder, "this one")


def test_a_pickle_is_refused_unread(tmp_path):
    import pickle

    (tmp_path / STATE).write_bytes(pickle.dumps({"round": 7}))
    with pytest.raises(UnsafeArtifactError):
        resume(tmp_path, "this one")


def test_a_write_that_fails_leaves_the_round_before(saved, monkeypatch):
    whole = Path.write_bytes

    def torn(path, content):
        whole(path, content[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(RunError, match="No space left"):
        Rounds(8, weights(1), ROWS).save(saved, "this one")
    assert resume(saved, "this one").round == 7
    assert [path.name for path in saved.iterdir()] == [STATE]


# What stays with a client.


def own(round_):
    return {"running_mean": np.full(3, round_, np.float32)}


def mark(found):
    return float(found["running_mean"][0]) if found else None


def test_a_client_finds_what_stayed_after_its_last_round(tmp_path):
    assert own_before(tmp_path, 1) == {}
    assert own_before(tmp_path / "new", 1) == {}
    keep_own(tmp_path, 1, own(1))
    keep_own(tmp_path, 2, own(2))
    keep_own(tmp_path, 5, own(5))  # it was not asked in between
    assert mark(own_before(tmp_path, 9)) == mark(own_before(tmp_path, 6)) == 5


def test_a_round_that_is_killed_and_asked_again_begins_from_the_one_before(tmp_path):
    for round_ in range(1, 6):
        keep_own(tmp_path, round_, own(round_))
        for _ in range(3):  # killed before the server wrote it down, three times
            assert mark(own_before(tmp_path, round_)) == (round_ - 1 or None)
            keep_own(tmp_path, round_, own(round_))
        assert mark(own_before(tmp_path, round_ + 1)) == round_  # as the model is judged after the round
    assert len(list(tmp_path.iterdir())) == 2


def test_a_round_that_is_killed_after_gaps(tmp_path):
    for round_ in (2, 4, 9):
        keep_own(tmp_path, round_, own(round_))
    assert mark(own_before(tmp_path, 9)) == 4
    keep_own(tmp_path, 9, own(10))
    assert mark(own_before(tmp_path, 9)) == 4
    assert mark(own_before(tmp_path, 10)) == 10


def test_what_a_run_left_that_had_come_further_is_not_taken_up(tmp_path):
    """The server's state was deleted, and the federation begins anew beside what its clients kept."""
    for round_ in range(1, 9):
        keep_own(tmp_path, round_, own(round_))
    assert own_before(tmp_path, 1) == {}
    keep_own(tmp_path, 1, own(100))
    assert mark(own_before(tmp_path, 2)) == 100
    keep_own(tmp_path, 2, own(200))
    assert mark(own_before(tmp_path, 9)) == 200


def test_what_stayed_is_refused_where_it_is_cut_short(tmp_path):
    keep_own(tmp_path, 3, own(3))
    path = tmp_path / "round-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsafeArtifactError, match="Delete"):
        own_before(tmp_path, 4)


def test_arrays_and_what_is_told_of_them_come_back(tmp_path):
    write(tmp_path / "a", weights(), {"round": 1})
    arrays, told = read(tmp_path / "a")
    assert same(arrays, weights())
    assert told == {"round": 1}
