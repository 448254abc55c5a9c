"""One block of each family against itself written out: step by step over time, in plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.models import ModelSpec, SpikingNetwork, build
from trustsnn.models.branches import Branches
from trustsnn.models.norms import BatchNormThroughTime

STEPS, BATCH, SIZE = 4, 3, 4


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance):
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (distance,) = ctx.saved_tensors
        return gradient * (1 - distance.abs()).clamp(min=0)


class LIF:
    """u = v / 2 + gain x, a spike where u reaches the threshold, which sets it to 0."""

    def __init__(self, threshold=1.0, gain=1.0):
        self.threshold, self.gain, self.v, self.count = threshold, gain, 0.0, 0.0

    def __call__(self, x):
        u = 0.5 * self.v + self.gain * x
        spike = Spike.apply(u - self.threshold)
        self.v = u * (1 - spike)
        self.count = self.count + spike.detach()
        return spike


def weighted(x, convolution, norm):
    y = F.conv2d(x, convolution.weight, stride=convolution.stride, padding=convolution.padding)
    mean, variance, weight, bias = (v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (y - mean) / (variance + norm.eps).sqrt() * weight + bias


def sew(block, merge):
    (a, b, _, c, d, _), (e, f, _) = block
    first, last, short = LIF(), LIF(), LIF()

    def step(x):
        out, x = last(weighted(first(weighted(x, a, b)), c, d)), short(weighted(x, e, f))
        return {"add": out + x, "and": out * x, "iand": x * (1 - out)}[merge]

    return step, [first, last, short]


def ms(block):
    (_, a, b, _, c, d), (e, f) = block
    first, last = LIF(), LIF()
    return lambda x: weighted(last(weighted(first(x), a, b)), c, d) + weighted(x, e, f), [first, last]


def heads_of(x, heads):
    return [head.flatten(2).mT for head in x.chunk(heads, 1)]  # [B, tokens, channels of a head] each


def ssa(qkv, heads, neurons, x):
    """softmax-free attention, (Q K^T) V in this order, head by head."""
    q, k, v = (heads_of(neuron(weighted(x, c, n)), heads) for neuron, (c, n, _) in zip(neurons, qkv, strict=True))
    products = [(one @ two.mT) @ three * 0.125 for one, two, three in zip(q, k, v, strict=True)]
    return torch.cat([p.mT for p in products], 1).view(x.shape)


def spikformer(block):
    qkv, _, a, b, _ = block[0]
    neurons = [LIF(), LIF(), LIF(), LIF(0.5, 0.5), LIF()]

    def step(x):
        attended = neurons[3](ssa(qkv, 2, neurons[:3], x))
        return neurons[4](weighted(attended, a, b)) + x

    return step, neurons


def spikingformer(block):
    _, qkv, _, a, b = block[0]
    neurons = [LIF(), LIF(), LIF(), LIF(), LIF(0.5, 0.5)]

    def step(x):
        attended = neurons[4](ssa(qkv, 2, neurons[1:4], neurons[0](x)))
        return weighted(attended, a, b) + x

    return step, neurons


def sdt(block):
    _, attention, a, b = block[0]
    query, (keys, *_) = attention[0], attention[1]
    neurons = [LIF(), LIF(), LIF(), LIF(), LIF(0.5, 0.5)]

    def step(x):
        spikes = neurons[0](x)
        projections = (query, *keys)
        q, k, v = (n(weighted(spikes, c, m)) for n, (c, m, _) in zip(neurons[1:4], projections, strict=True))
        mask = neurons[4]((k * v).sum((2, 3), keepdim=True))
        return weighted(q * mask, a, b) + x

    return step, neurons


CASES = {
    "sew-add": ("sew-resnet-small", {"merge": "add"}, 1, lambda block: sew(block, "add")),
    "sew-and": ("sew-resnet-small", {"merge": "and"}, 1, lambda block: sew(block, "and")),
    "sew-iand": ("sew-resnet-small", {"merge": "iand"}, 1, lambda block: sew(block, "iand")),
    "ms": ("ms-resnet-small", {}, 1, ms),
    "spikformer": ("spikformer-small", {"heads": 2}, 1, spikformer),
    "spikingformer": ("spikingformer-small", {"heads": 2}, 0, spikingformer),
    "sdt": ("sdt-small", {}, 1, sdt),
}


@pytest.mark.parametrize("case", CASES)
def test_a_block_is_what_it_is_written_out(case):
    name, options, place, written_out = CASES[case]
    torch.manual_seed(0)
    whole = build(name, input_shape=(1, 16, 16), classes=3, channels=0.25, **options).double()
    block = [layer for layer in whole.layers if isinstance(layer, Branches)][place]
    channels = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 1.0, 2.0)
        nn.init.uniform_(norm.bias, -0.2, 0.6)
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.05, 0.2)
    features = channels * SIZE * SIZE if "resnet" not in name else 2 * channels * (SIZE // 2) ** 2
    head = nn.Linear(features, 3).double()
    spec = ModelSpec("events-count", (STEPS, channels, SIZE, SIZE), 3, STEPS, "frames", "membrane", False, 9)
    network = SpikingNetwork(nn.Sequential(block, nn.Flatten(), head), spec, {}).eval()
    x = torch.randint(0, 3, (BATCH, STEPS, channels, SIZE, SIZE)).double().requires_grad_()

    step, neurons = written_out(block)
    expected = torch.stack([head(step(x[:, t]).flatten(1)) for t in range(STEPS)])
    trace = network.unroll(x)
    torch.testing.assert_close(trace.logits, expected)
    counts = {tuple(c.flatten().tolist()) for c in trace.spike_counts.values()}
    assert counts == {tuple(neuron.count.flatten().tolist()) for neuron in neurons}
    assert all(0 < neuron.count.mean() < STEPS for neuron in neurons)

    weight = torch.randn_like(expected)
    inputs = [x, *block.parameters()]
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    assert all(gradient.abs().sum() > 0 for gradient in wanted)
    for mine, theirs in zip(torch.autograd.grad((trace.logits * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("merge", "rate"), [("add", 0), ("iand", 0), ("and", 1)])
@pytest.mark.parametrize("leak", [0.5, 1.0])
def test_a_fresh_sew_block_hands_on_its_shortcut(merge, rate, leak):
    model = build("sew-resnet-small", input_shape=(1, 8, 8), classes=3, channels=0.5, merge=merge, leak=leak)
    blocks = [(name, layer) for name, layer in model.layers.named_children() if isinstance(layer, Branches)]
    counts = model.unroll(torch.rand(8, 1, 8, 8)).spike_counts
    for name, _ in blocks:
        assert torch.equal(counts[f"layers.{name}.0.5"], torch.full_like(counts[f"layers.{name}.0.5"], 4.0 * rate))
    model(torch.rand(8, 1, 8, 8)).square().sum().backward()
    assert blocks[0][1][0][4].weight.grad.abs().sum() > 0


def test_normalisations_start_where_their_papers_have_them():
    td = build("ms-resnet-small", input_shape=(1, 8, 8), classes=3, norm="td", threshold=0.5)
    branch, shortcut = td.layers[3]
    starts = [norm.weight[0].item() for norm in (td.layers[1], branch[2], branch[5], shortcut[1])]
    assert starts == pytest.approx([0.5, 0.5, 0.5 / 2**0.5, 0.5 / 2**0.5])
    plain = build("ms-resnet-small", input_shape=(1, 8, 8), classes=3)
    assert [norm.weight[0].item() for norm in (plain.layers[3][0][2], plain.layers[3][0][5])] == [1, 0]


def test_normalisation_through_time_has_statistics_of_each_step():
    model = build("conv", input_shape=(1, 8, 8), classes=3, channels=0.25, norm="bntt", steps=3)
    norm = next(layer for layer in model.layers[3:] if isinstance(layer, BatchNormThroughTime))
    x = torch.randn(3 * 5, 16, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 2.0, 4.0]
    ).repeat_interleave(5).view(-1, 1, 1, 1)
    steps = [nn.BatchNorm2d(16, eps=1e-4) for _ in range(3)]
    for training in (True, False):
        norm.train(training)
        expected = torch.cat([one.train(training)(part) for one, part in zip(steps, x.split(5), strict=True)])
        torch.testing.assert_close(norm(x, 3), expected)
    torch.testing.assert_close(norm.running_var, torch.stack([one.running_var for one in steps]))
    assert norm.weight.shape == (3, 16)


def test_merges_take_their_number_of_branches():
    for merge, count in (("iand", 3), ("attention", 2), ("add", 1)):
        with pytest.raises(ConfigError, match=f"takes .* branches, got {count}"):
            Branches(*[[]] * count, merge=merge)
    with pytest.raises(ConfigError, match="Unknown merge 'or'"):
        Branches([], [], merge="or")
