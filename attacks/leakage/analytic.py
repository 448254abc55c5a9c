"""The analytic attack on an update: the first fully connected layer gives its input away, without a search."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.attacks.leakage.labels import inferred_labels
from trustsnn.attacks.leakage.updates import Reconstruction, Update, check_update
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork


class FirstLayer(NamedTuple):
    """A linear layer at the input: the names of its weights and of what is added to its current, and by how much a normalisation between
    the two multiplies each neuron's current."""

    weight: str
    bias: str
    scale: Tensor


def analytic(model: SpikingNetwork, update: Update) -> Reconstruction:
    """The image of a one-sample update from the gradients W_j and b_j of each neuron's weights and bias in the first layer (METHODS 11,
    after Phong 2018, arXiv 1706.04699).

    With a current x that is the same at every step W_j = b_j x, so that any row gives x; with Poisson coding it is so in the mean. The
    image is the least-squares solution sum_j b_j W_j / sum_j b_j^2 in double precision, clipped to [0, 1]. Under direct coding an
    entry of W_j that is 0 was not sent, or belongs to a black pixel, and is left out of both sums, so that a compressed
    update loses no more than it has to.

    Raises:
        ConfigError: see `first_layer`; more than one sample, or an update of another model.
    """
    layer = first_layer(model)
    check_update(model, update)
    if update.samples != 1:
        raise ConfigError(
            f"The analytic attack takes an update of one sample, got one of {update.samples}. Take 'inverting' instead."
        )
    weight = update.gradients[layer.weight].detach().double()
    bias = update.gradients[layer.bias].detach().double() * layer.scale
    sent = (weight != 0).double() if model.spec.encoder == "direct" else torch.ones_like(weight)
    below = bias.square() @ sent
    image = torch.where(below > 0, (bias @ weight) / below.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    shaped = image.clamp(0, 1).float().view(1, *model.spec.input_shape)
    return Reconstruction(shaped, inferred_labels(model, update), blank=not bool((below > 0).any()))


def first_layer(model: SpikingNetwork) -> FirstLayer:
    """The linear layer that takes the image.

    Raises:
        ConfigError: there is none, nothing is added to its current, or the inputs are neither direct nor Poisson-coded.
    """
    if model.spec.encoder not in ("direct", "poisson") or model.sensor is not None:
        raise ConfigError(
            f"The analytic attack takes direct or Poisson coding without a sensor before it, got {model.spec.encoder!r}."
        )
    stages = [(name, layer) for name, layer in model.layers.named_children() if not isinstance(layer, nn.Flatten | nn.Identity)]
    name, first = stages[0]
    if not isinstance(first, nn.Linear):
        raise ConfigError(
            f"The analytic attack takes a network whose first layer is fully connected, got {type(first).__name__} first. Take 'inverting' or "
            "'idlg' instead."
        )
    if first.bias is not None:
        return FirstLayer(f"layers.{name}.weight", f"layers.{name}.bias", torch.ones(len(first.weight), dtype=torch.float64))
    after, norm = stages[1]
    if isinstance(norm, nn.BatchNorm1d) and norm.affine and norm.running_var is not None:
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        return FirstLayer(f"layers.{name}.weight", f"layers.{after}.bias", scale)
    raise ConfigError(
        "The analytic attack takes a first layer with a bias, of its own or of the batch normalisation behind it, and this one has none. Take "
        "'inverting' or 'idlg' instead."
    )
