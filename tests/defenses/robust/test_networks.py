"""What the recipes need of networks: parts of the time steps, observed membranes, gates, leaks by step, low-passed images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.attacks.twin import ann_twin
from trustsnn.encoders import encoder
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels import available, using
from trustsnn.models import build
from trustsnn.models.extended import build_extended, extended
from trustsnn.models.gates import Gate
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate, reference_forward
from trustsnn.neurons.bitserial import BitSerial
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.evolving import EvolvingLeak
from trustsnn.neurons.normalised import normalised
from trustsnn.neurons.reference import _Spike
from trustsnn.rng import Draws

DYNAMICS = [
    Dynamics(leak=0.5),
    Dynamics(leak=0.75, reset="soft", initial=0.5),
    Dynamics(leak=0.5, reset="soft", detach_reset=True, comparator=">"),
    Dynamics(leak=0.25, gain="leaky", initial=0.25, detach_reset=True),
]


def dyadic(model):
    """Weights in sixteenths, whose sums are exact in any order."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 0:
                parameter.copy_((parameter * 64).round() / 16)
        for module in model.modules():
            if isinstance(module, BatchNormThroughTime):
                module.weight.mul_(torch.tensor([[1.0], [0.25], [0.5], [0.75]]))
    return model.eval()


@pytest.mark.parametrize("kernels", available())
@pytest.mark.parametrize("cuts", [(0, 2, 4), (0, 1, 2, 3, 4), (0, 3, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {"reset": "hard", "encoder": "direct", "learn": True},
        {"reset": "soft", "encoder": "latency", "initial": 0.5},
        {"reset": "soft", "encoder": "poisson", "norm": "bntt"},
        {"reset": "hard", "encoder": "direct", "readout": "spike-count"},
    ],
    ids=lambda options: options["encoder"],
)
def test_parts_give_the_spikes_of_the_whole(options, cuts, kernels):
    model = dyadic(build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, **{"norm": "none", **options}))
    x = torch.randint(0, 17, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
    draws = Draws(0, "t", tuple("abcde")) if model.spec.stochastic else None
    with using(kernels), torch.no_grad():
        whole = model.unroll(x, draws)
        membranes = {}
        parts = [model.part(x, range(a, b), membranes, draws) for a, b in pairwise(cuts)]
    assert all(int(count.sum()) for count in whole.spike_counts.values())
    assert torch.equal(torch.cat(parts), whole.logits)
    assert len(membranes) == len(whole.spike_counts)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_parts_of_a_layer_leave_the_membrane_of_the_whole(dynamics):
    neuron = SpikingNeuron(dynamics)
    current = torch.randn(6, 3, 50, generator=torch.Generator().manual_seed(1))
    spikes, membrane = neuron.unroll(current)
    found, before = [], None
    for part in current.split((1, 3, 2)):
        fired, before = neuron.resume(part, len(part), before)
        found.append(fired)
    assert torch.equal(torch.cat(found), spikes)
    assert spikes.mean() > 0.05
    last = membrane[-1] * (1 - spikes[-1]) if dynamics.reset == "hard" else membrane[-1] - spikes[-1] * dynamics.threshold
    assert torch.equal(before, last)


def test_all_steps_in_one_part_are_the_forward_pass(digits_train):
    model, x = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5), torch.from_numpy(digits_train.batch(range(8))[0])
    membranes = {}
    assert torch.equal(model.part(x, range(4), membranes).sum(0) / 4, model(x))
    assert membranes == {}


def test_a_bit_serial_network_has_no_parts(tiny):
    model = tiny(neuron="bit-serial", threshold=1.0)
    with pytest.raises(ConfigError, match="all of its time steps at once"):
        model.part(torch.rand(2, 1, 4, 4).double(), range(2), {})


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_observed_distances_are_the_membranes_of_the_plain_loop(dynamics, constant):
    neuron = SpikingNeuron(dynamics, learn=True).double()
    drawn = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    current, weight = drawn[0, : 1 if constant else 5].requires_grad_(), drawn[1]
    leaves = [current, neuron.leak, neuron.threshold]
    found = neuron.distances(current, neuron.fire(current, 5))
    plain = reference_forward(current.expand(5, 3, 7), neuron.leak, neuron.threshold, dynamics, Surrogate())[1] - neuron.threshold
    torch.testing.assert_close(found, plain)
    for mine, theirs in zip(*(torch.autograd.grad((d * weight).sum(), leaves) for d in (found, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "neuron", [Calibrated(Dynamics(leak=1.0, reset="soft"), shape=[7]), BitSerial(5)], ids=["calibrated", "bits"]
)
def test_distances_of_converted_neurons_are_those_of_the_membranes_that_fired(neuron):
    drawn = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(2))
    if isinstance(neuron, Calibrated):
        neuron.potential.copy_(drawn[1, 0, 0])
    spikes, membrane = neuron.unroll(drawn[0] * 4)
    found = neuron.distances(drawn[0] * 4, spikes)
    torch.testing.assert_close(found, membrane - 1, rtol=1e-4, atol=1e-4)
    assert torch.equal(found >= 0, spikes > 0)


def test_a_network_tells_the_distances_of_every_layer():
    model = build("sew-resnet-small", input_shape=(1, 8, 8), classes=10, channels=0.25, threshold=0.05)
    x = torch.rand(4, 1, 8, 8)
    model.eval()
    logits, distances = model.distances(x)
    trace = model.unroll(x)
    torch.testing.assert_close(logits, trace.logits.mean(0))
    assert list(distances) == list(trace.spike_counts)
    assert sum(bool(count.sum()) for count in trace.spike_counts.values()) > 2
    for name, count in trace.spike_counts.items():
        assert torch.equal((distances[name] >= 0).float().sum(0), count)


@pytest.mark.parametrize("shape", [(48, 16), (12, 32, 5, 3)])
def test_normalisation_alone_is_that_of_torch(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 5
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    results = []
    for fast in (True, False):
        layer = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(shape[1])
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 2, shape[1]))
            layer.bias.copy_(torch.linspace(1, -2, shape[1]))
        leaf = (x if len(shape) == 2 else x.contiguous(memory_format=torch.channels_last)).clone().requires_grad_()
        out = normalised(layer, leaf) if fast else layer(leaf)
        gradients = torch.autograd.grad((out * weight).sum(), [leaf, layer.weight, layer.bias])
        results.append([out, *gradients, layer.running_mean, layer.running_var, layer.num_batches_tracked])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("dynamics", [d for d in DYNAMICS if d.gain == "unit"])
def test_leaks_by_step_equal_the_plain_loop(dynamics):
    neuron = EvolvingLeak(4, dynamics, Surrogate(), learn=True).double()
    with torch.no_grad():
        neuron.leak.copy_(torch.tensor([0.9, 0.2, 0.0, 0.7]))
    drawn = torch.randn(2, 4, 3, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    current, weight = drawn[0].requires_grad_(), drawn[1]
    after, spikes = dynamics.initial * neuron.threshold, []
    for leak, x in zip(neuron.leak, current, strict=True):
        u = leak * after + x
        spikes.append(_Spike.apply(u - neuron.threshold, Surrogate(), dynamics.comparator == ">"))
        fired = spikes[-1].detach() if dynamics.detach_reset else spikes[-1]
        after = u * (1 - fired) if dynamics.reset == "hard" else u - fired * neuron.threshold
    plain, leaves = torch.stack(spikes), [current, neuron.leak, neuron.threshold]
    assert torch.equal(neuron(current), plain)
    for mine, theirs in zip(*(torch.autograd.grad((s * weight).sum(), leaves) for s in (neuron(current), plain)), strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ModelContractError, match="one for each leak"):
        neuron(current[:3])


def test_equal_leaks_are_the_layer_without():
    current = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(4))
    one, many = SpikingNeuron(Dynamics(leak=0.3)), EvolvingLeak(4, Dynamics(leak=0.3))
    assert torch.equal(many(current), one(current))
    found = many.distances(current, many(current))
    assert torch.equal(found, one.distances(current, one(current)))


def test_a_gate_passes_its_share_by_sample_alone():
    gate = Gate([500])
    with torch.no_grad():
        gate.keep.fill_(0.7)
    spikes, draws = torch.ones(4 * 20, 500), Draws(0, "gate", tuple(map(str, range(20))))
    out = gate(spikes, range(4), draws).unflatten(0, (4, 20))
    assert float(out.detach().mean()) == pytest.approx(0.7, abs=0.02)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    some = draws.select([7, 3])
    assert torch.equal(gate(spikes[:8], range(4), some).unflatten(0, (4, 2)), out[:, [7, 3]])
    assert torch.equal(gate(spikes[:40], range(2, 4), draws).unflatten(0, (2, 20)), out[2:])
    (slope,) = torch.autograd.grad(out.sum(), gate.keep)
    assert torch.equal(slope, torch.full_like(slope, 80.0))
    with torch.no_grad():
        gate.keep.fill_(-3)
    assert float(gate(spikes, range(4), draws).detach().mean()) == pytest.approx(0.1, abs=0.02)
    with pytest.raises(ModelContractError, match="explicit generator"):
        gate(spikes, range(4), None)


def test_frequency_coding_keeps_a_disc_of_frequencies():
    x = torch.rand(3, 2, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = encoder("frequency").encode(x, 4, None)
    rows, columns = np.meshgrid(np.arange(8), np.arange(6), indexing="ij")
    for t, radius in enumerate((3, 2.625, 2.25, 1.875)):
        kept = np.zeros((3, 2, 8, 6), complex)
        for k in range(-4, 4):
            for m in range(-3, 3):
                wave = np.exp(2j * np.pi * (k * rows / 8 + m * columns / 6))
                if k * k + m * m <= radius * radius:
                    kept += (x.numpy() * wave.conj()).sum((2, 3))[..., None, None] * wave / 48
        np.testing.assert_allclose(found[t].numpy(), kept.real, atol=1e-12)
    large = torch.rand(33, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = encoder("frequency").encode(large, 4, None)
    assert torch.equal(encoder("frequency").encode(large[5:6], 4, None), whole[:, 5:6])


@pytest.mark.parametrize("name", ["conv", "sew-resnet-small", "spikformer-small"])
def test_an_extended_network_keeps_its_weights_and_comes_back(name, tmp_path):
    readout = "spike-count" if name == "conv" else "membrane"
    model = build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, readout=readout, threshold=0.05)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    x, draws = torch.rand(4, 1, 8, 8), Draws(0, "x", tuple("abcd"))
    gated = extended(model, gates=True, leaks=True)
    model.eval(), gated.eval()
    torch.testing.assert_close(gated(x, draws), model(x))  # all gates are open, all leaks are equal
    gates = [module for module in gated.modules() if isinstance(module, Gate)]
    neurons = [module for module in gated.modules() if isinstance(module, SpikingNeuron)]
    assert len(gates) == len(neurons) - (name == "conv")
    with torch.no_grad():
        for gate in gates:
            gate.keep.fill_(0.5)
    assert gated.spec.stochastic
    assert not torch.equal(gated(x, draws), model(x))
    trustsnn.save(gated, tmp_path)
    back = trustsnn.load(tmp_path)
    assert torch.equal(back(x, draws), gated(x, draws))
    low = extended(back, encoder="frequency")
    assert (low.spec.encoder, len(low.state_dict())) == ("frequency", len(back.state_dict()))
    assert ann_twin(back)(x).shape == (4, 10)
    learning = build_extended(**back.architecture["arguments"], seed=3, learn=True)
    assert sum(isinstance(neuron.threshold, torch.nn.Parameter) for neuron in learning.modules() if hasattr(neuron, "dynamics"))


def test_what_cannot_be_extended_is_refused(tiny):
    from trustsnn.models.onestep import build_onestep

    for model in (tiny(neuron="qcfs"), build_onestep(input_shape=(1, 8, 8), classes=10, channels=0.1)):
        with pytest.raises(ConfigError, match="bundled network of LIF neurons"):
            extended(model, leaks=True)
