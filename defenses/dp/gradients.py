"""The gradient of each sample by itself, summed over its time steps, and the sum of gradients clipped per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from trustsnn.encoders import encoder
from trustsnn.errors import ConfigError
from trustsnn.models.gates import Gate
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.models.onestep import ProjectedNeuron
from trustsnn.neurons.evolving import EvolvingLeak
from trustsnn.rng import Draws

Gradients = dict[str, Tensor]
"""Of each parameter by name the gradients of the samples, [B, *shape of the parameter]."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, K] and labels [B] to the mean loss of a batch."""

PerSample = Callable[[nn.Module, Tensor, Tensor], Gradients]
"""What finds the gradients of the samples of a batch x [B, ...], y [B]: `per_sample_gradients`, or what is to be verified."""

_UNMAPPED = (nn.RNNBase, ProjectedNeuron, EvolvingLeak)  # which `torch.func` cannot map over samples

_BYTES = 1 << 28  # of the per-sample gradients that are in memory at a time


def refuse_unfit_layers(model: nn.Module) -> None:
    """ConfigError for a model in which a sample's gradient depends on the other samples of its batch, or on draws of its own."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm | BatchNormThroughTime):
            raise ConfigError(
                f"The layer {name} ({type(module).__name__}) mixes the samples of a batch, so that no sample's gradient can be "
                "clipped by itself and no privacy be guaranteed. Build the network with group normalisation (--norm group) or "
                "without any (--norm none)."
            )
        if isinstance(module, Gate):
            raise ConfigError(f"The layer {name} (Gate) draws at random in training, which private training does not do for it.")


def naive_gradients(model: nn.Module, x: Tensor, y: Tensor, *, loss: Loss = cross_entropy) -> Gradients:
    """The gradient of each sample's loss by a forward and a backward pass for that sample alone. The reference."""
    parameters = trainable(model)
    rows = []
    with torch.enable_grad():
        for sample, label in zip(x.split(1), y.split(1), strict=True):
            rows.append(torch.autograd.grad(loss(model(sample), label), list(parameters.values()), materialize_grads=True))
    stacked = (
        [torch.stack(each) for each in zip(*rows, strict=True)]
        if rows
        else [p.new_empty(0, *p.shape) for p in parameters.values()]
    )
    return dict(zip(parameters, stacked, strict=True))


def per_sample_gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, draws: Draws | None = None, loss: Loss = cross_entropy
) -> Gradients:
    """The gradient of each sample's loss, all of its time steps included, for any model without state and without batch
    normalisation.

    A `SpikingNetwork` folds time into the batch, [T * B, ...]. Here `torch.func` maps the whole network over the samples, so that the
    T rows of a sample are one sample, whatever the layers. Networks with an LSTM, with handed-on membranes or a leak for
    each step, which cannot be mapped, take one pass a sample.

    Args:
        x, y: samples [B, ...] and labels [B].
        draws: of the batch; an encoder that draws needs them and takes the child "encode".
        loss: of logits and labels; with label smoothing, say.

    Raises:
        ConfigError: the model has batch normalisation.
    """
    refuse_unfit_layers(model)
    if isinstance(model, SpikingNetwork) and model.spec.encoder not in ("direct", "frames"):
        x, model = encoded(model, x, draws)
    if any(isinstance(module, _UNMAPPED) for module in model.modules()):
        return naive_gradients(model, x, y, loss=loss)

    def of_one(parameters: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (sample.unsqueeze(0),)), label.unsqueeze(0))

    parameters = {name: parameter.detach() for name, parameter in trainable(model).items()}
    return vmap(grad(of_one), in_dims=(None, 0, 0))(parameters, x, y)  # type: ignore[no-any-return]


def encoded(model: SpikingNetwork, x: Tensor, draws: Draws | None) -> tuple[Tensor, SpikingNetwork]:
    """The batch as its encoder codes it, [B, T, ...], and the network of the same layers that takes it so."""
    spec = model.spec
    h = encoder(spec.encoder).encode(x, spec.steps, draws.child("encode") if draws is not None else None)
    given = replace(spec, input_shape=(spec.steps, *h.shape[2:]), encoder="frames", stochastic=False)
    network = type(model)(model.layers, given, model.architecture)
    return h.expand(spec.steps, *h.shape[1:]).transpose(0, 1), network.train(model.training)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def norms(gradients: Gradients) -> Tensor:
    """The L2 norm of each sample's gradient over all parameters, [B]."""
    return torch.stack([g.reshape(len(g), -1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


def clipped_sum(gradients: Gradients, clip: float) -> dict[str, Tensor]:
    """The sum over samples of min(1, C / |g|) g, by parameter. Its norm moves by at most C when a sample comes or goes.

    A gradient that is not finite counts as zero, which keeps that bound.
    """
    size = norms(gradients)
    whole = torch.isfinite(size)
    factors = torch.where(whole, clip / size.clamp_min(clip), 0.0)
    cleaned = gradients if bool(whole.all()) else {name: g.nan_to_num(0.0, 0.0, 0.0) for name, g in gradients.items()}
    return {name: torch.tensordot(factors, g, 1) for name, g in cleaned.items()}


def clipped_sum_of(
    model: nn.Module, x: Tensor, y: Tensor, clip: float, *, draws: Draws, loss: Loss = cross_entropy
) -> dict[str, Tensor]:
    """`clipped_sum` of a batch of any size, no sample included, in parts whose gradients take bounded memory."""
    parameters = trainable(model)
    rows = max(1, _BYTES // (4 * max(1, sum(p.numel() for p in parameters.values()))))
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        chosen = draws.select(range(*part.indices(len(x))))
        found = clipped_sum(per_sample_gradients(model, x[part], y[part], draws=chosen, loss=loss), clip)
        for name, each in found.items():
            total[name] += each
    return total
