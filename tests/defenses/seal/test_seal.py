"""Sealing gives the model back bit for bit, in bounded memory, and writes no plain byte."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trustsnn
from trustsnn.checkpoint import model_hash, read_folder, write_folder
from trustsnn.defenses.seal import seal, unseal, verify
from trustsnn.errors import ConfigError, RunError, UnsafeArtifactError
from trustsnn.keys import Key, is_private, new_key, new_signing_key, read_public_key, read_signing_key
from trustsnn.models import build
from trustsnn.sealed import write
from trustsnn.tensorfile import BLOCK, flipped, read_header

PASSPHRASE = Key.from_passphrase("correct horse")


def test_every_kind_of_tensor_comes_back_byte_for_byte(plain, key, signing, contents, tmp_path):
    before = contents(plain)
    sealed = seal(plain, tmp_path / "sealed", key, signing=signing)
    assert sorted(contents(sealed)) == ["config.json", "manifest.json", "model.sealed"]
    unseal(sealed, tmp_path / "again", key, public=signing.public_key())
    assert contents(tmp_path / "again") == before == contents(plain)
    config, weights = read_folder(sealed, key)
    assert (config, weights) == (before["config.json"], before["model.safetensors"])
    found = verify(sealed, key=key, public=signing.public_key())
    assert (found.kind, found.count, found.opened) == ("weights", 8, True)
    assert not verify(sealed, public=signing.public_key()).opened
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "sealed"]


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tensor_of(dtype: torch.dtype, shape: list[int], raw: bytes) -> torch.Tensor:
    """A tensor of whatever bytes."""
    count = math.prod(shape)
    if not count:
        return torch.zeros(shape, dtype=dtype)
    raw = bytes(byte & 1 for byte in raw) if dtype == torch.bool else raw
    return torch.frombuffer(bytearray(raw * count), dtype=dtype, count=count).reshape(shape)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), min_size=1, max_size=6).filter(
            lambda name: not hasattr(torch.nn.Module(), name)
        ),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.binary(min_size=8, max_size=8)),
        max_size=5,
    )
)
def test_any_tensors_come_back(module_of, contents, key, other_key, kinds):
    tensors = {name: tensor_of(*kind) for name, kind in kinds.items()}
    with tempfile.TemporaryDirectory() as folder:
        module = module_of(**tensors)
        before = contents(write_folder(Path(folder, "plain"), module, {}))
        write_folder(Path(folder, "sealed"), module, {}, key)
        unseal(Path(folder, "sealed"), Path(folder, "again"), key)
        assert contents(Path(folder, "again")) == before
        with pytest.raises(UnsafeArtifactError):
            verify(Path(folder, "sealed"), key=other_key)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_flipping_is_by_the_place_of_the_bit_whatever_the_pieces(content, data):
    bits = sorted(data.draw(st.sets(st.integers(0, 8 * len(content) - 1))))
    cut = data.draw(st.integers(0, len(content)))
    number = int.from_bytes(content, "little") ^ sum(1 << bit for bit in bits)
    changed = b"".join(flipped([content[:cut], content[cut:]], np.array(bits, dtype=np.int64)))
    assert changed == number.to_bytes(len(content), "little")


def test_the_same_model_under_the_same_key_never_looks_the_same(small, key, contents, tmp_path):
    one, two = (contents(seal(small, tmp_path / name, key)) for name in "ab")
    assert one["model.sealed"] != two["model.sealed"]
    pieces = [one["model.sealed"][i : i + 16] for i in range(0, len(one["model.sealed"]), 16)]
    assert len({*pieces}) == len(pieces)
    described = [json.loads(each["manifest.json"])["description"] for each in (one, two)]
    assert described[0]["salt"] != described[1]["salt"]
    assert len({tensor["nonce"] for each in described for tensor in each["tensors"]}) == 6


def test_a_passphrase_opens_what_it_sealed(small, key, tmp_path):
    sealed = seal(small, tmp_path / "sealed", PASSPHRASE)
    verify(sealed, key=PASSPHRASE)
    for wrong in (Key.from_passphrase("correct horsf"), key):
        with pytest.raises(UnsafeArtifactError, match="wrong key"):
            verify(sealed, key=wrong)


def test_a_model_is_saved_sealed_and_loaded_from_memory(network, key, tmp_path):
    trustsnn.save(network, tmp_path / "sealed", key=key)
    again = trustsnn.load(tmp_path / "sealed", key=key)
    assert model_hash(again) == model_hash(network)
    with pytest.raises(ConfigError, match="--key-file"):
        trustsnn.load(tmp_path / "sealed")
    trustsnn.save(network, tmp_path / "plain")
    with pytest.raises(ConfigError, match="not sealed"):
        trustsnn.load(tmp_path / "plain", key=key)
    for folder, given_key in (("sealed", None), ("plain", key)):
        with pytest.raises(ConfigError, match="there already"):
            trustsnn.save(network, tmp_path / folder, key=given_key)


@pytest.fixture(scope="module")
def network():
    """A small bundled network, untrained."""
    return build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1).eval()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """`check(folder)` that fails if a file beneath `tmp_path`, now or at any fsync so far, holds 32 bytes on end of what is in the
    weights of the plain checkpoint `folder`; temporary files go there too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    windows, leaks, scans = set(), [], []

    def scan() -> None:
        scans.append(1)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                leaks.extend(str(path) for i in range(len(content) - 31) if content[i : i + 32] in windows)

    def watch(folder: Path):
        with open(folder / "model.safetensors", "rb") as stream:
            read_header(stream)
            data = stream.read()
        windows.update(data[i : i + 32] for i in range(len(data) - 31) if len({*data[i : i + 32]}) > 8)
        assert windows
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda descriptor: (scan(), sync(descriptor)))

        def check() -> None:
            scan()
            assert len(scans) > 1
            assert not leaks

        return check

    return watch


def test_no_plain_byte_is_written(network, key, digits_test, tmp_path, tmp_path_factory, watched):
    plain = trustsnn.save(network, tmp_path_factory.mktemp("elsewhere") / "plain")
    check = watched(plain)
    seal(plain, tmp_path / "sealed", key)
    trustsnn.save(network, tmp_path / "saved", key=key)
    verify(tmp_path / "sealed", key=key)
    model = trustsnn.load(tmp_path / "sealed", key=key)
    if Path("/proc/self/maps").exists():
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    run = trustsnn.audit(model, digits_test.take(8), attacks=[{"attack": "fgsm"}], eps=[0.1], out=tmp_path / "run", quiet=True)
    assert run.summary["model"]["hash"] == model_hash(network)
    check()
    unseal(tmp_path / "sealed", tmp_path / "again", key)
    with pytest.raises(AssertionError):
        check()  # it would have seen them


def test_unsealing_that_is_told_to_end_leaves_nothing(plain, key, tmp_path):
    sealed, code = (
        seal(plain, tmp_path / "sealed", key),
        textwrap.dedent("""
        import os, signal, sys
        from trustsnn import checkpoint
        from trustsnn.defenses.seal import unseal
        from trustsnn.keys import Key
        checkpoint.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # when all weights are written
        unseal(sys.argv[1], sys.argv[2], Key.from_file(sys.argv[3]))
    """),
    )
    (tmp_path / "key").write_bytes(key.secret)
    done = subprocess.run(
        [sys.executable, "-c", code, sealed, tmp_path / "again", tmp_path / "key"], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "sealed"]


def test_who_may_read_what_is_unsealed_is_up_to_the_umask(plain, key, tmp_path):
    sealed = seal(plain, tmp_path / "sealed", key)
    before = os.umask(0o077)
    try:
        again = unseal(sealed, tmp_path / "again", key)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (again, *again.iterdir())] == [0] * 4


def test_memory_does_not_grow_with_the_model(tmp_path):
    """300 MB of zeros, sealed and unsealed by a fresh process, which tells by how much its peak rose."""
    code = """
import json, resource, sys
from pathlib import Path
from trustsnn.checkpoint import write_manifest
from trustsnn.canonical import sha256_file
from trustsnn.defenses.seal import seal, unseal
from trustsnn.keys import Key
from trustsnn.tensorfile import header
folder = Path("plain"); folder.mkdir()
start = header([("weight", "F32", (75_000_000,))])
with open(folder / "model.safetensors", "wb") as stream:
    stream.write(start)
    stream.truncate(len(start) + 300_000_000)
(folder / "config.json").write_bytes(b"{}")
write_manifest(folder, sha256_file(folder / "model.safetensors"), b"{}")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seal(folder, "sealed", Key(bytes(32)))
unseal("sealed", "again", Key(bytes(32)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, Path("again/model.safetensors").stat().st_size - len(start))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(trustsnn.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    mebibytes, size = done.stdout.split()
    assert int(size) == 300_000_000
    assert float(mebibytes) < 100


def test_a_file_of_another_writer_is_not_sealed(tmp_path, small, key):
    config, content = read_folder(small)
    odd = safetensors.torch.save({"a": torch.ones(3)}, metadata={"format": "pt"})
    length = int.from_bytes(content[:8], "little")
    wide = (length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :]
    assert {*safetensors.torch.load(wide)} == {"a", "b", "c"}  # a good file, but not as the library writes it
    for weights in (odd, wide, content[:-1], content + b"\0", content[:20], b"", b"\xff" * 40):
        with pytest.raises(UnsafeArtifactError):
            write(tmp_path / "other", config, io.BytesIO(weights), key)


def test_the_header_is_what_the_library_writes(plain):
    with open(plain / "model.safetensors", "rb") as stream:
        layout, start = read_header(stream)
    assert [name for name, _, _ in layout] != sorted(name for name, _, _ in layout)  # by alignment, then by name
    assert len(start) % 8 == 0
    assert any(np.prod(shape) * 4 > 2 * BLOCK for _, _, shape in layout)


def test_folders_that_are_there_and_folders_that_are_not(small, sealed, key, tmp_path):
    with pytest.raises(ConfigError, match="there already"):
        seal(small, sealed, key)
    with pytest.raises(ConfigError, match="there already"):
        unseal(sealed, small, key)
    with pytest.raises(ConfigError, match="sealed already"):
        seal(sealed, tmp_path / "twice", key)
    with pytest.raises(ConfigError, match="Expected a sealed"):
        unseal(small, tmp_path / "plain", key)
    with pytest.raises(ConfigError, match="no checkpoint"):
        seal(tmp_path / "nowhere", tmp_path / "x", key)
    with pytest.raises(ConfigError, match="a key or a public key"):
        verify(sealed)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_an_altered_checkpoint_is_not_sealed_and_a_full_disk_leaves_nothing(small, key, copied, tmp_path, monkeypatch):
    damaged = copied(small, "damaged")
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[:-1] + b"\1")
    with pytest.raises(UnsafeArtifactError, match="altered"):
        seal(damaged, tmp_path / "sealed", key)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trustsnn.files.os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        seal(small, tmp_path / "sealed", key)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "got 0"), (b"a" * 31, "31"), (b"a" * 32, "32 hexadecimal"), (b"\xff" * 33, "33 bytes"), (b"g" * 64, "64 bytes")],
)
def test_a_key_that_is_none(content, message, tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Key.from_file(tmp_path / "key")
    monkeypatch.setenv("A_KEY", "ab")
    for make in (
        lambda: Key.from_environment("A_KEY"),
        lambda: Key.from_environment("NOT_SET"),
        lambda: Key.from_file(tmp_path / "nowhere"),
        lambda: Key(b"short"),
        lambda: Key.from_passphrase(""),
    ):
        with pytest.raises(ConfigError):
            make()


def test_bytes_of_the_environment_that_are_no_text(monkeypatch):
    monkeypatch.setenv("SECRET", os.fsdecode(b"\xff" * 64))
    with pytest.raises(ConfigError, match="environment variable SECRET"):
        Key.from_environment("SECRET")
    assert Key.from_passphrase_environment("SECRET").secret == b"\xff" * 64


def test_keys_are_made_private_and_never_written_over(tmp_path, monkeypatch):
    path = tmp_path / "key"
    new_key(path)
    assert is_private(path)
    key = Key.from_file(path)
    assert key.secret.hex() == path.read_text().strip()
    assert repr(key.secret) not in repr(key)
    (tmp_path / "raw").write_bytes(key.secret)
    monkeypatch.setenv("A_KEY", key.secret.hex())
    assert Key.from_file(tmp_path / "raw") == Key.from_environment("A_KEY") == key
    public = new_signing_key(tmp_path / "sign.pem")
    assert is_private(tmp_path / "sign.pem")
    assert read_signing_key(tmp_path / "sign.pem").public_key() == read_public_key(public)
    for make in (new_key, new_signing_key):
        with pytest.raises(ConfigError, match="there already"):
            make(path if make is new_key else tmp_path / "sign.pem")
    for read, wrong in ((read_signing_key, public), (read_public_key, tmp_path / "sign.pem"), (read_public_key, path)):
        with pytest.raises(ConfigError, match="Expected an Ed25519"):
            read(wrong)
