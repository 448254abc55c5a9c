"""How a foreign module takes time and gives logits: the ways to call it, which of them fits, and what becomes of its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.interop.foreign import ForeignNeuron, counted
from trustsnn.neurons.estimator import mean_over_time

Takes = Literal["sample", "step", "sequence", "batch-first", "folded"]
Over = Literal["mean", "sum", "max", "last"]
FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    LookupError,
)  # of a forward that someone else wrote

OVER: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean_over_time,
    "sum": lambda logits: mean_over_time(logits) * len(logits),
    "max": lambda logits: logits.amax(0),
    "last": lambda logits: logits[-1],
}


def call(module: nn.Module, takes: str, x: Tensor, steps: int, events: bool) -> Any:
    """What the module gives for samples `x` [B, ...] (event frames [B, T, ...]) over T = `steps`; a list of T outputs for a module
    of one step.

    takes: "sample": x itself, and the module goes through time by itself; "step": the x of a time step, T times; "sequence":
    [T, B, ...]; "batch-first": [B, T, ...]; "folded": [B T, ...], the steps of a sample one after the other.

    A module of one step with an argument `state`, such as Norse's, gets the state that it returned beside its output.
    """
    if takes == "sample":
        return module(x)
    frames = x if events else x.unsqueeze(1).expand(-1, steps, *x.shape[1:])
    if takes == "step":
        return _steps(module, frames)
    if takes == "sequence":
        return module(frames.transpose(0, 1).contiguous())
    return module(frames.flatten(0, 1) if takes == "folded" else frames.contiguous())


def _steps(module: nn.Module, frames: Tensor) -> list[Any]:
    if "state" not in signature(module.forward).parameters:
        return [module(frame) for frame in frames.unbind(1)]
    found: list[Any] = []
    for frame in frames.unbind(1):
        found.append(module(frame, state=found[-1][1] if found else None))
    return found


def logits(output: Any, takes: str, batch: int, steps: int, place: int | None) -> Tensor:
    """The module's output as [T, B, K], or [1, B, K] of a module that gives one row for all steps.

    Raises:
        ModelContractError: the output is no such tensor, or has several and `place` does not say which.
    """
    if takes == "step":
        return torch.stack([_row(each, batch, place) for each in output])
    found = _chosen(output, place)
    if takes == "folded" and found.dim() == 2 and len(found) == batch * steps:
        found = found.unflatten(0, (batch, steps))
    if takes in ("batch-first", "folded") and found.dim() == 3 and found.shape[:2] == (batch, steps):
        found = found.transpose(0, 1)
    if found.dim() == 2 and len(found) == batch:
        return found.unsqueeze(0)
    if found.dim() == 3 and found.shape[:2] == (steps, batch):
        return found
    raise ModelContractError(
        f"Expected logits [{batch}, K] or [{steps}, B, K] = [{steps}, {batch}, K] from the wrapped module, got {list(found.shape)}."
    )


def _row(output: Any, batch: int, place: int | None) -> Tensor:
    found = _chosen(output, place)
    if found.dim() != 2 or len(found) != batch:
        raise ModelContractError(f"Expected logits [{batch}, K] of one step from the wrapped module, got {list(found.shape)}.")
    return found


def _chosen(output: Any, place: int | None) -> Tensor:
    """The tensor that holds the logits in what a module returned."""
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, tuple | list):
        raise ModelContractError(f"Expected logits [B, K] or [T, B, K] from the wrapped module, got {type(output).__name__}.")
    if place is not None:
        if not -len(output) <= place < len(output) or not isinstance(output[place], Tensor):
            raise ModelContractError(f"Expected a tensor as output {place} of the wrapped module, got {_shapes(output)}.")
        chosen: Tensor = output[place]
        return chosen
    tensors = [each for each in output if isinstance(each, Tensor)]
    if len(tensors) != 1:
        raise ModelContractError(
            f"The wrapped module returns {_shapes(output)}, and which of them holds the logits is not known. Pass output=0 for the "
            "first (of snnTorch and Norse: the spikes), output=1 for the second (the membrane), and so on."
        )
    return tensors[0]


def _shapes(output: Sequence[Any]) -> str:
    return f"({', '.join(str(list(o.shape)) if isinstance(o, Tensor) else type(o).__name__ for o in output)})"


def find(
    module: nn.Module,
    neurons: Sequence[ForeignNeuron],
    x: Tensor,
    steps: int,
    events: bool,
    place: int | None,
    reset: Callable[[], None],
) -> Takes:
    """The way to call the module by which every neuron that runs sees T steps of the batch and logits come out.

    It is tried on a few samples, without gradients. Where no known neuron tells, it is "sample".

    Raises:
        ModelContractError: no way fits, with what each of them came to, or several outputs could be the logits.
    """
    if not neurons:
        return "sample"
    batch = next(n for n in (2, 3) if n != steps)  # unlike T, so that the two are not mistaken for each other
    few = x[torch.arange(batch) % len(x)]
    told = []
    takes: Takes
    for takes in get_args(Takes):
        reset()
        with torch.no_grad(), counted(neurons):
            try:
                output = call(module, takes, few, steps, events)
            except FAILURES as error:
                told.append(f"{takes}: {type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
                continue
            finally:
                reset()
            seen = {neuron.name: neuron.batches for neuron in neurons if neuron.batches}
        odd = [_odd(name, batches, batch) for name, batches in seen.items() if batches != [batch] * steps]
        if odd or not seen:
            told.append(f"{takes}: {odd[0] if odd else 'no neuron ran'}")
            continue
        _chosen(output[0] if takes == "step" else output, place)
        try:
            logits(output, takes, batch, steps, place)
        except ModelContractError as error:
            told.append(f"{takes}: {error}")
            continue
        return takes
    raise ModelContractError(
        f"How the wrapped module takes its {steps} time steps could not be found out. Pass time_steps as the module has them, or "
        f"takes= one of {', '.join(get_args(Takes))}. Tried on {batch} samples: {'; '.join(told)}."
    )


def _odd(name: str, batches: Sequence[int], batch: int) -> str:
    samples = f" of {batches[0]} samples" if batches[0] != batch else ""
    return f"{name} ran {len(batches)} steps{samples}"
