"""Every evaluation of a model in blocks of one fixed shape, so that a figure does not depend on the batch size.

Convolutions and matrix products of another batch size add in another order; the last bit of a membrane then differs, a
spike flips, and a robust accuracy moves. So a batch of any size is cut into blocks of `BLOCK` samples, the last one
padded with zeros: a sample's result is the same bits in whatever company it comes. A model that says of itself that its
samples are `independent` has that without padding, and its blocks are as large as the memory budget lets them be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.models.spec import Trace
from trustsnn.neurons.estimator import follow, mean_over_time
from trustsnn.rng import Draws

BLOCK = 32

Loss = Callable[[Tensor, Tensor], Tensor]


def is_stochastic(model: nn.Module) -> bool:
    """Whether the model draws at random in a forward pass, by its spec."""
    return bool(getattr(getattr(model, "spec", None), "stochastic", False))


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Inside: eval mode. After: every module in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside: eval mode and no parameter needs a gradient. After: every module and parameter as it was. A model with a
    `fixed` context of its own (see `SpikingNetwork.fixed`) is in it."""
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    fixed: Any = getattr(model, "fixed", nullcontext)
    try:
        for parameter, _ in needs:
            parameter.requires_grad_(False)
        with evaluated(model), fixed():
            yield
    finally:
        for parameter, need in needs:
            parameter.requires_grad_(need)


def _blocks(model: nn.Module, x: Tensor, draws: Draws | None) -> Iterator[tuple[slice, Tensor, Draws | None]]:
    independent = bool(getattr(model, "independent", False))
    size = min(BLOCK, getattr(model, "affordable", BLOCK)) if independent else BLOCK
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        block = x[rows]
        here = draws.select(range(rows.start, rows.stop)) if draws is not None else None
        if len(block) < BLOCK and not independent:
            here = here.padded(BLOCK) if here is not None else None
            block = torch.cat([block, block.new_zeros((BLOCK - len(block), *block.shape[1:]))])
        yield rows, block, here


def _forward(model: nn.Module, block: Tensor, draws: Draws | None) -> Tensor:
    if not is_stochastic(model):
        logits = model(block)
    elif draws is None:
        raise ModelContractError("A stochastic model is evaluated with explicit draws; none were given.")
    else:
        logits = model(block, generator=draws)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(block):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelContractError(f"Expected logits [{len(block)}, K] from forward, got {got}.")
    return logits


def predict(model: nn.Module, x: Tensor, draws: Draws | None = None) -> Tensor:
    """Logits [B, K] without gradients. Call inside `frozen(model)`."""
    with torch.no_grad():
        return torch.cat([_forward(model, b, d)[: s.stop - s.start] for s, b, d in _blocks(model, x, draws)])


def _numbered(ids: Sequence[str]) -> list[tuple[str, int]]:
    """Each id with how often it came before: equal samples have equal ids, and are two samples all the same."""
    seen: Counter[str] = Counter()
    names = []
    for name in ids:
        names.append((name, seen[name]))
        seen[name] += 1
    return names


class InputGradient(NamedTuple):
    """Logits [B, K], losses [B], and the gradient of each sample's loss: `direction` [B, ...] times `scale` [B] (double).

    The loss is differentiated to the logits in double precision and scaled there to a largest entry of 1, because the
    gradient of a confident model's loss would underflow to zero on its way back through a float32 network.
    """

    logits: Tensor
    losses: Tensor
    direction: Tensor
    scale: Tensor


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss, draws: Draws | None = None) -> InputGradient:
    """The gradient of `loss(logits, y)`, one value a sample, with respect to `x`. Call inside `frozen(model)`.

    The ids of `draws` tell a gradient estimator that keeps statistics which samples these are.
    """
    names = _numbered(draws.ids) if draws is not None else []
    logits, losses, scales, direction = [], [], [], torch.zeros_like(x)
    for rows, block, here in _blocks(model, x, draws):
        leaf = block.detach().clone().requires_grad_()
        count = rows.stop - rows.start
        output = _forward(model, leaf, here)
        top = output[:count].detach().double().requires_grad_()
        value = loss(top, y[rows])
        (to_logits,) = torch.autograd.grad(value.sum(), top)
        scale = to_logits.abs().amax(1)
        if output.requires_grad:
            seed = torch.zeros_like(output)
            if draws is not None:
                follow(model, [*names[rows], *[None] * (len(block) - count)])
            seed[:count] = (to_logits / torch.where(scale > 0, scale, 1.0)[:, None]).to(output.dtype)
            (found,) = torch.autograd.grad(output, leaf, seed, allow_unused=True)
            if found is not None:
                direction[rows] = found[:count]
        logits.append(output[:count].detach())
        losses.append(value.detach())
        scales.append(scale)
    return InputGradient(torch.cat(logits), torch.cat(losses), direction, torch.cat(scales))


@dataclass(frozen=True)
class Observation:
    """Logits [B, K] of a batch, and for each spiking layer its spikes and its neuron-steps over the batch."""

    logits: Tensor
    spikes: dict[str, tuple[int, int]]


def unrolled(model: nn.Module, x: Tensor, draws: Draws | None = None) -> Iterator[tuple[slice, Trace]]:
    """The rows of each block of `x` with the trace of their forward pass, without gradients. Call inside `frozen(model)`."""
    unroll: Any = model.unroll
    with torch.no_grad():
        for rows, block, here in _blocks(model, x, draws):
            trace = unroll(block, here) if is_stochastic(model) else unroll(block)
            count = rows.stop - rows.start
            counts = {name: counts[:count] for name, counts in trace.spike_counts.items()}
            yield rows, replace(trace, logits=trace.logits[:, :count], spike_counts=counts, membrane=trace.membrane[:, :count])


def observe(model: nn.Module, x: Tensor, draws: Draws | None = None) -> Observation:
    """Logits and spike counts per layer, without gradients. Call inside `frozen(model)`."""
    if getattr(model, "unroll", None) is None:
        return Observation(predict(model, x, draws), {})
    logits: list[Tensor] = []
    spikes: dict[str, tuple[int, int]] = {}
    for _, trace in unrolled(model, x, draws):
        logits.append(mean_over_time(trace.logits))
        for name, counts in trace.spike_counts.items():
            fired, places = spikes.get(name, (0, 0))
            spikes[name] = fired + int(counts.sum(dtype=torch.float64)), places + counts.numel() * trace.steps
    return Observation(torch.cat(logits), spikes)
