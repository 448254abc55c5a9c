"""A sealed federation: no plain weight of any round, client or model touches the disk, and it ends as a plain one does."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("flwr")

from trustsnn.checkpoint import load_network, model_hash
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.federated.arrays import arrays_of
from trustsnn.federated.rounds import STATE, read, resume
from trustsnn.keys import Key
from trustsnn.runners.federated import Running, federate
from trustsnn.runners.federated_audit import Plan, audit

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
MORE = {"statistics": "local", "compression": "top-k:0.2", "rounds": 2}  # so that clients keep something as well


class KilledError(BaseException):
    pass


def run(folder, config, start, key=KEY, **more):
    return federate(config, start, folder, Running("inline", key=key, look=(1, 2)), **more)


@pytest.fixture(scope="module")
def pair(begun, tmp_path_factory):
    """The same federation, sealed and killed in between, and plain: their folders. Do not change them."""
    folder = tmp_path_factory.mktemp("sealed")
    config, start = begun(**MORE)

    def killed(row):
        raise KilledError

    with pytest.raises(KilledError):
        run(folder / "sealed", config, start, told=killed)
    run(folder / "sealed", config, start)
    run(folder / "plain", config, start, key=None)
    return folder / "sealed", folder / "plain"


def plain_weights(folder, pieces):
    """The files in which any of these bytes are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return sorted({path.name for path in files for piece in pieces if piece in path.read_bytes()})


def pieces_of(plain):
    """Sixteen bytes of each tensor that the plain run has on the disk."""
    found = []
    for path in plain.rglob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        found += [content[place : place + 16] for place in range(start, len(content) - 16, 64)]
    return {piece for piece in found if len(set(piece)) > 8}


def test_no_weight_is_on_the_disk_in_the_plain(pair):
    sealed, plain = pair
    pieces = pieces_of(plain)
    assert len(pieces) > 100
    assert "state.safetensors" in plain_weights(plain, pieces)
    assert plain_weights(sealed, pieces) == []


def test_it_ends_as_a_plain_one_and_its_model_opens_with_the_key(pair):
    sealed, plain = pair
    assert (sealed / "federated.json").read_bytes() == (plain / "federated.json").read_bytes()
    assert model_hash(load_network(sealed / "model", key=KEY)) == model_hash(load_network(plain / "model"))
    with pytest.raises(ConfigError, match="is sealed"):
        load_network(sealed / "model")


def test_it_is_audited_with_the_key(pair, tmp_path):
    sealed, plain = pair
    plan = Plan(samples=20, every=1, images=2, iterations=3)
    found = [audit(folder, tmp_path / folder.name, plan, key=key).record for folder, key in ((sealed, KEY), (plain, None))]
    assert found[0] == found[1]
    with pytest.raises(ConfigError, match=r"is sealed\. Pass its key"):
        audit(sealed, tmp_path / "none", plan)
    with pytest.raises(UnsafeArtifactError, match="wrong key"):
        audit(sealed, tmp_path / "other", plan, key=OTHER)


def test_a_file_opens_in_its_own_place_alone(pair, tmp_path):
    sealed, _ = pair
    clients = sorted((sealed / "clients").rglob("round-00002.safetensors"))
    assert len(clients) == 3
    path = tmp_path / clients[1].parent.name / clients[1].name
    path.parent.mkdir()
    shutil.copy(clients[0], path)
    with pytest.raises(UnsafeArtifactError, match="does not open"):
        read(path, KEY)
    shutil.copy(clients[1], path)
    assert read(path, KEY)[1]["round"] == 2
    content = bytearray(path.read_bytes())
    for place in (len(content) - 1, len(content) // 2, 40, 0):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(UnsafeArtifactError if place else ConfigError):  # without its first bytes it is no sealed file
            read(path, KEY)
    for size in (30, 60, 100):
        path.write_bytes(clients[1].read_bytes()[:size])
        with pytest.raises(UnsafeArtifactError, match="does not open"):
            read(path, KEY)


def test_a_key_for_a_plain_federation_is_one_message(pair, begun):
    config, start = begun(**MORE)
    _, plain = pair
    with pytest.raises(ConfigError, match="is not sealed: leave the key out"):
        resume(plain / "rounds", config.sha256, KEY)
    kept, told = read(plain / "rounds" / STATE)
    assert told["round"] == 2
    assert kept.keys() < arrays_of(start).keys()


def test_sealed_weights_stay_in_one_process():
    with pytest.raises(ConfigError, match="takes the engine inline"):
        Running("ray", key=KEY)
    with pytest.raises(ConfigError, match="no module of one's own"):
        Running("inline", key=KEY, code="some:module")


def test_the_commands(cli, begun, few_digits, tmp_path):
    names = ["--data", str(few_digits), "--clients", "2", "--rounds", "1", "--partition", "iid", "--engine", "inline", "--quiet"]
    shape = ["--norm", "batch", "--channels", "0.1", "--steps", "2"]
    assert cli("federate", "run", *names, *shape, "--model", "mlp", "--out", "first").exit_code == 0
    assert cli("keygen", "key").exit_code == 0
    assert cli("seal", "first/model", "--out", "start", "--key-file", "key").exit_code == 0
    given = [*names, "--model", "start", "--key-file", "key"]
    assert cli("federate", "run", *given, "--keep", "--out", "second").exit_code == 0
    assert (tmp_path / "second" / "model" / "model.sealed").exists()
    done = cli(
        "federate", "audit", "second", "--out", "audit", "--key-file", "key", "--samples", "20", "--images", "1", "--quiet"
    )
    assert done.exit_code == 0
    with pytest.raises(ConfigError, match="A sealed model federates in a simulation alone"):
        cli("federate", "app", *given[: names.index("--engine")], "--model", "start", "--key-file", "key", "app")
    assert load_network(tmp_path / "second" / "model", key=Key.from_file(tmp_path / "key")).spec.steps == 2
