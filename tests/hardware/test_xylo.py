"""The Xylo twin, against xylosim's update written out in plain integers."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy, folded
from trustsnn.hardware.fixed import Core, cores
from trustsnn.hardware.xylo import Xylo, XyloNeuron, dash, decayed, scale
from trustsnn.models import build
from trustsnn.neurons import Dynamics, SpikingNeuron


def held(x: int) -> int:
    return max(-32768, min(32767, x))


def less(v: int, bits: int) -> int:
    """What a decay takes away: a shift, at least 1."""
    shifted = v // 2**bits
    return shifted if shifted else (v > 0) - (v < 0)


def core_of(*, leak: float = 0.75, weight: float = 0.5, bias: float = 0.05, analogue: bool = False) -> Core:
    neurons = SpikingNeuron(Dynamics(leak=leak, reset="soft"))
    return Core(torch.full((1, 2), weight), torch.tensor([bias]), neurons, analogue, 1, 1.0)


@pytest.mark.parametrize("synapse", [True, False])
def test_steps_are_xylosims(synapse):
    draw, core = random.Random(0), core_of()
    neuron, threshold = XyloNeuron(core.neurons, core, synapse), scale(core).threshold
    bias = int(neuron.bias)
    assert (bias > 0) == synapse
    size = [2 ** draw.randint(1, 15) for _ in range(4000)]
    i, v, x = ([draw.randint(-each, each - 1) for each in size] for _ in range(3))
    membranes, spikes, after = neuron.step(torch.tensor([i, v]).T, torch.tensor(x))
    for n in range(len(size)):
        current = held((i[n] if synapse else 0) + x[n] - bias) if synapse else held(i[n] + x[n])
        current -= less(current, 1) if synapse else 0
        u = held(v[n] + held(held(-less(v[n], 2) + current) + bias))
        rest, count = u, 0
        while rest >= threshold and count < 31:
            rest, count = rest - threshold, count + 1
        assert [int(membranes[n]), int(spikes[n]), *after[n].tolist()] == [u, count, current if synapse else 0, rest]
    assert int(spikes.max()) > 1
    assert int(membranes.min()) == -32768
    assert int(membranes.max()) == 32767


def test_no_more_than_31_spikes_in_a_step():
    core = core_of(weight=50.0)
    neuron = XyloNeuron(core.neurons, core, False)
    _, count, after = neuron.step(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([40 * neuron.level]))
    assert count.item() == 31
    assert after[0, 1].item() == 9 * neuron.level


def test_a_decay_takes_at_least_1():
    values = torch.tensor([0, 1, -1, 5, -5, 64, -64])
    assert decayed(values, 3).tolist() == [0, 0, 0, 4, -4, 56, -56]
    assert decayed(values, 0).tolist() == [0] * 7


@pytest.mark.parametrize(("leak", "bits"), [(0.0, 0), (0.5, 1), (0.75, 2), (0.9, 3), (0.99, 7), (1.0, 15)])
def test_the_shift_of_a_leak(leak, bits):
    assert dash(leak) == bits


def test_the_scale_fills_weights_and_stays_within_16_bits():
    found = scale(core_of())  # 127 / .5 = 254; sums of up to 1.05 fit 254 * 64 * 1.05 = 17,069, not twice that
    assert (found.threshold, found.shift, found.unit) == (254 * 64, 6, 254 * 64)
    assert scale(core_of(weight=1e-4, bias=0.0)).threshold == 32767
    sums = scale(core_of(analogue=True))
    assert sums.unit == pytest.approx(32767 / 1.05)


def test_the_charge_of_a_spike_arrives_over_time():
    core = core_of(leak=1.0, bias=0.0)
    neuron = XyloNeuron(core.neurons, core, True)
    current = torch.zeros(4, 1, 1)
    current[0] = 0.5
    _, membranes = neuron.unroll(current)
    torch.testing.assert_close(membranes.flatten(), 0.5 * torch.tensor([1 / 2, 3 / 4, 7 / 8, 15 / 16]), rtol=0, atol=1e-3)


def network_of(**options) -> nn.Module:
    given = {"input_shape": (1, 8, 8), "classes": 4, "channels": 0.25, "reset": "soft", "encoder": "poisson", **options}
    return build("conv", **given)


@pytest.mark.parametrize("options", [{"reset": "hard"}, {"initial": 0.5}])
def test_what_it_does_not_have_is_refused_or_approximated(options):
    network = network_of(**options)
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=('soft'|0)"):
        deploy(network, [Xylo()])
    neuron = deploy(network, [Xylo(approximate=True)]).layers[1]
    assert isinstance(neuron, XyloNeuron)
    assert neuron.dynamics.reset == "soft"
    assert not neuron.rest(torch.ones(1, 1, dtype=torch.int64)).any()


@pytest.mark.parametrize("encoder", ["poisson", "direct"])
def test_weights_of_spikes_have_8_bits(encoder):
    network = network_of(encoder=encoder)
    deployed, plan = deploy(network, [Xylo()]), cores(folded(network.layers), network.spec)
    for name, layer in folded(network.layers).named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found, core = scale(plan[name]), plan[name]
            programmed = deployed.layers.get_submodule(name).weight
            codes = programmed.double() * found.unit / 2**found.shift / core.pool
            if core.analogue:
                assert torch.equal(programmed, layer.weight)
            else:
                assert codes.sub(codes.round()).abs().max() < 1e-4
                assert 120 < codes.abs().max() < 128.001


def test_its_setting_is_checked():
    with pytest.raises(ConfigError, match="synapse"):
        Xylo(synapse=2)
