"""The Loihi twin, against its arithmetic written out in plain integers."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy, folded
from trustsnn.hardware.fixed import Core, cores
from trustsnn.hardware.loihi import Loihi, LoihiNeuron, bias_format, cuba_lif, scale
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build
from trustsnn.neurons import SpikingNeuron

MODULUS = 2**24


def reference_step(u: int, v: int, a: int, bias: int, du: int, dv: int, vth: int) -> tuple[int, int, bool, int, set[str]]:
    """u, the membrane, whether it fires, v afterwards, and what happened, of one neuron in Python's integers."""
    seen = set()
    u = (1 if u >= 0 else -1) * (abs(u) * (4096 - du - 1) // 4096) + a * 64
    while u > 2**23 or u <= -(2**23):
        seen.add("wrapped")
        u += -MODULUS if u > 0 else MODULUS
    total = (1 if v >= 0 else -1) * (abs(v) * (4096 - dv) // 4096) + u + bias
    membrane = max(-(2**23) + 1, min(2**23 - 1, total))
    seen |= {"saturated"} if membrane != total else set()
    seen |= {"negative"} if membrane < 0 else set()
    fires = membrane > vth * 64
    seen |= {"fired"} if fires else set()
    return u, membrane, fires, 0 if fires else membrane, seen


def random_neuron(draw: random.Random) -> dict[str, int]:
    """Parameters and a first state, of every size up to the limits."""
    size = 2 ** draw.randint(1, 23)
    return {
        "u": draw.randint(-size, size - 1),
        "v": draw.randint(1 - size, size - 1),
        "bias": draw.randint(-4096, 4095) << draw.randint(0, 7),
        "du": draw.choice([0, 4095, draw.randint(0, 4095)]),
        "dv": draw.choice([0, 4095, draw.randint(0, 4095)]),
        "threshold": draw.choice([0, 131071, draw.randint(0, 131071)]),
    }


def test_the_step_is_bit_identical_to_plain_integers_on_10_000_neurons():
    draw, steps = random.Random(0), 10
    neurons = [random_neuron(draw) for _ in range(10_000)]
    given = [[draw.randint(-(2 ** draw.randint(0, 19)), 2**18) for _ in range(steps)] for _ in neurons]
    columns = {name: torch.tensor([neuron[name] for neuron in neurons]) for name in neurons[0]}
    u, v = columns.pop("u"), columns.pop("v")
    found = []
    for t in range(steps):
        step = cuba_lif(u, v, torch.tensor([a[t] for a in given]), **columns)
        u, v = step.u, step.v
        found.append(torch.stack([step.u, step.membrane, step.spikes.long(), step.v], 1).tolist())
    counts = dict.fromkeys(("wrapped", "saturated", "negative", "fired"), 0)
    for index, neuron in enumerate(neurons):
        u_, v_ = neuron["u"], neuron["v"]
        for t in range(steps):
            *expected, seen = reference_step(
                u_, v_, given[index][t], neuron["bias"], neuron["du"], neuron["dv"], neuron["threshold"]
            )
            assert found[t][index] == [int(each) for each in expected], (index, t, neuron)
            u_, v_ = expected[0], expected[3]
            for each in seen:
                counts[each] += 1
    assert min(counts.values()) > 1000, counts


@pytest.mark.parametrize(
    ("a", "u"), [(2**17, 2**23), (2**17 + 1, -(2**23) + 64), (-(2**17), 2**23), (-(2**17) + 1, -(2**23) + 64), (2**18, 0)]
)
def test_the_current_wraps_beyond_2_to_23(a, u):
    zero = torch.zeros(1, dtype=torch.int64)
    assert cuba_lif(zero, zero, torch.tensor([a]), zero, du=0, dv=0, threshold=0).u.tolist() == [u]


def test_a_bias_is_the_nearest_of_its_format():
    values = torch.cat(
        [torch.arange(-6000, 6000), torch.randint(-600_000, 600_000, (3000,), generator=torch.Generator().manual_seed(0))]
    )
    for value, found in zip(values.tolist(), bias_format(values).tolist(), strict=True):
        exponent = next((e for e in range(8) if abs(value) <= 4095 << e), 7)
        mantissa = found / 2**exponent
        assert mantissa == int(mantissa)
        assert -4096 <= mantissa <= 4095
        assert abs(found - value) * 2 <= 2**exponent or mantissa in (-4096, 4095)


@pytest.mark.parametrize(
    ("low", "high", "grid"),
    [(-1.0, 0.9, range(-256, 255, 2)), (0.0, 0.7, range(256)), (-0.3, 0.0, range(-255, 1)), (-200.0, 150.0, range(-256, 255, 2))],
)
def test_weights_are_mantissas_with_one_exponent(low, high, grid):
    weight = torch.linspace(low, high, 21).view(3, 7)
    layers = nn.Sequential(nn.Linear(7, 3), SpikingNeuron())
    layers[0].weight.data = weight
    spec = build("mlp", input_shape=(1, 2, 2), classes=2, encoder="poisson").spec
    found, programmed = scale(cores(layers, spec)["0"]), Loihi().fitted(layers, spec).weights(weight, Layer(Chip(), "0"))
    one = 2 ** (6 + found.exponent) / found.unit
    codes = (programmed / one).round()
    torch.testing.assert_close(codes * one, programmed)
    assert set(codes.long().flatten().tolist()) <= set(grid)
    assert codes.abs().max() > 125, "a bit of the mantissa is left unused"
    assert -8 <= found.exponent <= 7
    assert 1 <= found.threshold <= 131071
    assert found.unit == 64 * found.threshold
    assert (programmed - weight).abs().max() <= 0.5001 * one * grid.step


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_sum_can_wrap_around(sign):
    neurons, weight = SpikingNeuron(), torch.full((2, 4000), 0.01)
    weight[1] = sign
    found = scale(Core(weight, None, neurons, False, 1, 1.0))
    assert 2**22 < found.unit * 4000 < 2**23


@pytest.mark.parametrize("biases", [0.0, -30.0])
def test_a_network_runs_as_in_integers_of_its_own(digits_model, digits_test, biases):
    """The digits network on the chip, against weights read off it as integers. Large biases leave a negative exponent."""
    x = torch.from_numpy(digits_test.batch(range(24))[0])
    model = copy.deepcopy(digits_model)
    model.layers[5].bias.data[:4] += biases
    network, plan = deploy(model, [Loihi()]), cores(folded(model.layers), model.spec)
    assert (min(scale(core).exponent for core in plan.values()) < 0) == (biases < 0)
    names = [name for name, layer in network.layers.named_children() if isinstance(layer, SpikingNeuron)]
    spikes, pool, weights = x, 1, None
    for name, layer in network.layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found, weights, core = scale(plan[name]), layer, plan[name]
            one = 2 ** (6 + found.exponent) * pool / found.unit
            codes = (layer.weight.double() / one).round()
            assert core.analogue or (codes * one - layer.weight).abs().max() < 1e-6
        elif isinstance(layer, SpikingNeuron):
            spikes = integers(layer, weights, codes, spikes, found, core)
            pool = 1
        elif isinstance(layer, nn.AvgPool2d):
            pool, spikes = 4, 4 * layer(spikes)
        else:
            spikes = layer(spikes)
    with torch.no_grad():
        trace = network.unroll(x)
        expected = (F.linear(spikes, codes) * (one / pool) + weights.bias.double()).unflatten(0, (4, -1))
    assert len(names) == 3
    assert all(count.sum() > 100 for count in trace.spike_counts.values())
    torch.testing.assert_close(trace.logits.double(), expected, rtol=0, atol=1e-4)


def integers(neurons: LoihiNeuron, weights: nn.Module, codes, inputs, found, core) -> torch.Tensor:
    """The spikes [4 * B, ...] of a layer, from integer weights and integer inputs, or from the host's sums."""
    with torch.no_grad():
        if core.analogue:
            bias = bias_format(weights(inputs).double() * found.unit).expand(4, -1, -1, -1, -1)
            sums = torch.zeros_like(bias)
        else:
            run = F.conv2d(inputs.double(), codes, padding=1) if codes.dim() == 4 else F.linear(inputs.double(), codes)
            sums = torch.tensor([math.floor(each * 2.0**found.exponent) for each in run.flatten().tolist()])
            sums = sums.view(4, -1, *run.shape[1:])
            bias = bias_format(core.bias.double() * found.unit).view(-1, *[1] * (codes.dim() - 2)).expand_as(sums)
    v, spikes = torch.zeros_like(sums[0]), []
    for a, b in zip(sums, bias, strict=True):
        v = v.sign() * (v.abs() * 2048 // 4096) + a * 64 + b
        assert v.abs().max() < 2**23
        spikes.append((v > found.threshold * 64).double())
        v = torch.where(v > found.threshold * 64, 0, v)
    return torch.stack(spikes).flatten(0, 1)


def test_a_soft_reset_is_refused_and_approximated_on_request():
    network = build("mlp", input_shape=(1, 2, 2), classes=3, reset="soft")
    with pytest.raises(ConfigError, match=r"reset='hard'.*approximate=true"):
        deploy(network, [Loihi()])
    neuron = deploy(network, parse("loihi:approximate=true")).layers[2]
    assert isinstance(neuron, LoihiNeuron)
    assert neuron.dynamics.reset == "hard"
    assert neuron.dynamics.comparator == ">"


@pytest.mark.parametrize("options", [{"norm": "group"}, {"norm": "none", "neuron": "relu"}])
def test_what_no_digital_chip_has_is_refused(options):
    network = build(
        "conv", input_shape=(1, 8, 8), classes=3, channels=0.25, **{**options, "neuron": options.get("neuron", "lif")}
    )
    with pytest.raises(ConfigError, match="A digital chip"):
        deploy(network, [Loihi()])


def test_other_twins_may_not_replace_the_neurons(image_network):
    with pytest.raises(ConfigError, match="Mismatched"):
        deploy(image_network[0], parse("mismatch+loihi"))


def test_the_host_computes_all_that_is_before_the_first_neurons():
    network = build("mlp", input_shape=(1, 2, 2), classes=3)
    network.layers = nn.Sequential(nn.Flatten(), first := nn.Linear(4, 5), nn.Linear(5, 6), SpikingNeuron(), nn.Linear(6, 3))
    deployed = deploy(network, [Loihi()])
    assert torch.equal(deployed.layers[1].weight, first.weight)
    assert not torch.equal(deployed.layers[4].weight, network.layers[4].weight)


def test_its_setting_is_checked():
    with pytest.raises(ConfigError, match="approximate"):
        Loihi(approximate=1)
