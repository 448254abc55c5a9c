"""The neurons and states of snnTorch, SpikingJelly, Norse and sinabs in a user's module, recognised by the names of their classes.

No framework is imported: a module of one has brought it along. A subclass of a framework's class is recognised as that class.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from trustsnn.interop.foreign import ForeignNeuron, SpikeFunction

Reset = Callable[[], object]
FRAMEWORKS = ("snntorch", "spikingjelly", "norse", "sinabs")


def bases(module: nn.Module) -> set[str]:
    """The classes of frameworks that a module is an instance of, such as {"snntorch.Leaky", "snntorch.SpikingNeuron"}."""
    found = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(module).__mro__}
    return {name for name in found if name.partition(".")[0] in FRAMEWORKS}


class SnnTorchNeuron(ForeignNeuron):
    """A layer that fires by `spike_grad(mem - threshold)` once a step. `mem_reset` calls the same function on the membrane of the
    step before and cuts the gradient off: no spike of its own, so it is left alone."""

    framework = "snnTorch"

    def replacements(self) -> Mapping[str, Any]:
        layer: Any = self.layer
        original: SpikeFunction = layer.spike_grad
        threshold_reached = layer.mem_reset

        def spike_grad(distance: Tensor) -> Tensor:
            return self.spike(distance, original)

        def mem_reset(membrane: Tensor) -> Tensor:
            vars(layer)["spike_grad"] = original
            try:
                reset: Tensor = threshold_reached(membrane)
            finally:
                vars(layer)["spike_grad"] = spike_grad
            return reset

        return {"spike_grad": spike_grad, "mem_reset": mem_reset}


class SpikingJellyNeuron(ForeignNeuron):
    """A node that fires by `surrogate_function(v - v_threshold)` once a step, in single-step and in multi-step mode."""

    framework = "SpikingJelly"

    def replacements(self) -> Mapping[str, Any]:
        original: SpikeFunction = self.layer.surrogate_function  # type: ignore[assignment]
        return {"surrogate_function": lambda distance: self.spike(distance, original)}


class NorseNeuron(ForeignNeuron):
    """A cell or layer whose step is a function of Norse that calls `threshold(v - v_th, method, alpha)`. The layer gets a copy of
    the step's function that finds another `threshold` among its globals."""

    framework = "Norse"

    def replacements(self) -> Mapping[str, Any]:
        return {"activation": _rebound(self.layer.activation, self._threshold)}  # type: ignore[arg-type]

    def _threshold(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda distance, method, alpha: self.spike(distance, lambda x: original(x, method, alpha))


class NorseEncoder(NorseNeuron):
    """`ConstantCurrentLIFEncoder`: LIF neurons that turn a constant current into spikes over `seq_length` steps."""

    def replacements(self) -> Mapping[str, Any]:
        layer: Any = self.layer
        encode = _rebound(sys.modules["norse.torch.functional.encode"].constant_current_lif_encode, self._threshold)
        return {"forward": lambda currents: encode(currents, seq_length=layer.seq_length, p=layer.p, dt=layer.dt)}


class SinabsNeuron(ForeignNeuron):
    """A layer that fires by `spike_fn.apply(v_mem, threshold, surrogate_grad_fn)` once a step. Where that gives several spikes in
    a step, one for each multiple of the threshold, the distance is that to the nearest multiple that can be reached [ours]."""

    framework = "sinabs"

    def replacements(self) -> Mapping[str, Any]:
        spike_fn: Any = self.layer.spike_fn
        most = 1.0 if _multiples(spike_fn) is None else _multiples(spike_fn)

        def apply(v_mem: Tensor, threshold: Tensor, surrogate: Callable[..., Tensor]) -> Tensor:
            jump = threshold * (v_mem.detach() / threshold).round().clamp(1, most)
            return self.spike(v_mem - jump, lambda _: spike_fn.apply(v_mem, threshold, surrogate))

        return {"spike_fn": SimpleNamespace(apply=apply, required_states=spike_fn.required_states)}


def _multiples(spike_fn: Any) -> float | None:
    """The most spikes of one step of a sinabs spike function that gives several; None for one that gives one."""
    name = getattr(spike_fn, "__name__", type(spike_fn).__name__)
    if name == "MaxSpike" and spike_fn.max_num_spikes_per_bin is not None:
        return float(spike_fn.max_num_spikes_per_bin)
    return float("inf") if name in ("MultiSpike", "MaxSpike") else None


def neuron(name: str, module: nn.Module) -> ForeignNeuron | None:
    """`module` as a neuron whose surrogate can be replaced; None where it is none, or fires in another way than its framework's
    neurons step by step do."""
    kinds = bases(module)
    if "snntorch.SpikingNeuron" in kinds and not kinds & {"snntorch.StateLeaky", "snntorch.AssociativeLeaky"}:
        return SnnTorchNeuron(name, module)
    if kinds & {"spikingjelly.BaseNode", "spikingjelly.SimpleBaseNode"} and hasattr(module, "surrogate_function"):
        return SpikingJellyNeuron(name, module)
    if "norse.ConstantCurrentLIFEncoder" in kinds:
        return NorseEncoder(name, module)
    if any(kind.startswith("norse.") for kind in kinds) and _calls_threshold(getattr(module, "activation", None)):
        return NorseNeuron(name, module)
    if "sinabs.StatefulLayer" in kinds and getattr(module, "spike_fn", None) is not None:
        return SinabsNeuron(name, module)
    return None


def keeps_surrogate(module: nn.Module) -> bool:
    """Whether a module of a framework fires with a surrogate and `neuron` does not know how."""
    surrogates = ("spike_grad", "surrogate_function", "spike_fn", "activation")
    fires = any(callable(getattr(module, attribute, None)) for attribute in surrogates)
    parameters = getattr(module, "p", None)
    silent = "norse." in str(bases(module)) and not hasattr(parameters, "method") and not hasattr(parameters, "lif")
    return bool(bases(module)) and fires and not silent and neuron("", module) is None


def reset(module: nn.Module) -> Reset | None:
    """What puts the state that `module` keeps back to where it starts; None where it keeps none."""
    kinds = bases(module)
    layer: Any = module
    if "snntorch.SpikingNeuron" in kinds:
        return layer.reset_mem if hasattr(layer, "reset_mem") else None
    if "spikingjelly.MemoryModule" in kinds:
        return partial(_start, layer)  # not a lambda, which a copy of the model would share
    if "sinabs.StatefulLayer" in kinds:
        return partial(_empty, layer)
    return None


def _start(layer: Any) -> None:
    """SpikingJelly's reset, on new states: it would write into those that a gradient may still need."""
    getattr(layer, "_memories", {}).update(copy.deepcopy(getattr(layer, "_memories_rv", {})))
    layer.reset()


def _empty(layer: nn.Module) -> None:
    """States as they are before the first forward: of no shape. sinabs' own `reset_states` keeps the shape of the last batch, and
    for another batch size draws among its samples."""
    for name, state in list(layer.named_buffers(recurse=False)):
        layer.register_buffer(name, state.detach().new_zeros(0))


def _calls_threshold(function: Any) -> bool:
    return isinstance(function, FunctionType) and (
        "threshold" in function.__code__.co_names or any(map(_calls_threshold, _callees(function).values()))
    )


def _callees(function: FunctionType) -> dict[str, FunctionType]:
    """Norse's functions that a function of Norse calls by name, but for the one that keeps a neuron silent after a spike."""
    found = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, FunctionType) and value.__module__.startswith("norse.") and name != "compute_refractory_update"
        if name not in ("threshold", function.__name__)
    }


def _rebound(function: FunctionType, replaced: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]) -> Callable[..., Any]:
    """A copy of `function` in which `threshold` is `replaced(threshold)`, in what it calls too."""
    names: dict[str, Any] = {
        name: _rebound(value, replaced) for name, value in _callees(function).items() if _calls_threshold(value)
    }
    if "threshold" in function.__code__.co_names:
        names["threshold"] = replaced(function.__globals__["threshold"])
    rebound = FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, function.__closure__
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def states(module: nn.Module) -> list[Reset]:
    """What resets each part of `module` that keeps a state."""
    return [each for part in module.modules() if (each := reset(part)) is not None]


def neurons(model: nn.Module) -> list[ForeignNeuron]:
    """The neurons in `model` whose surrogate can be replaced, by their names in it, in the order of its modules."""
    return [found for name, part in model.named_modules() if (found := neuron(name, part)) is not None]
