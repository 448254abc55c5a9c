"""Partitions: every sample once, the same for the same seed and samples, and nothing that another data set or hand could slip in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trustsnn.data import from_arrays
from trustsnn.errors import ConfigError, DataError, UnsafeArtifactError
from trustsnn.federated.dealing import SCHEMES, Dirichlet, Shards, parse
from trustsnn.federated.folders import aligned, load_clients
from trustsnn.federated.partition import Partition, divide

LINES = ["iid", "dirichlet:0.5:minimum=1", "dirichlet:2:minimum=1:balance=false", "shards:1", "shards:3"]


def made(labels, order=None):
    """A data set whose samples differ, in another order if told."""
    x = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1) / max(1, len(labels))
    order = np.arange(len(labels)) if order is None else order
    return from_arrays(x[order], np.asarray(labels)[order], classes=10)


@pytest.fixture(scope="module")
def data():
    return made(np.random.default_rng(0).integers(0, 10, 600))


@given(st.lists(st.integers(0, 9), min_size=36, max_size=80), st.integers(1, 6), st.sampled_from(LINES), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_sample_goes_to_one_client(labels, clients, line, seed):
    found = divide(made(labels), line, clients, seed=seed)
    assert sorted(np.concatenate(found.indices).tolist()) == list(range(len(labels)))
    assert len(found) == clients
    assert found.left_out == 0
    assert all(len(own) and (np.diff(own) > 0).all() for own in found.indices)


@pytest.mark.parametrize("line", [*LINES, "group"])
def test_who_owns_a_sample_does_not_depend_on_the_order_of_the_samples(data, line):
    order = np.random.default_rng(1).permutation(len(data))
    other = made(data.labels, order)
    groups = np.arange(len(data)) % 11 if line == "group" else None
    first = divide(data, line, 7, seed=3, groups=groups)
    second = divide(other, line, 7, seed=3, groups=None if groups is None else groups[order])
    for one, two in zip(first.indices, second.indices, strict=True):
        assert {data.ids[i] for i in one} == {other.ids[i] for i in two}
    assert first.sha256 != second.sha256  # the indices are of another order, and neither fits the other
    with pytest.raises(ConfigError, match="another order"):
        first.check(other)


@pytest.mark.parametrize("line", LINES)
def test_the_seed_decides(data, line):
    drawn = [divide(data, line, 7, seed=seed).sha256 for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_iid_is_equal_parts_of_every_class(data):
    found = divide(data, "iid", 7)
    assert {len(own) for own in found.indices} == {85, 86}
    counts = divide(made(np.arange(10_000) % 10), "iid", 5).counts(made(np.arange(10_000) % 10))
    assert counts.sum() == 10_000
    assert abs(counts - 200).max() < 5 * np.sqrt(200 * 0.8)


def slow_dirichlet(labels, clients, alpha, minimum, balance, draws):
    """FedSNN's loop, sample by sample, with the draws in the order of `Dirichlet.deal`."""
    while True:
        owners = [[0] * clients for _ in range(labels.max() + 1)]
        sizes = [0] * clients
        for label in range(labels.max() + 1):
            share = list(draws.dirichlet([alpha] * clients))
            size = int((labels == label).sum())
            if balance:
                share = [p * (mine < len(labels) / clients) for p, mine in zip(share, sizes, strict=True)]
            reached, before, total = 0.0, 0, sum(share)
            for client in range(clients):
                reached += share[client] / total
                end = int(reached * size) if client < clients - 1 else size
                owners[label][client] = end - before
                before = end
            sizes = [mine + new for mine, new in zip(sizes, owners[label], strict=True)]
        if min(sizes) >= minimum:
            break
    dealt = [[] for _ in range(clients)]
    for label, counts in enumerate(owners):
        members = draws.permutation(np.flatnonzero(labels == label)).tolist()
        for client, count in enumerate(counts):
            dealt[client] += [members.pop(0) for _ in range(count)]
    return dealt


@pytest.mark.parametrize(("alpha", "minimum", "balance"), [(0.5, 10, True), (0.2, 25, True), (0.3, 20, False)])
def test_dirichlet_is_fedsnn_s(data, alpha, minimum, balance):
    found = Dirichlet(alpha, minimum, balance).deal(data.labels, None, 8, np.random.default_rng(2))
    slow = slow_dirichlet(data.labels, 8, alpha, minimum, balance, np.random.default_rng(2))
    assert [own.tolist() for own in found] == slow
    assert min(map(len, slow)) >= minimum


def test_the_smaller_alpha_the_fewer_classes(data):
    held = [(divide(data, f"dirichlet:{alpha}:minimum=1", 6).counts(data) > 0).sum(1).mean() for alpha in (0.05, 0.5, 100)]
    assert held[0] < held[1] < held[2] == 10


def test_shards_are_runs_of_the_samples_by_label(data):
    order = np.argsort(data.labels, kind="stable")
    dealt = Shards(2).deal(data.labels, None, 6, np.random.default_rng(0))
    halves = [tuple(half) for own in dealt for half in np.split(own, 2)]
    assert sorted(halves) == sorted(tuple(piece) for piece in np.split(order, 12))
    assert halves != [tuple(piece) for piece in np.split(order, 12)]


def test_groups_stay_whole(data):
    writers = np.array([f"writer {i % 13}" for i in range(len(data))])
    found = divide(data, "group", 4, groups=writers)
    owned = [set(writers[own]) for own in found.indices]
    assert sorted(name for names in owned for name in names) == sorted(set(writers))
    alone = divide(data, "group", groups=writers)
    assert alone.names == tuple(sorted(set(writers)))
    assert all(set(writers[own]) == {name} for name, own in zip(alone.names, alone.indices, strict=True))


def test_lines_name_schemes():
    assert parse("dirichlet") == parse("dirichlet:0.5") == parse("dirichlet:alpha=1/2") == Dirichlet()
    assert parse("dirichlet:0.1:minimum=3:balance=false") == Dirichlet(0.1, 3, False)
    assert parse("shards:5") == Shards(5)
    assert all(parse(name).name == name for name in SCHEMES)


@pytest.mark.parametrize(
    ("line", "clients", "told"),
    [
        ("iid", 601, "1 to 600 clients"),
        ("iid", 0, "1 to 600 clients"),
        ("iid", None, "1 to 600 clients"),
        ("iid", True, "1 to 600 clients"),
        ("dirichlet:0", 5, "alpha.*above 0"),
        ("dirichlet:-1", 5, "alpha.*above 0"),
        ("dirichlet:nan", 5, "alpha.*above 0"),
        ("dirichlet:1:minimum=0", 5, "minimum"),
        ("dirichlet:1:balance=1", 5, "balance"),
        ("dirichlet:0.5", 61, "61 clients at least 10 of 600 samples: it takes 610. Ask for at most 60"),
        ("dirichlet:0.01:minimum=50", 12, "with alpha 0.01 gave each of 12 clients at least 50"),
        ("shards:200", 4, "600 samples into 800 shards"),
        ("shards:2.5", 4, "whole number"),
        ("shard:2", 4, "Did you mean 'shards'"),
        ("iid:3", 4, "name=value"),
        ("group", 4, "group of each sample"),
    ],
)
def test_what_cannot_be_is_said(data, line, clients, told):
    with pytest.raises(ConfigError, match=told):
        divide(data, line, clients)


def test_groups_that_cannot_be_are_said(data):
    for groups, clients, told in (
        (np.zeros(599, int), 1, "groups of 600 samples"),
        (np.zeros(600), 1, "float64"),
        (np.arange(600) % 3, 4, "3 whole groups to 4 clients"),
    ):
        with pytest.raises(ConfigError, match=told):
            divide(data, "group", clients, groups=groups)
    with pytest.raises(ConfigError, match="does not go by groups"):
        divide(data, "iid", 4, groups=np.arange(600))


def test_a_file_gives_the_partition_back(data, tmp_path):
    found = divide(data, "dirichlet:0.5", 9, seed=4)
    found.write(tmp_path / "partition.json")
    back = Partition.read(tmp_path / "partition.json")
    assert back.sha256 == found.sha256
    assert back.settings == {"scheme": "dirichlet", "alpha": 0.5, "minimum": 10, "balance": True, "clients": 9, "seed": 4}
    assert all((one == two).all() for one, two in zip(back.indices, found.indices, strict=True))
    back.check(data)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("indices", [[0, 1], [1, 2]], "owned by the clients 0 and 1"),
        ("indices", [[0, 1], []], "Client 1 has no samples"),
        ("indices", [[0, 1], [3]], r"0\.\.2 for client 1, got 3\.\.3"),
        ("indices", [[0, 1], [-1]], "got -1"),
        ("indices", [[1, 0], [2]], "ascending"),
        ("indices", [[0, 1], [2.0]], "whole numbers"),
        ("indices", [[0, 1], [True]], "whole numbers"),
        ("indices", [[0, 1], [10**30]], "whole numbers"),
        ("indices", [[[0, 1]], [2]], "ascending"),
        ("indices", [[0, [1]], [2]], "Could not read"),
        ("indices", [], "at least 1 client"),
        ("indices", None, "Could not read"),
        ("names", ["a"], "name of its own"),
        ("names", ["a", "a"], "name of its own"),
        ("names", [0, 1], "that are text"),
        ("count", 10**30, "altered"),
        ("count", "3", "whole number"),
        ("samples", "else", "altered"),
        ("settings", {"scheme": "iid"}, "altered"),
        ("format", "other", "Expected a partition"),
        ("more", 1, "Could not read"),
        ("sha256", None, "altered"),
    ],
)
def test_a_file_that_was_altered_is_refused(tmp_path, key, value, told):
    path = tmp_path / "partition.json"
    Partition((np.array([0, 1]), np.array([2])), 3, "samples", {}).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ConfigError, match=told):
        Partition.read(path)


def test_what_is_no_file_of_a_partition_is_refused(tmp_path):
    for content in (b"", b"[1]", b"\xff", b"[" * 100_000, b"{}"):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(ConfigError, match="Could not read the partition"):
            Partition.read(tmp_path / "p")
    with pytest.raises(ConfigError, match="No such file"):
        Partition.read(tmp_path / "none")


def test_samples_may_be_left_out():
    assert Partition((np.array([0, 2]),), 5, "", {}).left_out == 3


def picture(path, value, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).convert(mode).save(path)


def test_clients_that_own_folders_share_classes_by_name(tmp_path):
    for client, classes in (("ann", "ac"), ("bob", "bc")):
        for label in classes:
            for number in range(5):
                picture(tmp_path / client / label / f"{number}.png", 40 * number + ord(label) % 8)
    sizes = {}
    for split in ("train", "test"):
        data, owned = load_clients(tmp_path, split)
        assert data.classes == ("a", "b", "c")
        assert owned.names == ("ann", "bob")
        assert owned.left_out == 0
        seen = [{data.classes[label] for label in data.labels[own]} for own in owned.indices]
        assert seen == [{"a", "c"}, {"b", "c"}]
        for own in owned.indices:  # a picture's brightness tells its class: the labels are the right ones
            x, y = data.batch(own)
            assert [data.classes[label] for label in y] == [chr(96 + round(float(v.flat[0]) * 255) % 8) for v in x]
        sizes[split] = len(data)
    assert sizes == {"train": 16, "test": 4}
    data, owned = load_clients(f"events:{tmp_path}", "train", frames=3)
    assert data.domain == "events-binary"
    assert data.sample_shape[0] == 3
    owned.check(data)


def test_clients_that_own_event_recordings(tmp_path):
    draws = np.random.default_rng(0)
    for client, most, classes in (("a", 1, None), ("b", 4, None), ("c", 1, ["11", "2"])):
        x = draws.integers(0, most + 1, (20, 3, 2, 4, 4))
        x[0, 0, 0, 0, 0] = most
        named = {} if classes is None else {"classes": np.array(classes)}
        (tmp_path / client).mkdir()
        np.savez(tmp_path / client / "recordings.npz", x=x, y=np.arange(20) % 2, **named)
    data, owned = load_clients(tmp_path, "train")
    assert (data.domain, data.max_count, data.classes) == ("events-count", 4, ("0", "1", "2", "11"))
    assert [len(own) for own in owned.indices] == [16, 16, 16]
    assert set(data.labels[owned.indices[2]].tolist()) == {2, 3}
    assert data.batch(owned.indices[0])[0].max() == 1
    assert len(load_clients(tmp_path, "test")[0]) == 12


def test_images_of_two_kinds_of_files_are_joined(tmp_path):
    for client, x in (("a", np.full((10, 1, 4, 4), 51, np.uint8)), ("b", np.full((10, 1, 4, 4), 0.4, np.float32))):
        (tmp_path / client).mkdir()
        np.savez(tmp_path / client / "d.npz", x=x, y=np.arange(10) % 2)
    data, owned = load_clients(tmp_path, "train")
    assert [np.unique(data.batch(own)[0]).tolist() for own in owned.indices] == [[np.float32(0.2)], [np.float32(0.4)]]


def test_folders_that_are_no_clients_are_refused(tmp_path):
    with pytest.raises(DataError, match="a folder for each client"):
        load_clients(tmp_path, "train")
    with pytest.raises(DataError, match="a folder for each client"):
        load_clients(tmp_path / "none", "train")
    with pytest.raises(DataError, match="'train' or 'test'"):
        load_clients(tmp_path, "all")
    for number in range(5):
        picture(tmp_path / "plain" / "train" / "a" / f"{number}.png", number)
        picture(tmp_path / "sizes" / "one" / "a" / f"{number}.png", number)
        picture(tmp_path / "sizes" / "two" / "a" / f"{number}.png", number, "RGB")
        picture(tmp_path / "classes" / "a" / f"{number}.png", number)
    for name, told in (("plain", "a folder for each client"), ("sizes", "one kind and size"), ("classes", "images in")):
        with pytest.raises(DataError, match=told):
            load_clients(tmp_path / name, "train")
    (tmp_path / "pickle" / "a").mkdir(parents=True)
    np.savez(tmp_path / "pickle" / "a" / "d.npz", x=np.array([{}], dtype=object), y=np.zeros(1, int))
    with pytest.raises(UnsafeArtifactError):
        load_clients(tmp_path / "pickle", "train")
    np.savez(tmp_path / "pickle" / "a" / "e.npz", x=np.zeros(1))
    with pytest.raises(DataError, match=r"one \.npz"):
        load_clients(tmp_path / "pickle", "train")


def test_a_device_counts_the_classes_of_the_federation():
    own = from_arrays(np.zeros((2, 1, 1, 1)), [0, 1], classes=["cat", "dog"])
    assert aligned(own, ["bird", "dog", "cat"]).labels.tolist() == [2, 1]
    assert aligned(own.select([0]), ["cat"]).labels.tolist() == [0]
    with pytest.raises(DataError, match="'dog'"):
        aligned(own, ["bird", "cat"])
