"""`trustsnn.wrap`: any nn.Module behind the model contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.interop import frameworks, notes
from trustsnn.interop.calls import FAILURES, OVER, Over, Takes, call, find, logits
from trustsnn.interop.foreign import counted
from trustsnn.models.spec import Domain, ModelSpec, Trace


@dataclass(frozen=True)
class WrappedTrace(Trace):
    """As `Trace`. A module that gives one row of logits for all T steps has logits [1, B, K]."""

    time_steps: int = 1

    @property
    def steps(self) -> int:
        return self.time_steps


class WrappedModel(nn.Module):
    """A user's module under the contract. Made by `wrap`.

    `foreign_neurons` are the neurons of snnTorch, SpikingJelly, Norse and sinabs whose surrogate an attack can replace,
    `own_surrogate` the names of those that keep theirs.
    """

    def __init__(
        self, module: nn.Module, spec: ModelSpec, reset: Callable[[nn.Module], object] | None, takes: Takes | None, output: int | None,
        over: Over,
    ) -> None:  # fmt: skip
        super().__init__()
        self.module = module
        self.spec = spec
        self.takes, self.output, self.over = takes, output, over
        self.foreign_neurons = tuple(frameworks.neurons(self))
        self.own_surrogate = tuple(name for name, part in self.named_modules() if frameworks.keeps_surrogate(part))
        self._user_reset = reset
        self._states = tuple(frameworks.states(module))
        self.reset()

    def reset(self) -> None:
        """Put every state that is known, or that the user's `reset` knows, back to where it starts."""
        self._leave()
        if self._user_reset is not None:
            self._user_reset(self.module)

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K]: those of the module, reduced over time where it gives one row a step."""
        found = self._reduced(self._outputs(x))
        self._leave()
        return found

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """The outputs as a trace, with the spikes of `foreign_neurons`; those of other neurons are not known."""
        self._find_call(x)
        with counted(self.foreign_neurons):
            found = self._outputs(x)
            counts = {neuron.name: neuron.counts for neuron in self.foreign_neurons if neuron.counts is not None}
        self._leave()
        rows = found if self.over == "mean" else self._reduced(found).unsqueeze(0)
        return WrappedTrace(rows, counts, found.detach().cumsum(0), self.spec.steps)

    def _leave(self) -> None:
        """Put the known states back, which a forward leaves in the module: sinabs' in its state dict, and all with their graph."""
        for reset in self._states:
            reset()

    def _reduced(self, rows: Tensor) -> Tensor:
        return OVER["mean" if len(rows) == 1 else self.over](rows)

    def _outputs(self, x: Tensor, *, fresh: bool = True) -> Tensor:
        """[T, B, K] or [1, B, K], from the reset state unless it is not to be `fresh`."""
        takes = self._find_call(x)
        if fresh:
            self.reset()
        for neuron in self.foreign_neurons:
            neuron.begin()
        found = call(self.module, takes, x, self.spec.steps, self._events)
        return logits(found, takes, len(x), self.spec.steps, self.output)

    @property
    def _events(self) -> bool:
        return self.spec.domain != "image"

    def _find_call(self, x: Tensor) -> Takes:
        if self.takes is None:
            self.takes = find(self.module, self.foreign_neurons, x, self.spec.steps, self._events, self.output, self.reset)
        return self.takes

    def notes(self, x: Tensor) -> list[dict[str, Any]]:
        """What a reader of an audit should know of how the module was wrapped, as findings that cast no doubt on a figure; `x`
        [B, ...] are samples to try it on."""
        return [*notes.state_kept(self._state_kept(x)), *notes.surrogate_kept(self.own_surrogate)]

    def left_behind(self, x: Tensor) -> list[str]:
        """The attributes of the module that a forward on `x` [B, ...] changes, but for what `reset` puts back."""
        self.reset()
        before = notes.attributes(self.module)
        with torch.no_grad(), suppress(*FAILURES):
            self._outputs(x)
        self.reset()
        return notes.changed(before, notes.attributes(self.module))

    def _state_kept(self, x: Tensor) -> float | None:
        """How much the state that one forward leaves changes the logits of the next on the same `x` [B, ...], as a share of the
        largest logit, when nothing resets the module in between. None where the second forward fails."""
        with torch.no_grad():
            first = self._reduced(self._outputs(x))
            try:
                second = self._reduced(self._outputs(x, fresh=False))
            except (*FAILURES, ModelContractError):
                return None
            finally:
                self.reset()
        return float((first - second).abs().max()) / max(float(first.abs().max()), float(second.abs().max()), 1e-12)


def wrap(
    module: nn.Module,
    *,
    domain: Domain = "image",
    time_steps: int,
    classes: int | None = None,
    input_shape: Sequence[int] = (),
    max_count: int | None = None,
    reset: Callable[[nn.Module], object] | None = None,
    takes: Takes | None = None,
    output: int | None = None,
    over: Over = "mean",
) -> WrappedModel:
    """Put any module behind the model contract, in eval mode.

    Modules of snnTorch, SpikingJelly, Norse and sinabs are recognised wherever they are in `module`: they are reset before every
    forward, their spikes are counted, and an attack's gradient estimator can take the place of their surrogate.

    Args:
        module: gives logits [B, K], one row a time step for T = `time_steps`, or these within a tuple.
        domain: "image" (values in [0, 1]), "events-binary" or "events-count" (with `max_count`).
        classes: K; read off the last Linear layer if not given.
        input_shape: of one sample; taken from the data where it is not given.
        reset: called with the module before every forward, for modules that keep state of their own.
        takes: what `module` is called with. "sample": a batch [B, ...], and it goes through time by itself. "step": the batch of
            one time step, T times. "sequence": [T, B, ...]. "batch-first": [B, T, ...]. "folded": [B T, ...]. Found out at
            the first forward if not given; "sample" where no known neuron tells.
        output: the place of the logits in a tuple that `module` returns, where it holds several tensors.
        over: what becomes of one row of logits a step: their "mean", "sum", "max" or the "last".

    The audit tests the contract before it attacks. How spikes are differentiated that belong to none of these frameworks, nor to
    `trustsnn.neurons.SpikingNeuron`, stays the module's own.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"Expected a torch.nn.Module, got {type(module).__name__}.")
    for name, value, known in (("takes", takes, (None, *get_args(Takes))), ("over", over, get_args(Over))):
        if value not in known:
            raise ConfigError(f"Expected {name} as one of {', '.join(map(repr, known))}, got {value!r}.")
    if classes is None:
        heads = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if not heads:
            raise ConfigError("The module has no Linear layer to read the number of classes from. Pass classes=K.")
        classes = heads[-1].out_features
    spec = ModelSpec(domain, tuple(input_shape), classes, time_steps, "own", "own", False, max_count)
    return WrappedModel(module.eval(), spec, reset, takes, output, over)
