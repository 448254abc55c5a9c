"""Data sets that other people's code makes: 'package.module:callable' and entry points."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from trustsnn.data.arrays import from_arrays, to_numpy
from trustsnn.data.dataset import Dataset, Domain
from trustsnn.data.npz import infer_domain
from trustsnn.data.problems import problem


def import_callable(module: str, function: str) -> Callable[..., Any]:
    """The callable that 'module:function' names. Raises DataError where it cannot be imported or called."""
    where = f"data set '{module}:{function}'"
    try:
        made: Any = import_module(module)
        for part in function.split("."):
            made = getattr(made, part)
    except ModuleNotFoundError as error:
        mend = "Install the package, or put its folder on PYTHONPATH."
        raise problem(where, f"an importable module {module}", error, mend) from error
    except AttributeError as error:
        raise problem(where, f"a name {function} in {module}", error, "Check the spelling.") from error
    if not callable(made):
        raise problem(where, "something to call", type(made).__name__, "Name a function that returns (x, y).")
    return made  # type: ignore[no-any-return]


def from_callable(
    made: Callable[..., Any],
    name: str,
    split: str,
    *,
    root: Path,
    download: bool = False,
    domain: Domain | None = None,
    max_count: int | None = None,
) -> Dataset:
    """Call `made` with those of split, root and download that it takes; it returns a Dataset or (x, y).

    A callable that takes no split holds one set, which is what it gives for every split; its `split` is then 'all'.
    """
    offered = {"split": split, "root": root, "download": download}
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    given = {key: value for key, value in offered.items() if anything or key in taken}
    result = made(**given)
    if isinstance(result, Dataset):
        return result
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise problem(f"data set {name!r}", "a Dataset or (x, y)", type(result).__name__, "Return the two arrays.")
    x, y = to_numpy(result[0], name), result[1]
    return from_arrays(
        x,
        y,
        name=name,
        split=split if "split" in given else "all",
        domain=domain or infer_domain(x),
        max_count=max_count,
    )
