"""CBA: the gradient of the ANN twin, taken in the spiking network's own backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.attacks.twin import AnnTwin, ann_twin
from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import SpikingNetwork
from trustsnn.neurons import GradientEstimator, LayerGradients, LayerRecord
from trustsnn.neurons.estimator import SpikingLayer, neurons_of, spiking_layers


@dataclass(frozen=True)
class CBA(GradientEstimator):
    """Conversion-based approximation (Sharmin 2019): the chain rule through the ANN twin (`trustsnn.attacks.twin`):
    g_x(t) = gain g_s(t) 1[the twin's current > 0], the same neurons at every step.

    What the loss's gradient at the logits is comes from the spiking network; from there back the gradient is the twin's, with
    factor 1 for a readout that averages over time and a direct or Poisson code (their gradient is the sum over steps). Event
    frames each get 1/T of the gradient of their mean. Leak and threshold get none: zero.

    The twin is copied when the estimator is applied, and runs once more per forward pass with gradients.
    """

    def describe(self) -> dict[str, object]:
        return {"name": "cba"}

    def refusal(self, model: nn.Module) -> str | None:
        within = {neuron for network in _networks(model) for neuron in neurons_of(network)}
        if within and within == set(spiking_layers(model)):
            return None
        return "CBA needs a SpikingNetwork, whose ANN twin is known; this model has other spiking layers or none."

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[Mapping[SpikingLayer, GradientEstimator]]:
        refused = self.refusal(model)
        if refused:
            raise ConfigError(refused)
        networks = _networks(model)
        gates: dict[SpikingLayer, _Gate] = {neuron: _Gate() for network in networks for neuron in neurons_of(network)}
        with ExitStack() as stack:
            for network in networks:
                twin = ann_twin(network)
                stack.enter_context(frozen(twin))
                hook = network.register_forward_pre_hook(_opening(twin, gates))
                stack.callback(hook.remove)
            yield gates

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        raise ModelContractError("CBA takes its gates from the model's twin: use it inside `with CBA().applied(model):`.")


def _networks(model: nn.Module) -> list[SpikingNetwork]:
    return [module for module in model.modules() if isinstance(module, SpikingNetwork)]


class _Gate(GradientEstimator):
    """CBA for one layer: the neurons that are active in the twin, for the input of the last forward pass."""

    def __init__(self) -> None:
        self.active: Tensor | None = None  # [B, ...]

    def describe(self) -> dict[str, object]:
        return CBA().describe()

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        active = self.active
        if active is not None and active.dim() == spike_gradient.dim():
            active = active.transpose(0, 1)  # [B, T, ...] of a one-step network, whose windows are the sequence
        if active is None or active.shape != spike_gradient.shape[-active.dim() :]:
            raise ModelContractError("CBA differentiates the model's last forward pass alone; another one came in between.")
        return LayerGradients(spike_gradient * (active.to(spike_gradient.dtype) * record.gain()), None, None)


def _opening(twin: AnnTwin, gates: Mapping[SpikingLayer, _Gate]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook before the network's forward pass that sets the gates by the twin's for the same input."""

    def open_gates(network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            for name, activation in twin.activations(inputs[0].detach()).items():
                gates[network.get_submodule(name)].active = activation > 0  # type: ignore[index]

    return open_gates
