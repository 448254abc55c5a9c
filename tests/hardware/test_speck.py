"""The Speck twin: its scale, its integers and its limits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy, folded
from trustsnn.hardware.fixed import Core, cores
from trustsnn.hardware.speck import Speck, SpeckNeuron, scale
from trustsnn.models import build
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.neurons.fixed_point import FixedPoint


def core_of(weight: float, bias: float, threshold: float, *, reset: str = "soft", pool: int = 1) -> Core:
    neurons = SpikingNeuron(Dynamics(leak=1.0, threshold=threshold, reset=reset))
    return Core(torch.tensor([[weight, -weight / 2]]), torch.tensor([bias]), neurons, False, pool, 1.0)


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        (core_of(0.5, 0.1, 1.0), 254.0),
        (core_of(0.5, 0.1, 1.0, pool=4), 127 / 0.125),
        (core_of(0.5, 2.0, 1.0), 63.5),
        (core_of(0.5, 0.1, 327.67), 100.0),
    ],
)
def test_the_scale_is_the_least_of_three(core, expected):
    assert scale(core) == pytest.approx(expected)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_steps_are_integers_of_16_bits(reset):
    draw, neuron = (
        random.Random(0),
        SpeckNeuron(SpikingNeuron(Dynamics(leak=1.0, reset=reset)), core_of(0.5, 0.1, 1.0, reset=reset)),
    )
    states = [draw.randint(-32768, 32767) for _ in range(3000)]
    drives = [draw.randint(-40_000, 40_000) >> draw.randint(0, 16) for _ in states]
    found = [each.tolist() for each in neuron.step(torch.tensor(states), torch.tensor(drives))]
    for state, drive, *results in zip(states, drives, *found, strict=True):
        u = max(-32768, min(32767, state + drive))
        spikes, v = 0, u
        while v >= 254 and not (reset == "hard" and spikes):
            spikes, v = spikes + 1, 0 if reset == "hard" else v - 254
        assert results == [u, spikes, v]
    assert min(found[0]) == -32768
    assert max(found[0]) == 32767


def spiking(**options) -> nn.Module:
    """A network that the chip can run but for `options`."""
    given = {"input_shape": (1, 8, 8), "encoder": "poisson", "leak": 1.0, "reset": "soft", "readout": "spike-count", **options}
    return build("conv", classes=4, channels=0.25, **given)


def test_every_current_is_a_whole_number(draws_of, monkeypatch):
    network, found = spiking(), []
    deployed = deploy(network, [Speck()])

    def noted(neuron: SpeckNeuron, current: torch.Tensor) -> torch.Tensor:
        found.append((current.double() * neuron.unit).frac().abs())
        return FixedPoint.drive(neuron, current)

    monkeypatch.setattr(SpeckNeuron, "drive", noted)
    with torch.no_grad():
        deployed(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), draws_of(4))
    assert len(found) >= 3
    assert max(float(torch.minimum(each, 1 - each).max()) for each in found) < 0.01
    plan = cores(folded(network.layers), network.spec)
    for name, layer in deployed.layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            codes = layer.weight.double() * scale(plan[name]) / plan[name].pool
            assert codes.sub(codes.round()).abs().max() < 1e-4
            assert codes.abs().max() < 127.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": 0.5}, "leak=1"),
        ({"encoder": "direct"}, "Its input is spikes"),
        ({"readout": "membrane"}, "readout='spike-count'"),
    ],
)
def test_what_it_does_not_have_is_refused_or_approximated(options, message):
    network = spiking(**options)
    with pytest.raises(ConfigError, match=message):
        deploy(network, [Speck()])
    assert any(isinstance(layer, SpeckNeuron) and layer.leak == 1 for layer in deploy(network, [Speck(approximate=True)]).layers)


def test_its_sizes_are_limits():
    network = spiking()
    network.layers[0] = nn.Conv2d(1, 8, 17, padding=8)
    with pytest.raises(ConfigError, match="up to 16 wide"):
        deploy(network, [Speck()])
    parts = [part for _ in range(10) for part in (nn.Conv2d(1, 1, 3, padding=1), SpikingNeuron(Dynamics(leak=1.0)))]
    network.layers = nn.Sequential(*parts)
    with pytest.raises(ConfigError, match="9 cores, and the network has 10"):
        deploy(network, [Speck()])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(1, 1, 3), nn.AvgPool2d(2), SpikingNeuron()], "AvgPool2d"),
        ([nn.Conv2d(1, 1, 3), nn.Flatten(), SpikingNeuron()], "Flatten"),
        ([nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), SpikingNeuron()], "Conv2d"),
        ([nn.Conv2d(1, 1, 3), SpikingNeuron(), nn.MaxPool2d(2)], "MaxPool2d"),
        ([nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 3), SpikingNeuron()], "do not overlap"),
        ([SpikingNeuron()], "behind weights"),
    ],
)
def test_layers_that_no_digital_chip_has_are_refused(layers, message):
    with pytest.raises(ConfigError, match=message):
        cores(nn.Sequential(*layers), spiking().spec)
