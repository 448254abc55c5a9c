"""The networks of the tutorials of snnTorch, SpikingJelly and Norse, and one of sinabs, wrapped as they are.

What a framework computes by itself is computed here by its own calls: its own loop, its own reset, its own surrogate.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.attacks.estimators import estimator
from trustsnn.models.contract import check_contract
from trustsnn.neurons import STBP, Surrogate

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def snntorch_dense(t):
    def own(net, x):
        spikes, _ = net(x)
        return spikes.sum(0) / len(spikes)

    return t.DenseNet(hidden=100), own, {"time_steps": 25, "output": 0}, ("atan", 0.5), "sample"


def snntorch(t):
    from snntorch import utils

    def own(net, x):
        utils.reset(net)
        return torch.stack([net(x)[0] for _ in range(10)]).mean(0)

    return t.conv_net(), own, {"time_steps": 10, "output": 0}, None, "step"


def spikingjelly(t):
    from spikingjelly.activation_based import functional

    def own(net, x):
        functional.reset_net(net)
        return net(x)

    return t.CSNN(channels=8), own, {"time_steps": 4}, ("atan", 0.5), "sample"


def spikingjelly_one_step(t):
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def own(net, x):
        functional.reset_net(net)
        return sum(net(x) for _ in range(8)) / 8

    node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.PiecewiseQuadratic(alpha=0.5))
    return (
        nn.Sequential(layer.Flatten(), layer.Linear(784, 10, bias=False), node),
        own,
        {"time_steps": 8},
        ("triangular", 2.0),
        "step",
    )


def spikingjelly_sequence(t):
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def own(net, x):
        functional.reset_net(net)
        return net(x.expand(8, *x.shape)).mean(0)

    def node():
        return neuron.ParametricLIFNode(v_threshold=0.3, surrogate_function=surrogate.Sigmoid(alpha=4.0))

    net = nn.Sequential(layer.Flatten(), layer.Linear(784, 50), node(), layer.Linear(50, 10), node())
    functional.set_step_mode(net, "m")
    return net, own, {"time_steps": 8}, ("sigmoid", 0.25), "sequence"


def norse(t):
    return t.Classifier(), lambda net, x: net(x), {"time_steps": 32}, None, "sample"


def norse_sequential(t):
    import norse.torch as nt

    p = nt.LIFParameters(v_th=torch.as_tensor(0.05), method="triangle", alpha=torch.as_tensor(1.0))
    net = nt.SequentialState(nt.Lift(nn.Flatten()), nn.Linear(784, 50), nt.LIF(p=p), nn.Linear(50, 10), nt.LI())
    return net, lambda net, x: net(x.expand(16, *x.shape))[0].mean(0), {"time_steps": 16}, ("triangular", 1.0), "sequence"


def norse_one_step(t):
    import norse.torch as nt

    p = nt.LIFBoxParameters(v_th=torch.as_tensor(0.05), method="triangle", alpha=torch.as_tensor(1.0))

    def own(net, x):
        state, found = None, []
        for _ in range(16):
            out, state = net(x, state)
            found.append(out)
        return torch.stack(found).mean(0)

    net = nt.SequentialState(nn.Flatten(), nn.Linear(784, 50), nt.LIFBoxCell(p=p), nn.Linear(50, 10), nt.LIBoxCell())
    return net, own, {"time_steps": 16}, ("triangular", 1.0), "step"


def sinabs(t):
    import sinabs
    import sinabs.layers as sl
    from sinabs.activation import SingleExponential, SingleSpike

    def own(net, x):
        sinabs.reset_states(net)
        return net(x.unsqueeze(1).expand(-1, 8, *x.shape[1:])).mean(1)

    def neurons():
        return sl.LIF(tau_mem=5.0, spike_fn=SingleSpike, surrogate_grad_fn=SingleExponential(grad_width=0.5), norm_input=False)

    net = nn.Sequential(nn.Flatten(2), nn.Linear(784, 50), neurons(), nn.Linear(50, 10), neurons())
    return net, own, {"time_steps": 8}, ("exponential", 0.5), "batch-first"


MODELS = [
    *(snntorch_dense, snntorch, spikingjelly, spikingjelly_one_step, spikingjelly_sequence),
    *(norse, norse_sequential, norse_one_step, sinabs),
]


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def peer(request, monkeypatch):
    """A module, its own logits, how it is wrapped, the surrogate of ours that equals its own, and the way it takes time."""
    pytest.importorskip(request.param.__name__.partition("_")[0])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tutorials

    torch.manual_seed(0)
    module, own, settings, same, takes = request.param(tutorials)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.weight.mul_(3)  # so that untrained layers spike
    module.eval()
    x = torch.rand(5, 1, 28, 28)
    return SimpleNamespace(module=module, own=own, settings=settings, same=same, takes=takes, x=x)


def gradient(model, x):
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return logits.detach(), torch.autograd.grad((logits * torch.linspace(-1, 2, logits.shape[1])).sum(), leaf)[0]


def test_logits_are_the_frameworks_own_whatever_ran_before(peer):
    with torch.no_grad():
        expected = peer.own(peer.module, peer.x).clone()
        model = trustsnn.wrap(peer.module, classes=10, **peer.settings)
        peer.own(peer.module, torch.rand(5, 1, 28, 28))  # leaves states behind
        for _ in range(2):
            torch.testing.assert_close(model(peer.x), expected, atol=1e-5, rtol=0)
    assert model.takes == peer.takes
    assert not model.own_surrogate
    assert check_contract(model, peer.x, 10) == []
    assert expected.std() > 0


def test_the_spikes_are_those_of_the_frameworks_layers(peer):
    model = trustsnn.wrap(peer.module, classes=10, **peer.settings)
    model(peer.x)
    seen = {neuron.name: 0.0 for neuron in model.foreign_neurons}

    def add(name, output):
        spikes = output[0] if isinstance(output, tuple) else output
        seen[name] += float(spikes.detach().sum())

    hooks = [
        neuron.layer.register_forward_hook(lambda layer, inputs, output, name=neuron.name: add(name, output))
        for neuron in model.foreign_neurons
    ]
    counts = model.unroll(peer.x).spike_counts
    for hook in hooks:
        hook.remove()
    assert {name: float(each.sum()) for name, each in counts.items()} == seen
    assert sum(seen.values()) > 0


def test_an_estimator_replaces_the_surrogate_and_not_the_forward(peer):
    model = trustsnn.wrap(peer.module, classes=10, **peer.settings)
    logits, own = gradient(model, peer.x)
    for name, width in (
        ("triangular", 2.0),
        ("atan", 0.5),
        ("rectangular", 1.0),
        ("exponential", 1.0),
        ("sigmoid", 0.25),
        ("ste", 1.0),
    ):
        with STBP(Surrogate(name, width)).applied(model):
            same, other = gradient(model, peer.x)
        torch.testing.assert_close(same, logits, atol=1e-6, rtol=0)
        assert other.abs().max() > 0
        if peer.same == (name, width):
            torch.testing.assert_close(other, own, rtol=1e-4, atol=1e-6 * float(own.abs().max()))
        else:
            assert (other - own).abs().max() > 1e-3 * own.abs().max()
    again, back = gradient(model, peer.x)
    assert torch.equal(again, logits)
    torch.testing.assert_close(back, own)


def test_attacks_run_through_the_estimators_for_foreign_neurons(peer):
    model = trustsnn.wrap(peer.module, classes=10, **peer.settings)
    with torch.no_grad():
        y = model(peer.x).argmax(1)
    found = {
        name: PGD(eps=0.1, steps=2, estimator=estimator(name) if name else None)(model, peer.x, y)
        for name in (None, "pdsg", "assg")
    }
    for adversarial in found.values():
        assert (adversarial - peer.x).abs().max() <= 0.1 + 1e-6
    assert not torch.equal(found["pdsg"], peer.x)
    assert not torch.equal(found["assg"], peer.x)
