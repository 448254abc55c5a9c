"""What a reader should know of a wrapped module: findings that cast no doubt on a figure, and what state a forward leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trustsnn.interop.frameworks import bases

TOLERANCE = 1e-4  # as a share of the largest logit

Attributes = Mapping[str, tuple[Any, int]]


def state_kept(difference: float | None) -> list[dict[str, Any]]:
    """Finding where the module, used without a reset, gives other logits at the second forward than at the first (`difference`, as
    a share of the largest logit), or fails there (None)."""
    if difference is not None and difference <= TOLERANCE:
        return []
    how = "fails" if difference is None else f"gives other logits, by up to {difference:.2g} of the largest one"
    return [
        _note(
            "state-kept",
            f"The module keeps its state from one forward to the next: called twice on the same samples without a reset in between, "
            f"it {how} the second time. trustsnn resets it before every forward, and every figure here is of the module so reset. "
            "Whoever deploys it has to reset it too.",
            {"largest_relative_difference": difference},
            TOLERANCE,
        )
    ]


def surrogate_kept(names: Sequence[str]) -> list[dict[str, Any]]:
    """Finding where spiking layers, by their names, keep their own surrogate in every attack."""
    if not names:
        return []
    return [
        _note(
            "surrogate-kept",
            f"trustsnn does not know how {len(names)} spiking layers of this module fire ({', '.join(names[:5])}): attacks through "
            "another surrogate replace that of the other layers alone, and their spikes are not counted.",
            {"layers": len(names)},
            None,
        )
    ]


def _note(kind: str, message: str, evidence: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    source = "trustsnn model contract"
    return {"type": kind, "message": message, "evidence": evidence, "threshold": threshold, "source": source, "doubt": False}


def attributes(module: nn.Module) -> Attributes:
    """The public attributes and buffers of every part of `module` that is not a framework's, each with how often it was written
    to in place."""
    return {
        f"{name}.{key}".lstrip("."): (value, value._version if isinstance(value, Tensor) else 0)
        for name, part in module.named_modules()
        if not bases(part)
        for key, value in [*vars(part).items(), *part._buffers.items()]
        if not key.startswith("_")
    }


def changed(before: Attributes, after: Attributes) -> list[str]:
    """The names whose value is another object, or was written to."""
    missing = (None, -1)
    names = sorted(before.keys() | after.keys())
    pairs = [(name, before.get(name, missing), after.get(name, missing)) for name in names]
    return [name for name, old, new in pairs if old[0] is not new[0] or old[1] != new[1]]
