"""Readers of files: IDX, CIFAR-10, .npz and folders of images, whole and broken."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trustsnn.data import folder, load
from trustsnn.data.idx import read_idx
from trustsnn.errors import DataError, UnsafeArtifactError


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root: Path, folder: str = "MNIST", count: int = 12, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    x, y = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8), draw.integers(0, 10, count, dtype=np.uint8)
    place = root / folder / "raw"
    place.mkdir(parents=True)
    for name, array in (("images-idx3", x), ("labels-idx1", y)):
        content = gzip.compress(idx(array)) if suffix else idx(array)
        (place / f"t10k-{name}-ubyte{suffix}").write_bytes(content)
    return x, y


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_round_trip(tmp_path: Path, suffix: str, name: str, place: str) -> None:
    x, y = write_mnist(tmp_path, place, suffix=suffix)
    data = load(name, "test", root=tmp_path)
    values, labels = data.batch(range(12))
    np.testing.assert_array_equal(values, x[:, None].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, y)
    assert (data.name, data.split, data.domain, len(data.classes)) == (name, "test", "image", 10)


def test_raw_and_gz_give_the_same_hash(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b", suffix=".gz")
    assert load("mnist", root=tmp_path / "a").sha256 == load("mnist", root=tmp_path / "b").sha256


CONTENT = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic"),
        (CONTENT[:2], "expected a header of 16 bytes, got 2"),
        (CONTENT[:9], "expected a header of 16 bytes, got 9"),
        (CONTENT[:-1], r"expected 40 bytes for axes \[2, 3, 4\], got 39"),
        (CONTENT + b"x", "expected 40 bytes .* got more than 40"),
        (b"\0\0\x09\x03" + CONTENT[4:], "magic 0000 0803"),
        (idx(np.zeros(5, np.uint8)), "got 00000801"),
        (idx(np.zeros((0, 3, 4), np.uint8)), r"axes \[0, 3, 4\]"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "axes"),
    ],
)
def test_broken_idx(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / "broken-idx"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b + b"junk", lambda b: b[:-6] + bytes(6)])
def test_broken_gzip(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "broken-idx.gz"
    path.write_bytes(damage(gzip.compress(CONTENT)))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"broken-idx\.gz: expected a whole, readable"):
        read_idx(path, 3)


def test_missing_data_says_where_it_looked_and_how_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTSNN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    for part in (str(tmp_path / "nowhere" / "MNIST"), "train-images-idx3-ubyte.gz", "--data-root", "TRUSTSNN_DATA", "--download"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"cifar-10-batches-bin.*--download"):
        load("cifar10")
    with pytest.raises(DataError, match="'train' or 'test', got 'validation'"):
        load("mnist", "validation")


def test_as_many_labels_as_images_and_labels_below_ten(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels.*expected 12 labels.*got 11"):
        load("mnist", root=tmp_path)
    labels.write_bytes(idx(np.full(12, 10, np.uint8)))
    with pytest.raises(DataError, match=r"sample 0: expected a label in 0\.\.9, got 10"):
        load("mnist", root=tmp_path)


def write_cifar(root: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    place = root / "cifar-10-batches-bin"
    place.mkdir()
    draw = np.random.default_rng(2)
    written = {}
    for name, count in counts.items():
        records = draw.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (place / name).write_bytes(records.tobytes())
        written[name] = records
    return written


def test_cifar_reads_any_number_of_records(tmp_path: Path) -> None:
    written = write_cifar(tmp_path, {"data_batch_1.bin": 5, "data_batch_2.bin": 3, "test_batch.bin": 4})
    train, test = load("cifar10", "train", root=tmp_path), load("cifar10", root=tmp_path)
    assert (len(train), len(test)) == (8, 4)
    assert train.sample_shape == (3, 32, 32)
    record = written["data_batch_2.bin"][1]
    values, labels = train.batch([6])
    assert labels[0] == record[0]
    assert values[0, 1, 2, 3] == np.float32(record[1 + 1024 + 2 * 32 + 3]) / np.float32(255)
    assert train.classes[0] == "airplane"
    meta = tmp_path / "cifar-10-batches-bin/batches.meta.txt"
    meta.write_text("\n".join("abcdefghij") + "\n")
    assert load("cifar10", root=tmp_path).classes == tuple("abcdefghij")
    meta.write_text("a\nb\n")
    with pytest.raises(DataError, match="10 class names, got 2"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3073 * 2 - 1), "multiple of 3073 bytes above 0, got 6145"),
        (b"", "got 0 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3072), "record 1: expected a label"),
    ],
)
def test_broken_cifar(tmp_path: Path, content: bytes, message: str) -> None:
    write_cifar(tmp_path, {})
    (tmp_path / "cifar-10-batches-bin/test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("cifar10", root=tmp_path)


def test_digits_are_split_by_class_and_content(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert not {i.split("-")[0] for i in train.ids} & {i.split("-")[0] for i in test.ids}
    assert set(np.bincount(test.labels)) <= set(range(34, 38))
    values, _ = train.batch(range(len(train)))
    assert (values.min(), values.max()) == (0, 1)
    known = load_digits()
    whole = {hashlib.sha256(image).digest() for image in (known.images[:, None] / 16).astype(np.float32)}
    assert {hashlib.sha256(image).digest() for image in [*values, *test.batch(range(360))[0]]} == whole
    table = np.concatenate([known.data, known.target[:, None]], 1).astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
    monkeypatch.setattr(np, "loadtxt", lambda *_, **__: table)
    again = load("digits", "test")
    assert again.sha256 == test.sha256
    assert set(again.ids) == set(test.ids)
    with pytest.raises(DataError, match="'train' or 'test'"):
        load("digits", "all")


def test_npz_by_split_or_whole(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((6, 1, 4, 4)), np.arange(6) % 3
    np.savez(tmp_path / "whole.npz", x=x, y=y, classes=np.array(["a", "b", "c"]))
    whole = load(tmp_path / "whole.npz")
    assert (whole.name, whole.split, whole.classes, len(whole)) == ("whole", "all", ("a", "b", "c"), 6)
    np.savez_compressed(tmp_path / "parts.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    assert len(load(tmp_path / "parts.npz", "train")) == 4
    assert load(str(tmp_path / "parts.npz")).split == "test"
    np.savez(tmp_path / "events.npz", x=np.ones((2, 3, 2, 4, 4), np.uint8), y=np.arange(2))
    assert load(tmp_path / "events.npz").domain == "events-binary"
    assert load(tmp_path / "events.npz", domain="events-count", max_count=7).max_count == 7


FLAG = "TRUSTSNN_TEST_UNPICKLED"


class Trap:
    """Sets a variable of the environment if it is ever unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('os').environ.__setitem__('{FLAG}', '1')",)


def test_a_pickle_in_an_npz_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAG, "0")
    pickle.loads(pickle.dumps(Trap()))
    assert os.environ[FLAG] == "1", "the trap works"
    monkeypatch.setenv(FLAG, "0")
    objects = np.empty(1, object)
    objects[0] = Trap()
    np.savez(tmp_path / "objects.npz", x=objects, y=np.zeros(1, int))
    np.savez(tmp_path / "labels.npz", x=np.zeros((1, 1, 2, 2)), y=objects)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("objects", "labels", "bare"):
        with pytest.raises(UnsafeArtifactError, match=f"{name}.npz"):
            load(tmp_path / f"{name}.npz")
    assert os.environ[FLAG] == "0"


def test_broken_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="no such file"):
        load(path)
    np.savez(path, x=np.zeros((2, 1, 2, 2)), z=np.zeros(2))
    with pytest.raises(DataError, match=r"x_test and y_test, or x and y, got \['x', 'z'\]"):
        load(path)
    np.savez(path, x=np.zeros((2, 1, 2, 2)), y=np.zeros(2, int))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.npz"):
        load(path)
    path.write_bytes(b"x,y\n1,2\n")
    with pytest.raises(DataError, match="zip archive"):
        load(path)
    member = io.BytesIO()
    np.save(member, np.zeros((2, 1, 2, 2)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member.getvalue()[:-8])
        archive.writestr("y.npy", member.getvalue())
    with pytest.raises(DataError, match=r"array x: expected 64 bytes for shape \[2, 1, 2, 2\], got 56"):
        load(path)
    np.savez(path, **{"é": np.zeros(2)})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"whole \.npz file, got 'utf-8'"):
        load(path)


@pytest.mark.parametrize("kind", ["npz", "idx", "idx.gz", "image"])
def test_no_damaged_byte_gives_anything_but_our_own_errors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez_compressed(path, x=np.zeros((2, 1, 2, 2)), y=np.zeros(2, int))
    elif kind == "image":
        path = tmp_path / "set/train/a/0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5)).save(path)
    else:
        path.write_bytes(gzip.compress(CONTENT) if kind == "idx.gz" else CONTENT)
    whole = path.read_bytes()
    draw = np.random.default_rng(4)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.integers(1, 4)):
            damaged[draw.integers(len(damaged))] = draw.integers(256)
        path.write_bytes(bytes(damaged[: draw.integers(len(damaged))] if draw.random() < 0.3 else damaged))
        try:
            if kind.startswith("idx"):
                read_idx(path, 3)
            else:
                load(path if kind == "npz" else tmp_path / "set", "train")
        except (DataError, UnsafeArtifactError):
            refused += 1
    assert refused > 30


def write_images(root: Path, classes: dict[str, int], mode: str = "L", suffix: str = "png", seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            shape = (6, 5) if mode == "L" else (6, 5, 3)
            Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{i}.{suffix}")


def test_a_folder_of_images_is_split_by_content(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 10, "ant": 15})
    (tmp_path / "set/cat/notes.txt").write_text("ignored")
    train, test = load(tmp_path / "set", "train"), load(tmp_path / "set", "test")
    assert (len(train), len(test)) == (20, 5)
    assert np.bincount(test.labels).tolist() == [3, 2]
    assert test.classes == ("ant", "cat")
    assert test.sample_shape == (1, 6, 5)
    for i, path in enumerate(sorted((tmp_path / "set/ant").glob("*.png"))):
        path.rename(path.with_name(f"z{99 - i}.png"))
    assert set(load(tmp_path / "set", "test").ids) == set(test.ids)


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 3, "b": 2}, "RGB", "bmp")
    write_images(tmp_path / "test", {"b": 2}, "RGB", "bmp", seed=1)
    test = load(str(tmp_path), "test")
    assert (len(load(str(tmp_path), "train")), len(test)) == (5, 2)
    assert test.labels.tolist() == [1, 1]
    assert test.sample_shape == (3, 6, 5)
    first = np.asarray(Image.open(tmp_path / "test/b/0.bmp")).transpose(2, 0, 1)
    np.testing.assert_array_equal(test.batch([0])[0][0], first.astype(np.float32) / np.float32(255))


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"a": 5, "b": 5})
    Image.new("RGB", (5, 6), (255, 0, 0)).save(tmp_path / "set/a/red.png")
    assert load(tmp_path / "set", "train").sample_shape == (3, 6, 5)


def test_broken_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "set", {"a": 5, "b": 5})
    victim = tmp_path / "set/b/2.png"
    whole = victim.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2], whole[:50]):
        victim.write_bytes(content)
        with pytest.raises(DataError, match=r"set/b/2\.png: expected a whole, readable image"):
            load(tmp_path / "set")
    Image.new("L", (5, 7)).save(victim)
    with pytest.raises(DataError, match=r"b/2\.png: expected the size of .*\(6, 5\).*got \(7, 5\)"):
        load(tmp_path / "set")
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(victim)
    with pytest.raises(DataError, match=r"b/2\.png: expected an image of 8 bits"):
        load(tmp_path / "set")
    Image.new("L", (40, 50)).save(victim)
    monkeypatch.setattr(folder, "PIXELS", 1999)
    with pytest.raises(DataError, match=r"b/2\.png: expected at most 1999 pixels, got 40 x 50"):
        load(tmp_path / "set")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(DataError, match=r"b/2\.png: expected at most 1999 pixels"):
        load(tmp_path / "set")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "set/a").mkdir(parents=True)
    with pytest.raises(DataError, match="images in"):
        load(tmp_path / "set")


def test_the_real_mnist() -> None:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("TRUSTSNN_DATA") or shared)
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"needs MNIST below TRUSTSNN_DATA or {shared}")
    data = load("mnist", "test", root=root)
    assert len(data) == 10_000
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    events = load("events:mnist", "test", root=root).take(20)
    values, _ = events.batch(range(20))
    assert values.shape == (20, 10, 2, 34, 34)
    assert 0.02 < values.mean() < 0.3
