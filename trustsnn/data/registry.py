"""Data sets by name. Imports nothing heavy: `names()` must be quick, so a loader is imported when it is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trustsnn.data.problems import problem
from trustsnn.errors import DataError
from trustsnn.plugins import Catalogue, Entry

if TYPE_CHECKING:
    from trustsnn.data.dataset import Dataset, Domain

DATASETS = Catalogue(
    "data set",
    "trustsnn.datasets",
    {  # loaders, called with (split, root, download)
        "digits": Entry("trustsnn.data.digits:digits", "scikit-learn's digits, 8 x 8, embedded: 1,437 train + 360 test"),
        "mnist": Entry("trustsnn.data.idx:mnist", "MNIST, 28 x 28: 60,000 train + 10,000 test (IDX files)"),
        "fashion-mnist": Entry(
            "trustsnn.data.idx:fashion_mnist", "Fashion-MNIST, 28 x 28: 60,000 train + 10,000 test (IDX files)"
        ),
        "cifar10": Entry("trustsnn.data.cifar:cifar10", "CIFAR-10, 3 x 32 x 32, binary version: 50,000 train + 10,000 test"),
        "cancer": Entry(
            "trustsnn.data.tabular:cancer", "Breast cancer Wisconsin, a table of 30 measures, embedded: 380 train + 189 test"
        ),
    },
)


def names() -> dict[str, str]:
    """Every name that `load` knows, with one line about it."""
    events = {
        base: f"{base} seen by a simulated event camera (events: works with every image data set)" for base in ("digits", "mnist")
    }
    return DATASETS.describe() | {f"events:{base}": line for base, line in events.items()}


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data files lie: the argument, else the variable TRUSTSNN_DATA, else ~/.cache/trustsnn/data."""
    chosen = root or os.environ.get("TRUSTSNN_DATA") or Path("~", ".cache", "trustsnn", "data")
    return Path(chosen).expanduser()


def load(
    name_or_path: str | os.PathLike[str],
    split: str = "test",
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    frames: int = 10,
    counts: bool = False,
    domain: Domain | None = None,
    max_count: int | None = None,
) -> Dataset:
    """The data set of a name (`names()`), 'events:NAME', an .npz file, a folder of images, or 'package.module:callable'.

    A name wins over a file or folder of the same name: write './mnist' for a folder. `split` is 'train' or 'test'.
    `root`: see `data_root`. `download` allows fetching what is missing; nothing else uses the network.
    `frames` and `counts` are for 'events:' (frames of 0 and 1 unless `counts`); `domain` and `max_count` say what the
    arrays of an .npz or a callable hold, where it is not clear from their shape.

    Raises DataError for an unknown name, missing or broken data; UnsafeArtifactError for an .npz that holds a pickle.
    """
    text = os.fspath(name_or_path)
    place = data_root(root)
    if text.startswith("events:"):
        from trustsnn.data.event_frames import events_of

        source = load(text.removeprefix("events:"), split, root=root, download=download, domain=domain, max_count=max_count)
        return events_of(source, frames, counts=counts)
    if text in DATASETS.bundled:
        return DATASETS.load(text)(split, place, download)  # type: ignore[no-any-return]
    if "/" in text and text in DATASETS.describe():
        from trustsnn.data.plugin import from_callable

        return from_callable(DATASETS.load(text), text, split, root=place, download=download, domain=domain, max_count=max_count)
    path = Path(text).expanduser()
    if path.suffix == ".npz":
        from trustsnn.data.npz import load_npz

        return load_npz(path, split, domain=domain, max_count=max_count)
    if path.is_dir():
        from trustsnn.data.folder import load_folder

        return load_folder(path, split)
    module, colon, function = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
        from trustsnn.data.plugin import from_callable, import_callable

        made = import_callable(module, function)
        return from_callable(made, text, split, root=place, download=download, domain=domain, max_count=max_count)
    raise _unknown(text)


def splits(
    name_or_path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, download: bool = False, frames: int = 1
) -> dict[str, Dataset]:
    """The training and the test split as `load` gives them; of one set for both, a fifth is held out."""
    from trustsnn.data.split import stratified

    sets = {split: load(name_or_path, split, root=root, download=download, frames=frames) for split in ("train", "test")}
    if sets["train"].split == sets["test"].split:
        sets = {split: stratified(sets[split], split, max(1, len(sets[split]) // 5)) for split in sets}
    return sets


def _unknown(text: str) -> DataError:
    from difflib import get_close_matches

    known = list(names())
    close = get_close_matches(text, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "A folder of images or an .npz file must exist at that path."
    expected = f"one of {', '.join(known)}, an existing folder, an .npz file or package.module:callable"
    return problem("data set", expected, repr(text), hint)
