"""trustsnn: attack, harden and report on spiking neural networks before they are deployed.

Names are loaded on first use, so that `import trustsnn` and `trustsnn --help` do not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustsnn.version import __version__

# In a checkout the folder trustsnn/ shadows an installed package. The sibling floors attacks/, defenses/,
# federated/ and reports/ are mapped under this name by the build; here the same is done by path.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "attacks").is_dir():
    __path__.append(str(_root))

_FACE = {
    "audit": "trustsnn.runners.audit",
    "load": "trustsnn.checkpoint",
    "save": "trustsnn.checkpoint",
    "wrap": "trustsnn.interop.wrap",
}
_PACKAGES = (
    "attacks", "conversion", "data", "defenses", "encoders", "errors", "federated", "language", "models", "neurons", "reports",
    "temporal", "training",
)  # fmt: skip

__all__ = ["__version__", *_FACE, *_PACKAGES]

if TYPE_CHECKING:
    from trustsnn.checkpoint import load as load
    from trustsnn.checkpoint import save as save
    from trustsnn.interop.wrap import wrap as wrap
    from trustsnn.runners.audit import audit as audit


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(import_module(_FACE[name]), name)
    if name in _PACKAGES:
        return import_module(f"trustsnn.{name}")
    raise AttributeError(f"module 'trustsnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
