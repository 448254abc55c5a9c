"""Robust conversion: an adversarially trained ReLU network, converted and trained on through time (Özdenizci & Legenstein 2023,
arXiv 2311.09266)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustsnn.conversion import Calibration, hybrid_start
from trustsnn.conversion.segments import check_foldable, rectified
from trustsnn.data import Dataset
from trustsnn.defenses.robust.at import AT
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import rebuild
from trustsnn.neurons.estimator import neurons_of
from trustsnn.rng import Draws
from trustsnn.settings import setting
from trustsnn.training import TrainConfig, train


@dataclass(frozen=True, kw_only=True)
class RobustANN(AT):
    """An ANN of the model's layers with ReLU is trained by `at` from fresh weights; its thresholds become `scale` times that percentile
    of its activations; then weights and thresholds of the spiking network are trained on through time by `at`. Here normalisation is
    folded into the weights before that, so that there are no statistics left to reset, which the paper does.

    Of the model its layers, channels, time steps and surrogate are kept. Neurons become integrate-and-fire with soft reset and a learnt
    threshold, the readout a membrane.

    Args:
        percentile: in (0, 100], of the activations of a layer.
        scale: above 0, of the thresholds.
        samples: of the training split, which balance the thresholds.
    """

    percentile: float = setting(99.7, 0.0, 100.0)
    scale: float = setting(0.3)
    samples: int = setting(1024, 1)

    name: ClassVar[str] = "robust-ann"
    alone: ClassVar[bool] = True
    anew: ClassVar[bool] = True

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        neuron = model.architecture["arguments"].get("neuron", "lif")
        if neuron != "lif":
            raise ConfigError(
                f"The recipe 'robust-ann' makes a spiking network of its own ANN, got a model of the neuron {neuron!r}."
            )
        with torch.device("meta"):
            check_foldable(self.ann(model, 0))

    def adapted(self, model: SpikingNetwork) -> SpikingNetwork:
        raise ConfigError(
            "The recipe 'robust-ann' first trains an ANN: it needs samples, which `prepared` takes. Use `trustsnn harden`."
        )

    def prepared(
        self, model: SpikingNetwork, data: Dataset, config: TrainConfig, folder: Path | None = None, **watch: Any
    ) -> SpikingNetwork:
        """The converted network, its ANN trained as `config` says."""
        ann = self.ann(model, config.seed)
        train(ann, data, config, recipe=self, folder=folder, **watch)
        return self.converted(ann, data, model)

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """As `AT`, on the ANN or on what was converted from it."""
        plain = AT(**{each.name: getattr(self, each.name) for each in fields(AT)})
        plain.check(model)
        if not rectified(model) and any(n.leak.requires_grad or not n.threshold.requires_grad for n in neurons_of(model)):
            raise ConfigError("The recipe 'robust-ann' trains what its `prepared` gives, got another network.")
        return plain.losses(model, x, y, draws)

    def ann(self, model: SpikingNetwork, seed: int) -> SpikingNetwork:
        """A fresh ReLU network of the model's layers; ConfigError where there is none, as for an architecture with branches."""
        arguments = {**model.architecture["arguments"], "neuron": "relu", "steps": 1, "learn": False, "seed": seed}
        for name in ("leak", "threshold", "reset", "detach_reset", "comparator", "gain", "initial", "readout"):
            arguments.pop(name, None)
        made = rebuild({**model.architecture, "arguments": arguments})
        assert isinstance(made, SpikingNetwork)
        return made

    def converted(self, ann: SpikingNetwork, data: Dataset, model: SpikingNetwork) -> SpikingNetwork:
        """The spiking network that starts as `ann`, with time steps and surrogate of `model`: thresholds are parameters, leaks are
        not."""
        balance = Calibration(data.take(self.samples), percentile=self.percentile, scale=self.scale)
        of_model = model.architecture["arguments"]
        how = {name: of_model[name] for name in ("surrogate", "width") if name in of_model}
        network = hybrid_start(ann, model.spec.steps, balance, learn=True, **how)
        for neuron in neurons_of(network):
            neuron.leak.requires_grad_(False)
        return network
