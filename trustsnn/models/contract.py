"""The model contract, tested: logits [B, K], finite, and a function of the input alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.rng import Draws

_TOLERANCE = 1e-4


def _logits(model: nn.Module, x: Tensor, ids: tuple[str, ...]) -> Tensor:
    stochastic = getattr(getattr(model, "spec", None), "stochastic", False)
    with torch.no_grad():
        return model(x, generator=Draws(0, "contract", ids)) if stochastic else model(x)  # type: ignore[no-any-return]


def _written(x: Tensor) -> dict[str, Any]:
    low, high = float(x.min()), float(x.max())
    return {
        "type": "contract-input",
        "message": f"The model's forward writes into its input: after one call the batch of its caller held values in "
        f"[{low:.4g}, {high:.4g}]. Clean and attacked samples change under way, and no figure below can be trusted. Let forward "
        "work on a copy (x = x * scale instead of x.mul_(scale)).",
        "evidence": {"lowest_value": low, "highest_value": high},
        "threshold": 0,
        "source": "trustsnn model contract",
    }


def check_contract(model: nn.Module, x: Tensor, classes: int) -> list[dict[str, Any]]:
    """Findings on a model, each with type, message and evidence; an empty list where the contract holds.

    A forward that writes into its input is one, since the batch of whoever called it then leaves the domain. Further runs the
    same batch twice, split in two and reversed, at equal batch shape (the rest is padded with zeros), so that what differs is
    state or randomness and not the arithmetic of another shape. Run it on one block.

    Raises:
        ModelContractError: the model gives no finite logits of shape [B, classes], so that nothing can be evaluated.
    """
    ids = tuple(f"contract-{i}" for i in range(len(x)))
    given, x = x, x.clone()
    try:
        first = _logits(model, x, ids)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError) as error:
        raise ModelContractError(
            f"The model failed on {len(x)} clean samples of shape {list(x.shape[1:])}, {x.dtype}: {type(error).__name__}: {error}"
        ) from error
    if first.shape != (len(x), classes):
        raise ModelContractError(
            f"Expected logits of shape [{len(x)}, {classes}] from forward, got {list(first.shape)}. Wrap a model that gives "
            "something else in a module that returns logits, or pass its number of classes."
        )
    if not torch.isfinite(first).all():
        raise ModelContractError("Expected finite logits, got NaN or infinity on clean inputs.")
    if not torch.equal(x, given):
        return [_written(x)]
    scale = float(first.abs().max()) + 1e-12
    half = max(1, len(x) // 2)
    back = torch.arange(len(x) - 1, -1, -1)
    padded = torch.cat([x[:half], torch.zeros_like(x[half:])])
    variants = {
        "repeat": (x, ids, first, "the same batch twice gives different logits"),
        "split": (padded, ids, first[:half], "a sample's logits depend on the other samples of its batch"),
        "order": (x[back], ids[::-1], first[back], "a sample's logits depend on its place in the batch"),
    }
    findings = []
    for name, (batch, batch_ids, expected, what) in variants.items():
        try:
            again = _logits(model, batch, batch_ids)[: len(expected)]
            difference = float((again - expected).abs().max()) / scale
        except RuntimeError as error:
            difference, what = float("nan"), f"a second forward fails ({error})"
        if not difference <= _TOLERANCE:
            findings.append(
                {
                    "type": f"contract-{name}",
                    "message": f"Without any attack, {what}: the model keeps state between forwards or draws at random. "
                    "No figure below can be trusted.",
                    "evidence": {"largest_relative_difference": difference if difference == difference else "not a number"},
                    "threshold": _TOLERANCE,
                    "source": "Carlini 2019, section 3; trustsnn model contract",
                }
            )
    return findings
