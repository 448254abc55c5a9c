"""Names, paths and callables that `load` resolves."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest

from trustsnn import plugins
from trustsnn.data import from_arrays, load, names, registry
from trustsnn.errors import DataError

CODE = """
import numpy as np
from trustsnn.data import from_arrays
def arrays(): return np.zeros((3, 1, 2, 2)), np.arange(3)
def split_arrays(split, **more):
    n = 2 if split == "test" else 5
    return np.zeros((n, 1, 2, 2)), np.zeros(n, int)
def events(): return np.ones((2, 3, 2, 4, 4)), np.arange(2)
def made(root): return from_arrays(np.zeros((3, 1, 2, 2)), np.arange(3), name=str(root))
def wrong(): return 7
def fails(): raise KeyError("mine")
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "trustsnn_test_sets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trustsnn_test_sets", raising=False)
    return "trustsnn_test_sets"


def test_every_bundled_name_has_a_line_and_a_loader() -> None:
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "events:digits", "events:mnist"} <= set(names())
    assert all(names().values())
    for name in registry.DATASETS.bundled:
        assert callable(registry.DATASETS.load(name))


def test_an_unknown_name_lists_the_known_ones_and_a_close_one() -> None:
    with pytest.raises(DataError, match=r"digits, mnist, .*got 'minst'\. Did you mean 'mnist'\?"):
        load("minst")
    with pytest.raises(DataError, match="must exist at that path"):
        load("./no/such/folder")
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        load("events:digit")


def test_root_is_the_argument_then_the_variable_then_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTSNN_DATA", "from-variable")
    assert registry.data_root("given") == Path("given")
    assert registry.data_root() == Path("from-variable")
    monkeypatch.delenv("TRUSTSNN_DATA")
    assert registry.data_root() == Path.home() / ".cache/trustsnn/data"


def test_callables(module: str, tmp_path: Path) -> None:
    data = load(f"{module}:arrays", "train")
    assert (data.name, data.split, len(data)) == (f"{module}:arrays", "all", 3)
    assert (len(load(f"{module}:split_arrays", "train")), load(f"{module}:split_arrays").split) == (5, "test")
    assert load(f"{module}:events").domain == "events-binary"
    assert load(f"{module}:made", root=tmp_path).name == str(tmp_path)
    assert load(f"events:{module}:arrays").name == f"events:{module}:arrays"
    with pytest.raises(DataError, match=r"expected a Dataset or \(x, y\), got int"):
        load(f"{module}:wrong")
    with pytest.raises(DataError, match="something to call"):
        load(f"{module}:number")
    with pytest.raises(DataError, match="a name nothing"):
        load(f"{module}:nothing")
    with pytest.raises(DataError, match="importable module no_such_module_here"):
        load("no_such_module_here:arrays")
    with pytest.raises(KeyError, match="mine"):
        load(f"{module}:fails")


def test_an_installed_package_plugs_in(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("pack/set", f"{module}:split_arrays", "trustsnn.datasets"),
        importlib.metadata.EntryPoint("mnist", f"{module}:arrays", "trustsnn.datasets"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "trustsnn.datasets" else [])
    assert module not in sys.modules
    assert "pack/set" in names()
    assert not names()["mnist"].startswith("plug-in"), "a bundled name cannot be taken over"
    assert module not in sys.modules, "listing imports nothing"
    data = load("pack/set", "train")
    assert (data.name, data.split, len(data)) == ("pack/set", "train", 5)


def test_a_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits" / "a").mkdir(parents=True)
    assert len(load("digits")) == 360
    with pytest.raises(DataError, match="images in"):
        load("./digits")


def test_ids_of_a_file_and_of_arrays_are_the_same(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 3), dtype=np.uint8), np.arange(4)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    assert load(tmp_path / "a.npz").ids == from_arrays(x, y).ids
