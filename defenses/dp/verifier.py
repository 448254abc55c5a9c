"""Whether what counts as the gradients of single samples is just that, and whether one sample moves their clipped sum by at most C."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.defenses.dp.gradients import (
    Gradients,
    Loss,
    PerSample,
    clipped_sum,
    encoded,
    naive_gradients,
    norms,
    per_sample_gradients,
    refuse_unfit_layers,
    trainable,
)  # fmt: skip
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws, stream

TOLERANCE = 1e-5
"""Of the relative error of a gradient, and of the sensitivity above C."""

_ACTIVE = 0.1  # clip by default, as a share of the median norm: below it, so that clipping is at work


@dataclass(frozen=True)
class Verification:
    """What a numerical check of per-sample gradients found.

    error: the largest relative error of a sample's gradient of one parameter against the naive one; infinite where other than one
        gradient a sample came back. where: that parameter.
    sensitivity: the largest move of the clipped sum when a sample is left out, in units of C; at most 1 is right. Infinite where the
        gradients of the others could then not be computed.
    samples: how often a sample was left out, over all batches.
    """

    ok: bool
    error: float
    sensitivity: float
    where: str
    samples: int
    sentence: str


def verify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    gradients: PerSample | None = None,
    loss: Loss = cross_entropy,
    clip: float | None = None,
    batches: int = 3,
    size: int = 6,
    seed: int = 0,
) -> Verification:
    """Prove or refute numerically, in float64, that the gradients of the samples are theirs alone and the sensitivity of their sum is C.

    On random batches, each gradient is held against a forward and backward pass of its sample alone, and each sample of a batch is
    left out once: the clipped sum must move by no more than C. That is what the accountant's eps rests on.

    A buffer that the samples move refutes it as well: what is kept of them there has no noise.

    Args:
        model: any module from [B, ...] to logits [B, K], or one wrapped in Opacus's `GradSampleModule`. It is used in training mode, and
            left as it was, its buffers too, but for a wrapped one that fails in between, which is to be wrapped again.
        x, y: samples and labels to draw batches from; a few dozen are enough.
        gradients: what is verified. By default what Opacus computes for a wrapped model, and `per_sample_gradients` for any other.
        clip: C; by default a tenth of the median norm, so that every gradient is clipped.
        batches, size: how many batches are drawn, and of how many samples.

    Raises:
        ConfigError: the model has batch normalisation, there are too few samples, no gradient reaches its parameters, or those of single
            samples cannot be computed.
    """
    if size < 2 or batches < 1 or len(x) < size:
        raise ConfigError(f"Expected at least 1 batch of at least 2 of the {len(x)} samples, got {batches} of {size}.")
    wrapped: Any = model if hasattr(model, "disable_hooks") and hasattr(model, "loss_reduction") else None
    module: nn.Module = model if wrapped is None else wrapped._module
    refuse_unfit_layers(module)
    if isinstance(module, SpikingNetwork) and module.spec.encoder not in ("direct", "frames"):
        x, module = encoded(module, x, Draws(seed, "verify", tuple(map(str, range(len(x))))))
    if gradients is None:
        gradients = per_sample_gradients if wrapped is None else partial(_by_opacus, wrapped, loss)
        if wrapped is None and loss is not cross_entropy:
            gradients = partial(per_sample_gradients, loss=loss)
    worst, where, sensitivity, rows, tried = -1.0, "", 0.0, size, 0
    with _buffers_kept(module) as moved, _in_double(module), _training(model):
        for batch in range(batches):
            chosen = torch.from_numpy(stream(seed, f"verify/{batch}").permutation(len(x))[:size])
            inputs, labels = x[chosen].double(), y[chosen]
            with _unhooked(wrapped):
                truth = naive_gradients(module, inputs, labels, loss=loss)
            try:
                found = gradients(module, inputs, labels)
            except RuntimeError as problem:
                raise ConfigError(f"The gradients of single samples cannot be computed for this model: {problem}") from problem
            if missing := [name for name in trainable(module) if found.get(name) is None]:
                worst, sensitivity, where = math.inf, math.inf, missing[0]
                break
            rows = max(rows, *(len(g) for g in found.values()))
            for name in trainable(module):
                error = _error(found[name], truth, name)
                worst, where = (error, name) if error > worst else (worst, where)
            bound = clip or _ACTIVE * float(norms(truth).median())
            if bound == 0:
                raise ConfigError("No gradient reaches the parameters from these samples, so that there is nothing to verify.")
            tried += size
            sensitivity = max(sensitivity, _sensitivity(gradients, module, inputs, labels, found, bound))
            if sensitivity == math.inf:
                break
        changed = moved()
    right = worst <= TOLERANCE and sensitivity <= 1 + TOLERANCE
    said = [] if right and changed else [_sentence(right, worst, sensitivity, where, size, rows)]
    if changed:
        said.append(
            f"The samples move the buffer {changed}, which the model keeps and no noise covers: the accountant's eps does not hold."
        )
    return Verification(right and changed is None, worst, sensitivity, where, tried, " ".join(said))


def _error(found: Tensor, truth: Gradients, name: str) -> float:
    right = truth[name]
    if found.shape != right.shape:
        return math.inf
    difference = (found - right).reshape(len(right), -1).norm(dim=1).max()
    scale = max(float(right.reshape(len(right), -1).norm(dim=1).max()), 1e-9 * float(norms(truth).max()))
    error = float(difference) / scale if scale else float(difference)
    return error if math.isfinite(error) else math.inf


def _sensitivity(gradients: PerSample, model: nn.Module, x: Tensor, y: Tensor, whole: Gradients, clip: float) -> float:
    """The largest move of the clipped sum of a batch when one of its samples is left out, in units of C."""
    largest = 0.0
    for left_out in range(len(x)):
        kept = [i for i in range(len(x)) if i != left_out]
        try:
            rest = gradients(model, x[kept], y[kept])
        except RuntimeError:  # state of a batch that is gone
            return math.inf
        largest = max(largest, _moved(whole, rest, clip) / clip)
    return largest


def _moved(whole: Gradients, rest: Gradients, clip: float) -> float:
    """The L2 norm of the difference of two clipped sums; infinite where parameters do not agree on how many gradients there are."""
    if len({len(g) for g in whole.values()}) != 1 or len({len(g) for g in rest.values()}) != 1:
        return math.inf
    one, other = clipped_sum(whole, clip), clipped_sum(rest, clip)
    return float(torch.stack([(one[name] - other[name]).square().sum() for name in one]).sum().sqrt())


def _sentence(ok: bool, error: float, sensitivity: float, where: str, size: int, rows: int) -> str:
    if ok:
        return f"The gradients are those of single samples to {error:.1e}, and one sample moves their clipped sum by {sensitivity:.3f} C."
    said = []
    if rows != size:
        said.append(
            f"{rows} gradients came back for {size} samples: parts of a sample, such as its time steps, count as samples."
        )
    elif error == math.inf:
        said.append(f"No gradients of {where} came back that could be compared.")
    elif error > TOLERANCE:
        said.append(f"The gradient of {where} is {error:.1%} off that of the sample alone.")
    if sensitivity == math.inf and error < math.inf:
        said.append(
            "Without one of its samples a batch cannot be computed or gives other numbers of gradients for its parameters."
        )
    elif 1 + TOLERANCE < sensitivity < math.inf:
        said.append(f"One sample moves the clipped sum by {sensitivity:.2f} C, so that the noise is too small by that factor.")
    return "The accountant's eps does not hold. " + " ".join(said)


def _by_opacus(wrapped: Any, loss: Loss, model: nn.Module, x: Tensor, y: Tensor) -> Gradients:
    wrapped.zero_grad(set_to_none=True)
    wrapped.set_grad_sample_to_none()
    with warnings.catch_warnings(action="ignore"):  # that no input needs a gradient
        value = loss(wrapped(x), y)
        (value * len(y) if wrapped.loss_reduction == "sum" else value).backward()
    found: Gradients = {name: p.grad_sample for name, p in trainable(model).items()}  # type: ignore[attr-defined]
    wrapped.set_grad_sample_to_none()
    wrapped.zero_grad(set_to_none=True)
    return found


@contextmanager
def _unhooked(wrapped: Any) -> Iterator[None]:
    if wrapped is None:
        yield
        return
    wrapped.disable_hooks()
    try:
        with warnings.catch_warnings(action="ignore"):  # that no input needs a gradient
            yield
    finally:
        wrapped.enable_hooks()


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[Callable[[], str | None]]:
    """Gives what names a buffer that is not as it was, None where all are; afterwards they are."""
    before = {name: (buffer, buffer.detach().clone()) for name, buffer in model.named_buffers()}

    def moved() -> str | None:
        now = dict(model.named_buffers())
        return next((name for name in {**before, **now} if name not in before or name not in now
                     or not _same(now[name], before[name][1])), None)  # fmt: skip

    try:
        yield moved
    finally:
        for name, (buffer, value) in before.items():
            place, _, leaf = name.rpartition(".")
            buffer.data = value
            setattr(model.get_submodule(place), leaf, buffer)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # a NaN is itself here


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


@contextmanager
def _in_double(model: nn.Module) -> Iterator[None]:
    """Inside, parameters and buffers are float64. From float32 and back they are the same bits."""
    before = {tensor: tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    for tensor in before:
        tensor.data = tensor.data.double()
    try:
        yield
    finally:
        for tensor, dtype in before.items():
            tensor.data = tensor.data.to(dtype)
