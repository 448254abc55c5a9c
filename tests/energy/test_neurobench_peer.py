"""NeuroBench 2.3.0 on the same network, stepped by snnTorch's neurons."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from trustsnn.energy import count, metrics
from trustsnn.models import build
from trustsnn.models.network import SpikingNetwork

pytestmark = pytest.mark.peer


class Stepped(nn.Module):
    """A trustsnn network as a loop over its steps, with snnTorch's neurons; each spike times `scale`."""

    def __init__(self, network: SpikingNetwork, leaky, scale: float) -> None:
        super().__init__()
        self.steps, self.scale = network.spec.steps, scale
        self.layers = nn.ModuleList(network.layers)
        for place, layer in enumerate(network.layers):
            if type(layer).__name__ == "SpikingNeuron":
                self.layers[place] = leaky()

    def forward(self, x):
        for layer in self.layers:
            if hasattr(layer, "init_leaky"):
                layer.mem = layer.init_leaky()
        total = 0
        for _ in range(self.steps):
            h = x
            for layer in self.layers:
                h = self.scale * layer(h) if hasattr(layer, "init_leaky") else layer(h)
            total = total + h
        return total / self.steps


@pytest.fixture(scope="module")
def benchmark():
    """A function from a network and samples to NeuroBench's metrics of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snntorch = pytest.importorskip("snntorch")
        models = pytest.importorskip("neurobench.models")
        from neurobench.benchmarks import Benchmark
        from neurobench.metrics import static, workload

    def run(network, data, scale=1.0, batch=20):
        def leaky():
            return snntorch.Leaky(0.5, threshold=1.0, init_hidden=True, reset_mechanism="zero", reset_delay=False)

        stepped = Stepped(network, leaky, scale)
        model = models.TorchModel(stepped)
        model.add_activation_module(snntorch.SpikingNeuron)
        x, y = (torch.from_numpy(each) for each in data.batch(np.arange(len(data))))
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=batch)
        asked = [
            [static.Footprint, static.ConnectionSparsity, static.ParameterCount],
            [workload.ActivationSparsity, workload.SynapticOperations, workload.MembraneUpdates],
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Benchmark(model, loader, [], [], asked).run(quiet=True)

    return run


@pytest.fixture(scope="module")
def mlp(digits_train):
    from trustsnn.training import TrainConfig, train

    network = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, seed=1)
    train(network, digits_train, TrainConfig(epochs=2, batch_size=64, learning_rate=4e-3))
    with torch.no_grad():
        network.layers[4].weight[network.layers[4].weight.abs() < 0.01] = 0
    return network.eval()


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_same_figures(name, mlp, digits_model, some, benchmark):
    network = mlp if name == "mlp" else digits_model
    theirs, found = benchmark(network, some), count(network, some, every_step=True)
    ours = metrics(found)
    for key in ("Effective_MACs", "Effective_ACs", "Dense"):
        assert ours["SynapticOperations"][key] == pytest.approx(theirs["SynapticOperations"][key], rel=1e-12)
    assert ours["ActivationSparsity"] == pytest.approx(theirs["ActivationSparsity"], rel=1e-12)
    assert ours["MembraneUpdates"] == pytest.approx(theirs["MembraneUpdates"], rel=1e-12)
    assert round(ours["ConnectionSparsity"], 4) == theirs["ConnectionSparsity"]
    assert ours["ParameterCount"] == theirs["ParameterCount"]


def test_spikes_that_a_constant_scales_are_additions_here_and_multiplications_there(mlp, some, benchmark):
    plain, scaled = (benchmark(mlp, some, scale)["SynapticOperations"] for scale in (1.0, 0.5))
    assert plain["Effective_ACs"] > 0
    assert scaled["Effective_ACs"] == 0
