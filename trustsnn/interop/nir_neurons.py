"""NIR's nodes with dynamics as layers over discrete time, by forward Euler: v(t + dt) = v(t) + dt v'(t)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.interop.nir_graph import NODES, Graph
from trustsnn.interop.nir_settings import Settings
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.neurons.heterogeneous import Constants, Heterogeneous, driven, held, hold, through_time

Array = NDArray[np.float64]
SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
TIMED = ("I", "LI", "CubaLI", "Delay")

_SAME = 1e-6  # relative: what rounding to float32 leaves of a gain of 1


class Timed(nn.Module):
    """A layer with memory and no spikes: x [t, B, ...] of `steps` or one step -> [steps, B, ...]."""

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """What comes of `x`."""
        raise NotImplementedError


class Integrator(Timed):
    """v_t = leak v_{t-1} + offset + gain i_t, with i_t as in `Constants`; a neuron that never fires. v_0 = rest."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        hold(self, constants)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """The membrane at each step, [steps, B, ...]."""
        own = held(self)
        return through_time(own, driven(own, x, steps), lambda distance, step: torch.zeros_like(distance), Dynamics())[1]


class Delay(Timed):
    """y_t = x_{t - d}, zeros before, for a delay of d steps of each neuron (buffer `delay`, whole numbers)."""

    delay: Tensor

    def __init__(self, delay: Tensor) -> None:
        super().__init__()
        self.register_buffer("delay", delay)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """The input of that many steps ago."""
        x = x.expand(steps, *x.shape[1:])
        when = torch.arange(steps, device=x.device).view(-1, *[1] * (x.dim() - 1)) - self.delay
        return torch.gather(x, 0, when.clamp_min(0).expand_as(x)) * (when >= 0)


def layer_of(graph: Graph, name: str, settings: Settings) -> SpikingNeuron | Timed:
    """The layer of one of the nodes `SPIKING` or `TIMED`."""
    node = graph.nodes[name]
    settings = settings.completed(node.metadata).completed(graph.metadata)
    value = {key: graph.numbers(name, key) for key in (*NODES[node.kind], "v_reset") if key in node.values}
    try:
        np.broadcast_shapes(*(each.shape for each in value.values()))
    except ValueError:
        graph.refuse(name, f"expected values of one shape, got {sorted({each.shape for each in value.values()})}")
    if node.kind == "Threshold":
        return _neuron(graph, name, settings, {"leak": np.zeros(()), "gain": np.ones(()), "threshold": value["threshold"]})
    dt = _dt(graph, name, settings)
    if node.kind == "Delay":
        steps = value["delay"] / dt
        if (np.abs(steps - steps.round()) > _SAME * np.maximum(1, steps)).any() or (steps < 0).any() or (steps > 1 << 31).any():
            graph.refuse(name, f"expected delays of a whole number of time steps of {dt:g}, got {_few(steps)} of them")
        return Delay(torch.tensor(steps.round(), dtype=torch.int64))
    found: dict[str, Array] = {}
    if node.kind in ("I", "IF"):
        found |= {"leak": np.ones(()), "gain": value["r"] * (dt if settings.per != "step" else 1.0)}
    else:
        rate = _rate(graph, name, "tau_mem" if "tau_mem" in value else "tau", dt)
        found |= {"leak": 1 - rate, "gain": rate * value["r"], "rest": value["v_leak"]}
    if "tau_syn" in value:
        rate = _rate(graph, name, "tau_syn", dt)
        found |= {"synapse_leak": 1 - rate, "synapse_gain": rate * value["w_in"]}
    if node.kind in SPIKING:
        found |= {"threshold": value["v_threshold"], "after": value.get("v_reset", np.zeros(()))}
        return _neuron(graph, name, settings, found)
    return Integrator(_constants(found | {"threshold": np.zeros(())}))


def _dt(graph: Graph, name: str, settings: Settings) -> float:
    kind = graph.nodes[name].kind
    if kind in ("I", "IF") and settings.per == "step":
        return 1.0
    if settings.dt is None:
        raise ConfigError(
            f"{graph.name}, node {name!r} ({kind}): NIR has no time step and the file's metadata has none either. Pass dt, as in "
            f"{graph.name}:dt=1e-4. snnTorch and SpikingJelly export with 1e-4, Norse with 1e-3, sinabs counts steps (dt=1)."
        )
    return settings.dt


def _rate(graph: Graph, name: str, key: str, dt: float) -> Array:
    """dt / tau, at most 1."""
    tau = graph.numbers(name, key)
    if (tau <= 0).any() or (dt / tau > 1 + _SAME).any():
        graph.refuse(
            name,
            f"expected {key} of at least the time step {dt:g}, where forward Euler is stable, got {_few(tau)}. Pass the dt that the "
            "graph was exported with (Norse 1.1.0 writes tau times dt: pass dt squared, 1e-6)",
        )
    return np.minimum(dt / tau, 1.0)


def _few(values: Array) -> list[float]:
    return [float(f"{v:.6g}") for v in np.unique(values)[:4]]


def _uniform(values: Array) -> float | None:
    """The one value of all neurons, None where they differ."""
    return float(values.flat[0]) if values.size and (values == values.flat[0]).all() else None


def _neuron(graph: Graph, name: str, settings: Settings, found: dict[str, Array]) -> SpikingNeuron:
    """A plain layer of neurons where all are alike and NIR's extras are 0, else one with constants of each."""
    if (found["threshold"] <= 0).any():
        graph.refuse(name, f"expected thresholds above 0, got {_few(found['threshold'])}")
    options: dict[str, Any] = {"reset": settings.reset or "hard", "comparator": settings.comparator or ">"}
    metadata = graph.nodes[name].metadata
    if "initial" in metadata:
        options["initial"] = float(np.asarray(metadata["initial"], dtype=np.float64).reshape(()))
    leak, gain, threshold = (_uniform(found[key]) for key in ("leak", "gain", "threshold"))
    still = all(not found[key].any() for key in ("rest", "after") if key in found) and "synapse_leak" not in found
    if still and leak is not None and gain is not None and threshold is not None and gain > 0:
        unit = abs(gain - 1) <= _SAME
        leaky = not unit and abs(gain - (1 - leak)) <= _SAME * gain
        scaled = threshold if unit or leaky else threshold / gain  # v in units of the gain: the same spikes
        return SpikingNeuron(Dynamics(leak, scaled, gain="leaky" if leaky else "unit", **options))
    if options.get("initial"):
        graph.refuse(name, "an initial membrane (metadata) is known for layers of equal neurons alone")
    return Heterogeneous(_constants(found), Dynamics(float(found["leak"].mean()), float(found["threshold"].mean()), **options))


def _constants(found: dict[str, Array]) -> Constants:
    zeros = {"rest": np.zeros(()), "after": np.zeros(())}
    return Constants(**{key: torch.tensor(value, dtype=torch.float32) for key, value in (zeros | found).items()})
