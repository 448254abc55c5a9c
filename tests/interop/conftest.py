"""Modules that keep time, state and spikes as those of other frameworks do, and say that they are theirs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import trustsnn

STEPS = 4


class Spike(torch.autograd.Function):
    """1 above the threshold; backward a triangle of width 1."""

    @staticmethod
    def forward(ctx, distance):
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.relu(1 - ctx.saved_tensors[0].abs())


def of(module):
    """A class, or function, as if `module` defined it."""

    def moved(thing):
        thing.__module__ = module
        return thing

    return moved


@of("snntorch._neurons.neurons")
class SpikingNeuron(nn.Module):
    def __init__(self):
        super().__init__()
        self.spike_grad = Spike.apply
        self.register_buffer("mem", torch.zeros(0), persistent=False)

    def reset_mem(self):
        self.mem = torch.zeros_like(self.mem)

    def mem_reset(self, mem):
        return self.spike_grad(mem - 1).detach()


@of("snntorch._neurons.leaky")
class Leaky(SpikingNeuron):
    def forward(self, x):
        before = self.mem if self.mem.shape == x.shape else torch.zeros_like(x)
        self.mem = 0.8 * before + x - self.mem_reset(before)
        return self.spike_grad(self.mem - 1)


@of("snntorch._neurons.stateleaky")
class StateLeaky(SpikingNeuron):
    def forward(self, x):
        return self.spike_grad(x - 1)


@of("spikingjelly.activation_based.base")
class MemoryModule(nn.Module):
    def reset(self):
        self.v = 0.0


class SurrogateFunction(nn.Module):
    def forward(self, distance):
        return Spike.apply(distance)


@of("spikingjelly.activation_based.neuron.base_node")
class BaseNode(MemoryModule):
    def __init__(self):
        super().__init__()
        self.surrogate_function = SurrogateFunction()
        self.v = 0.0

    def forward(self, sequence):
        spikes = []
        for x in sequence:
            self.v = self.v + (x - self.v) / 1.5
            spikes.append(self.surrogate_function(self.v - 0.6))
            self.v = self.v * (1 - spikes[-1])
        return torch.stack(spikes)


def threshold(distance, method, alpha):
    return Spike.apply(distance)


@of("norse.torch.functional.lif")
def lif_step(x, v, p, dt):
    v = 0.8 * v + x
    z = threshold(v - 1, p, 100.0)
    return z, v * (1 - z)


@of("norse.torch.module.snn")
class SNNCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation, self.p = lif_step, SimpleNamespace(method="super")

    def forward(self, x, state=None):
        return self.activation(x, torch.zeros_like(x) if state is None else state, "super", dt=0.001)


class SingleSpike(Spike):
    required_states = ("v_mem",)

    @classmethod
    def apply(cls, v_mem, level, surrogate):
        return Spike.apply(v_mem - level)


class MultiSpike(SingleSpike):
    """A spike for each multiple of the threshold."""

    @classmethod
    def apply(cls, v_mem, level, surrogate):
        return (v_mem / level).trunc().clamp_min(0)


@of("sinabs.layers.stateful_layer")
class StatefulLayer(nn.Module):
    def __init__(self, spike_fn=SingleSpike):
        super().__init__()
        self.spike_fn = spike_fn
        self.register_buffer("v_mem", torch.zeros(0))

    def forward(self, sequence):
        v, spikes = self.v_mem if self.v_mem.numel() else torch.zeros_like(sequence[:, 0]), []
        for x in sequence.unbind(1):
            v = 0.8 * v + x
            spikes.append(self.spike_fn.apply(v, 1.0, None))
            v = v - spikes[-1]
        self.v_mem = v
        return torch.stack(spikes, 1)


class Looped(nn.Module):
    """Goes through time by itself, and returns spikes and membranes."""

    def __init__(self, steps=STEPS, both=False):
        super().__init__()
        self.steps, self.both = steps, both
        self.fc, self.cell = nn.Linear(16, 3), SNNCell()

    def forward(self, x):
        state, found = None, []
        for _ in range(self.steps):
            found.append(self.cell(self.fc(x.flatten(1)), state))
            state = found[-1][1]
        spikes, membranes = (torch.stack(each) for each in zip(*found, strict=True))
        return (spikes, membranes) if self.both else (spikes, SimpleNamespace())


class OneStep(nn.Module):
    """One step of the same, with its state as an argument and a result."""

    def __init__(self):
        super().__init__()
        self.fc, self.cell = nn.Linear(16, 3), SNNCell()

    def forward(self, x, state=None):
        spikes, membrane = self.cell(self.fc(x.flatten(1)), None if state is None else state[0])
        return spikes, [membrane]

    def all_steps(self, x):
        state, spikes = None, []
        for _ in range(STEPS):
            spike, state = self(x, state)
            spikes.append(spike)
        return torch.stack(spikes)


def layers(neuron, start=1):
    return nn.Sequential(nn.Flatten(start), nn.Linear(16, 12), neuron(), nn.Linear(12, 3), neuron())


def repeated(x):
    return x.expand(STEPS, *x.shape)


def reset_all(module):
    for part in module.modules():
        for name in ("reset_mem", "reset"):
            getattr(part, name, lambda: None)()
        if isinstance(part, StatefulLayer):
            part.v_mem = torch.zeros(0)


CASES = {
    "snntorch": (lambda: layers(Leaky), "step", lambda net, x: torch.stack([net(x) for _ in range(STEPS)])),
    "spikingjelly": (lambda: layers(BaseNode, 2), "sequence", lambda net, x: net(repeated(x))),
    "norse": (Looped, "sample", lambda net, x: net(x)[0]),
    "norse, one step": (OneStep, "step", OneStep.all_steps),
    "sinabs": (lambda: layers(StatefulLayer, 2), "batch-first", lambda net, x: net(repeated(x).transpose(0, 1)).transpose(0, 1)),
}


@pytest.fixture(params=CASES)
def case(request):
    """A module, the way to call it, its own outputs [T, B, K] from the reset state, and samples."""
    make, takes, own = CASES[request.param]
    torch.manual_seed(3)
    module = make()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight.abs_()
    x = 0.5 * torch.rand(6, 1, 4, 4)

    def fresh(x):
        reset_all(module)
        outputs = own(module, x)
        reset_all(module)
        return outputs

    return SimpleNamespace(module=module, takes=takes, own=fresh, x=x)


class Forgetful(nn.Module):
    """Goes through time by itself and leaves the reset of its neurons to someone else."""

    def __init__(self, neuron):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), neuron(), nn.Linear(40, 10))

    def forward(self, x):
        return torch.stack([self.net(x) for _ in range(STEPS)])


class Private(nn.Module):
    """A neuron of no framework, with the same fault."""

    membrane = 0.0

    def forward(self, x):
        if not isinstance(self.membrane, torch.Tensor) or self.membrane.shape != x.shape:
            self.membrane = torch.zeros_like(x)
        self.membrane = 0.8 * self.membrane + x
        spikes = Spike.apply(self.membrane - 1)
        self.membrane = self.membrane - spikes
        return spikes


@pytest.fixture
def wrapped(case):
    """The module of `case` under the contract, with further settings of `trustsnn.wrap`."""
    return lambda **settings: trustsnn.wrap(case.module, time_steps=STEPS, classes=3, **settings)


@pytest.fixture
def gradient():
    """Logits, and the gradient of a sum of them with respect to the samples."""

    def of_sum(model, x):
        leaf = x.clone().requires_grad_()
        logits = model(leaf)
        return logits.detach(), torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 0.5])).sum(), leaf)[0]

    return of_sum


@pytest.fixture
def fakes():
    """The modules by name."""
    named = {each.__name__: each for each in (Leaky, StateLeaky, SNNCell, StatefulLayer, MultiSpike, Looped, Forgetful, Private)}
    return SimpleNamespace(**named)
