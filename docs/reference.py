"""The reference of the Python interface as pages in site/, by pdoc: `make docs`.

pdoc sees no name that a package imports on first use (PEP 562); so each public name is looked up before it begins.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pdoc
from pdoc.extract import walk_specs


def main() -> None:
    """Write the pages."""
    for found in walk_specs(["trustsnn"]):
        module = import_module(found)
        for name in getattr(module, "__all__", ()):
            setattr(module, name, getattr(module, name))
    pdoc.pdoc("trustsnn", output_directory=Path(__file__).parent.parent / "site")


if __name__ == "__main__":
    main()
