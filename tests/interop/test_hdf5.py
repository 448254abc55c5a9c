"""The bounded HDF5 reader: what h5py writes, what we write, and files that lie.

`python tests/interop/test_hdf5.py` writes the files of h5py under `data/` again; `... measure` prints what refusals take.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.interop import hdf5, hdf5_writer

DATA = Path(__file__).parent / "data"
MEMORY = 200 << 20
TREE = {"a": np.arange(6.0).reshape(2, 3), "s": "hëllo", "g": {"e": np.array([["a", "bb"], ["c", "d"]]), "n": np.int64(4)}}


def read_bounded(content):
    """The members of the file, or None where it is refused; nothing else may happen, and not in more than 200 MB."""
    tracemalloc.start()
    try:
        return hdf5.parse(content, "file").members
    except UnsafeArtifactError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY


def changed(content, old, new, count=1):
    assert content.count(old) >= 1, "the file has no such bytes"
    return content.replace(old, new, count)


def test_a_file_of_h5py_is_read():
    file = hdf5.read(DATA / "h5py.h5")
    assert file.attributes["note"] == "fixed"
    assert file.attributes["dt"] == 0.25
    found = file.members
    assert found["variable"] == "hëllo"
    assert found["fixed"].tolist() == ["a", "bb"]
    assert found["pairs"].tolist() == [["a", "b"], ["c", "dd"]]
    assert found["truth"].tolist() == [True, False]
    for name, kind in (("f2", "f2"), ("f4", "f4"), ("f8", "f8"), ("big", "f4"), ("i1", "i1"), ("u8", "u8")):
        assert found["numbers"].members[name].dtype == np.dtype(kind)
        assert found["numbers"].members[name].tolist() == [0, 1, 2, 3, 4]
    for name in ("contiguous", "chunked", "gzip", "shuffled"):  # chunks of 3 x 4 hang over at the border
        assert np.array_equal(found["stored"].members[name], np.arange(70).reshape(7, 10))
    assert found["stored"].members["compact"].tolist() == [7, 8]
    assert found["scalar"].shape == ()
    assert found["empty"].shape == (0, 3)
    assert len(found["many"].members) == 50  # more than one symbol node
    assert found["deep"].members["a"].members["b"].members["c"].members == {}


trees = st.recursive(
    st.one_of(
        arrays.arrays(st.sampled_from([np.float32, np.float64, np.int64]), arrays.array_shapes(min_dims=0, max_side=3)),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    ),
    lambda members: st.dictionaries(st.text("abcé. ", min_size=1, max_size=5), members, max_size=12),
    max_leaves=20,
).filter(lambda tree: isinstance(tree, dict))


def same(group, tree):
    assert set(group.members) == set(tree)
    for name, member in tree.items():
        got = group.members[name]
        if isinstance(member, dict):
            same(got, member)
        elif isinstance(member, str):
            assert got == member
        else:
            assert got.dtype == member.dtype
            assert np.array_equal(got, member, equal_nan=member.dtype.kind == "f")


@settings(max_examples=30, deadline=None)
@given(trees)
def test_what_is_written_is_read(tree):
    same(hdf5.parse(hdf5_writer.encode(tree), "file"), tree)


@pytest.mark.parametrize("name", ["snntorch.nir", "h5py.h5", "ours"])
def test_flipped_bytes_are_read_or_refused(name):
    good = hdf5_writer.encode(TREE) if name == "ours" else (DATA / name).read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(700):
        content = bytearray(good)
        for _ in range(draw.choice([1, 1, 4])):  # most of the bytes of weights say nothing: flip more of the structures
            content[draw.randrange(len(content) if draw.random() < 0.5 else min(len(content), 4096))] = draw.randrange(256)
        try:
            hdf5.parse(bytes(content), "file")
        except UnsafeArtifactError:
            refused += 1
    assert 50 < refused < 700


@pytest.mark.parametrize("name", ["snntorch.nir", "h5py.h5"])
def test_truncated_files_are_refused(name):
    good = (DATA / name).read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(good), 1997)]:
        with pytest.raises(UnsafeArtifactError):
            hdf5.parse(good[:size], "file")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused(content, signed):
    assert read_bounded((hdf5.MAGIC if signed else b"") + content) is None


def nested(depth):
    """A file of groups in groups, built from the inside without recursion."""
    content = bytearray(96)

    def add(block):
        content.extend(block + bytes(-len(block) % 8))
        return len(content) - len(block) - (-len(block) % 8)

    child = None
    for _ in range(depth):
        heap = add(struct.pack("<4sB3xQQQ", b"HEAP", 0, 16, 1, len(content) + 32) + b"\0" * 8 + b"g" + b"\0" * 7)
        entry = struct.pack("<QQII16x", 8, child, 0, 0) if child is not None else b""
        symbols = add(struct.pack("<4sBBH", b"SNOD", 1, 0, bool(entry)) + entry)
        tree = add(struct.pack("<4sBBHQQQQQ", b"TREE", 0, 0, 1, hdf5.NOWHERE, hdf5.NOWHERE, 0, symbols, 8))
        child = add(struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 0x11, 16, 0, tree, heap))
    start = hdf5.MAGIC + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    content[:96] = start + struct.pack("<6Q24x", 0, hdf5.NOWHERE, len(content), hdf5.NOWHERE, 0, child)
    return bytes(content)


def test_nesting_is_read_up_to_its_bound():
    assert read_bounded(nested(hdf5.DEEPEST)) is not None
    assert read_bounded(nested(hdf5.DEEPEST + 2)) is None


def claims_ten_gigabytes():
    """The array of 2 x 3 float64 says that it is 2 x 625,000,000, and its layout says as many bytes."""
    content = changed(hdf5_writer.encode(TREE), struct.pack("<QQ", 2, 3), struct.pack("<QQ", 2, 625_000_000))
    return changed(content, struct.pack("<Q", 48), struct.pack("<Q", 10_000_000_000))


def zeros(values):
    """A file of h5py whose one chunk inflates to 4 MB, and which says that it is so many float32."""
    content = changed((DATA / "zeros.h5").read_bytes(), struct.pack("<Q", 1_000_000), struct.pack("<Q", values), 2)
    return changed(content, struct.pack("<II", 1_000_000, 4), struct.pack("<II", values, 4))


def in_a_circle():
    """The group g is its own member: the address of one of its data sets is that of its header."""
    content = hdf5_writer.encode({"g": {"x": np.zeros(1)}})
    groups = [
        at for at in range(96, len(content) - 8, 8) if content[at : at + 1] == b"\1" and content[at + 16 : at + 18] == b"\x11\0"
    ]
    data = [at for at in range(96, len(content) - 8, 8) if content[at : at + 8] == struct.pack("<BBHI", 1, 0, 4, 1)]
    return changed(content, struct.pack("<QQ", 8, data[0]), struct.pack("<QQ", 8, groups[0]))


def overlapping():
    """Two data sets whose values lie in the same place."""
    content = hdf5_writer.encode({"x": np.full(2, 1.5), "y": np.full(2, 2.5)})
    x, y = (content.index(struct.pack("<d", v)) for v in (1.5, 2.5))
    return changed(content, struct.pack("<QQ", y, 16), struct.pack("<QQ", x + 8, 16))


def outside():
    content = hdf5_writer.encode({"x": np.full(2, 1.5)})
    at = content.index(struct.pack("<d", 1.5))
    return changed(content, struct.pack("<QQ", at, 16), struct.pack("<QQ", len(content) - 8, 16))


def wrong_shape():
    """Six values of which the shape says there are 2 x 4."""
    return changed(hdf5_writer.encode(TREE), struct.pack("<QQ", 2, 3), struct.pack("<QQ", 2, 4))


def crowded():
    """More members than any group may have."""
    return hdf5_writer.encode({f"{number:05}": "" for number in range(40_000)})


def heap_without_ends():
    """A name that is longer than any may be."""
    return hdf5_writer.encode({"x" * 1200: np.zeros(1)})


HOSTILE = [
    (claims_ten_gigabytes, "a claim of [2, 625000000] values"),
    (lambda: zeros(250_000_000), "a claim of [250000000] values"),
    (lambda: zeros(1000), "inflates to more than its shape"),
    (lambda: zeros(2_000_000), "a chunk of 4,000,000 bytes for [2000000] values"),
    (in_a_circle, "links in a circle"),
    (overlapping, "two structures in the same place"),
    (outside, "an address outside of its"),
    (wrong_shape, "48 bytes for [2, 4] values of 8 bytes"),
    (lambda: nested(10_000), "groups more than 64 deep"),
    (crowded, "more than 60,000 parts"),
    (heap_without_ends, "does not fit its place"),
    (lambda: changed(hdf5_writer.encode(TREE), b"TREE", b"TREF"), "in place of b'TREE'"),
    (lambda: hdf5_writer.encode(TREE)[:-1], "bytes of the"),
    (lambda: b"\x80\x04\x95" + bytes(200), "in place of"),
]


@pytest.mark.parametrize(("make", "message"), HOSTILE)
def test_hostile_files_are_refused(make, message):
    content = make()
    with pytest.raises(UnsafeArtifactError) as error:
        hdf5.parse(content, "file")
    assert message in str(error.value)
    assert read_bounded(content) is None


def test_what_compresses_well_is_read():
    assert hdf5.parse(zeros(1_000_000), "file").members["x"].shape == (1_000_000,)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.nir"):
        hdf5.read(tmp_path / "nothing.nir")


def measured():
    """Print how long each hostile file takes to be refused, and the most memory that it takes."""
    for make, message in HOSTILE:
        content = make()
        begun = time.perf_counter()
        with contextlib.suppress(UnsafeArtifactError):
            hdf5.parse(content, "file")
        seconds = time.perf_counter() - begun
        tracemalloc.start()
        with contextlib.suppress(UnsafeArtifactError):
            hdf5.parse(content, "file")
        print(f"{message}: {len(content):,} bytes, {1e3 * seconds:.1f} ms, {tracemalloc.get_traced_memory()[1] / 1e6:.2f} MB")  # noqa: T201
        tracemalloc.stop()


def main():
    """Write the files of h5py under `data/` again."""
    import h5py

    with h5py.File(DATA / "h5py.h5", "w") as file:
        file.attrs["note"], file.attrs["dt"] = "fixed", 0.25
        file["variable"] = "hëllo"
        file.create_dataset("fixed", data=np.array([b"a", b"bb"]))
        file["pairs"] = [("a", "b"), ("c", "dd")]
        file["truth"] = np.array([True, False])
        for name, kind in (("f2", "<f2"), ("f4", "<f4"), ("f8", "<f8"), ("big", ">f4"), ("i1", "i1"), ("u8", "<u8")):
            file[f"numbers/{name}"] = np.arange(5).astype(kind)
        table = np.arange(70).reshape(7, 10)
        for name, options in (
            ("contiguous", {}),
            ("chunked", {"chunks": (3, 4)}),
            ("gzip", {"chunks": (3, 4), "compression": "gzip"}),
            ("shuffled", {"chunks": (3, 4), "compression": "gzip", "shuffle": True}),
        ):
            file.create_dataset(f"stored/{name}", data=table, **options)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2,))
        compact = h5py.h5d.create(file["stored"].id, b"compact", h5py.h5t.NATIVE_INT32, space, creation)
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([7, 8], np.int32))
        file["scalar"] = 2.5
        file.create_dataset("empty", shape=(0, 3), dtype="f4")
        for number in range(50):
            file[f"many/{number}"] = number
        file.create_group("deep/a/b/c")
    with h5py.File(DATA / "zeros.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(1_000_000, np.float32), chunks=(1_000_000,), compression="gzip")


if __name__ == "__main__":
    measured() if sys.argv[1:] == ["measure"] else main()
