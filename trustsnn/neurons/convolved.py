"""A convolution with fixed weights and the neurons after it, as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustsnn.kernels import convolution
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.functional import FireBackward, layer_of
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.synapses import Synapses, ToInput


class _ConvolvedFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        leak: Tensor,
        threshold: Tensor,
        steps: int,
        given: int,
        synapses: Synapses,
        neuron: SpikingNeuron,
        keep: Keep,
    ) -> Tensor:
        packed = synapses.packed(synapses.weight, "sum")
        layer = layer_of(leak, threshold, neuron.dynamics)
        spikes, membrane = convolution.fire(x, packed, synapses.bias, synapses.geometry, steps, given, layer, keep)
        ctx.save_for_backward(membrane, leak, threshold)
        ctx.settings = (tuple(x.shape[2:]), steps, given, synapses, neuron.dynamics, neuron.estimator)
        return spikes.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        membrane, leak, threshold = ctx.saved_tensors
        size, steps, given, synapses, dynamics, estimator = ctx.settings
        to_spikes = gradients[0].unflatten(0, (steps, -1))
        to_current = FireBackward.apply(to_spikes, membrane, leak, threshold, None, steps, given, dynamics, estimator, False)[0]
        return ToInput.apply(to_current.flatten(0, 1), synapses.weight, size, synapses), *[None] * 7


def can_convolve(layer: object, neuron: object, x: Tensor, spikes: bool, batch: int) -> bool:
    """Whether `convolved_fire` computes these two layers for `x`, which comes straight out of a layer of neurons if `spikes`: a
    convolution with fixed weights that adds up active inputs, and plain neurons of fixed leak and threshold."""
    if type(layer) is not Synapses or type(neuron) is not SpikingNeuron:
        return False  # a subclass may compute something else
    if layer.flat or batch < torch.get_num_threads() or not layer.native(x) or layer.forward_method(spikes) != "sum":
        return False
    learns = torch.is_grad_enabled() and (neuron.leak.requires_grad or neuron.threshold.requires_grad)
    return not learns and not (_keeps(neuron, x) != "nothing" and (neuron.estimator.needs_current or neuron.keep == "recompute"))


def convolved_fire(layer: Synapses, neuron: SpikingNeuron, x: Tensor, steps: int, given: int) -> Tensor:
    """Spikes [steps * B, O, H', W'] of `neuron` behind `layer` for `x` [given * B, I, H, W], given = 1 for a constant input: the same
    bits as one after the other."""
    leak, threshold = neuron.parameters_in_bounds()
    return _ConvolvedFire.apply(x, leak, threshold, steps, given, layer, neuron, _keeps(neuron, x))  # type: ignore[no-untyped-call,no-any-return]


def _keeps(neuron: SpikingNeuron, x: Tensor) -> Keep:
    return neuron.keep if torch.is_grad_enabled() and x.requires_grad else "nothing"
