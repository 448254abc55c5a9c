"""The Triton kernels against the plain reference, on CUDA or under Triton's interpreter, and captured CUDA graphs.

Without a GPU: TRITON_INTERPRET=1 pytest tests/kernels/test_gpu.py, where Triton is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels import lif
from trustsnn.kernels.graphs import Captured
from trustsnn.kernels.lif import Layer
from trustsnn.neurons import SURROGATES, Dynamics, Surrogate, reference_forward

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETS = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETS, reason="needs Triton and TRITON_INTERPRET=1"), id="interpreter"),
    pytest.param("cuda", marks=[*GPU, pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")]),
]
OPTIONS = list(itertools.product(("hard", "soft"), (False, True), (">=", ">"), ("unit", "leaky"), (0.0, 0.5)))
LEAK, THRESHOLD = 0.6875, 0.625  # exact in float32, as are the gain and V0 that follow from them
LAYOUTS = ("rows", "channels last")

every_device = pytest.mark.parametrize("device", DEVICES)


def triton_lif():
    from trustsnn.kernels import triton_lif

    return triton_lif


def layer_of(d: Dynamics) -> Layer:
    leaky = d.gain == "leaky"
    gain = 1 - d.leak if leaky else 1.0
    return Layer(
        d.leak, d.threshold, gain, d.initial * d.threshold, d.reset == "hard", d.comparator == ">", d.detach_reset, leaky
    )


def random(shape, device, seed=0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def laid_out(sequence: Tensor, layout: str) -> Tensor:
    """`sequence` [T, B, C, H, W] in a memory order."""
    return sequence if layout == "rows" else sequence.movedim(2, -1).contiguous().movedim(-1, 2)


class Expected(NamedTuple):
    """The reference in double precision. Neurons that come too close to a jump for float32 to decide are not `clear`, and
    their entries of `weight`, dLoss/dspikes, are zero."""

    spikes: Tensor
    membrane: Tensor
    to_current: Tensor
    to_leak: Tensor
    to_threshold: Tensor
    clear: Tensor
    weight: Tensor


def reference(current: Tensor, dynamics: Dynamics, surrogate: Surrogate) -> Expected:
    batch = [current.shape[1]] + [1] * (current.dim() - 2)
    leaves = [current.detach().double(), *(current.new_full(batch, v, dtype=torch.float64) for v in (LEAK, THRESHOLD))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    spikes, membrane = reference_forward(*leaves, dynamics, surrogate)
    distance = (membrane - THRESHOLD).detach()
    clear = (distance.abs() > 1e-4).all(0)
    if surrogate.name == "rectangular":
        clear &= ((distance.abs() - surrogate.width).abs() > 1e-2).all(0)
    assert clear.double().mean() > 0.8
    assert 0.05 < spikes.mean() < 0.95  # the test says nothing about a silent layer
    weight = random(spikes.shape, current.device, 1) * clear
    found = torch.autograd.grad((spikes * weight).sum(), leaves, allow_unused=True)
    to_current, to_leak, to_threshold = (
        f if f is not None else torch.zeros_like(leaf) for f, leaf in zip(found, leaves, strict=True)
    )
    return Expected(spikes.detach(), membrane.detach(), to_current, to_leak.flatten(), to_threshold.flatten(), clear, weight)


def same(got: Tensor, expected: Tensor) -> None:
    """The same bits; under the interpreter up to a unit of bfloat16, which it cuts off where a GPU rounds to the nearest."""
    assert got.dtype == expected.dtype
    unit = 2**-7 if got.dtype == torch.bfloat16 and not got.is_cuda else 0
    torch.testing.assert_close(got, expected, rtol=unit, atol=0)


def close(got: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


@every_device
@pytest.mark.parametrize(("reset", "detach", "comparator", "gain", "initial"), OPTIONS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_layer_equals_the_reference(device, reset, detach, comparator, gain, initial, surrogate):
    dynamics = Dynamics(LEAK, THRESHOLD, reset, detach, comparator, gain, initial)
    layer = layer_of(dynamics)
    current = random((5, 3, 7, 5), device) * 1.5 + 0.2
    expected = reference(current, dynamics, Surrogate(surrogate, 0.75))
    spikes, membrane = triton_lif().forward(current, 5, layer, "full")
    found = triton_lif().backward(current, membrane, expected.weight, layer, surrogate, 0.75, constant=False, sums=True)
    clear = expected.clear.expand_as(spikes)
    assert torch.equal(spikes[clear].double(), expected.spikes[clear])
    close(membrane[clear], expected.membrane[clear])
    close(found.current, expected.to_current)
    close(found.leak, expected.to_leak, 1e-4)
    close(found.threshold, expected.to_threshold, 1e-4)
    assert found.leak.dtype == found.threshold.dtype == torch.float64


@every_device
@pytest.mark.parametrize(("reset", "detach", "comparator", "gain", "initial"), OPTIONS)
def test_float32_is_the_same_bits_as_plain_torch(device, reset, detach, comparator, gain, initial):
    dynamics = Dynamics(LEAK, THRESHOLD, reset, detach, comparator, gain, initial)
    current = random((6, 2, 40), "cpu")
    current[1] = THRESHOLD  # at the threshold after a hard reset
    leak, threshold = torch.tensor(LEAK), torch.tensor(THRESHOLD)
    expected = reference_forward(current, leak, threshold, dynamics, Surrogate())
    found = triton_lif().forward(current.to(device), 6, layer_of(dynamics), "full")
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(found, expected, strict=True))


@every_device
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("comparator", [">=", ">"])
def test_what_is_kept(device, surrogate, reset, comparator):
    """All ways to keep the membrane make the same spikes; "half" costs the rounding of u - V to bfloat16 and no more."""
    layer = layer_of(Dynamics(LEAK, THRESHOLD, reset, comparator=comparator, gain="leaky", initial=0.5))
    current, weight = random((4, 2, 3, 50), device) * 3, random((4, 2, 3, 50), device, 1)

    def gradients(membrane, sums=True):
        return triton_lif().backward(current, membrane, weight, layer, surrogate, 0.75, constant=False, sums=sums)

    spikes, full = triton_lif().forward(current, 4, layer, "full")
    kept = {keep: triton_lif().forward(current, 4, layer, keep) for keep in ("half", "recompute", "nothing")}
    assert all(torch.equal(found, spikes) for found, _ in kept.values())
    half = kept["half"][1]
    same(half, (full - THRESHOLD).to(torch.bfloat16))
    assert torch.equal((half > 0 if comparator == ">" else half >= 0).float(), spikes)
    assert kept["recompute"][1].numel() == kept["nothing"][1].numel() == 0
    exact = gradients(full)
    for again in (gradients(None), gradients(kept["recompute"][1])):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(again, exact, strict=True))
    without = gradients(full, sums=False)
    assert torch.equal(without.current, exact.current)
    assert without.leak is without.threshold is None
    rounded = gradients(half.float() + THRESHOLD)
    for mine, theirs in zip(gradients(half), rounded, strict=True):
        close(mine, theirs, 1e-4)


@every_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keep", ["full", "half", "recompute"])
def test_constant_current(device, layout, keep):
    layer = layer_of(Dynamics(LEAK, THRESHOLD, gain="leaky"))
    once = laid_out(random((1, 3, 4, 5, 2), device) * 2 + 1, layout)
    every = laid_out(once.repeat(6, 1, 1, 1, 1), layout)
    weight = random((6, 3, 4, 5, 2), device, 1)
    spikes, membrane = triton_lif().forward(once, 6, layer, keep)
    assert spikes.device == once.device
    assert spikes.stride()[1:] == once.stride()[1:]
    assert spikes.mean() > 0.05
    expected = triton_lif().forward(every, 6, layer, keep)
    assert torch.equal(spikes, expected[0])
    assert torch.equal(membrane, expected[1])
    found = triton_lif().backward(once, membrane, weight, layer, "atan", 1.0, constant=True, sums=True)
    apart = triton_lif().backward(every, expected[1], weight, layer, "atan", 1.0, constant=False, sums=True)
    assert found.current.shape == once.shape
    close(found.current, apart.current.sum(0, keepdim=True))
    assert torch.equal(found.leak, apart.leak)
    assert torch.equal(found.threshold, apart.threshold)


@every_device
@pytest.mark.parametrize("layout", [*LAYOUTS, "flat"])
@pytest.mark.parametrize("keep", ["full", "half", "recompute"])
@pytest.mark.parametrize("constant", [False, True])
def test_batch_norm_as_the_current_is_read(device, layout, keep, constant):
    norm = (nn.BatchNorm1d(6) if layout == "flat" else nn.BatchNorm2d(6)).to(device).eval()
    for place, part in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        part.data.copy_(random((6,), device, place).abs() + 0.5)
    shape = (1 if constant else 4, 3, 6) if layout == "flat" else (1 if constant else 4, 3, 6, 5, 2)
    raw = random(shape, device) * 2
    raw = raw if layout == "flat" else laid_out(raw, layout)
    with torch.no_grad():
        normed = norm(raw.flatten(0, 1)).unflatten(0, raw.shape[:2])
    layer = layer_of(Dynamics(LEAK, THRESHOLD, gain="leaky", initial=0.5))
    affine = triton_lif().affine(norm)
    spikes, membrane = triton_lif().forward(raw, 4, layer, keep, affine)
    expected, expected_membrane = triton_lif().forward(normed, 4, layer, keep)
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(spikes, expected)
    close(membrane, expected_membrane, 1e-2 if keep == "half" else 1e-5)
    weight = random(spikes.shape, device, 9)
    settings = {"constant": constant, "sums": True}
    found = triton_lif().backward(raw, membrane, weight, layer, "triangular", 1.0, **settings, norm=affine)
    apart = triton_lif().backward(normed, expected_membrane, weight, layer, "triangular", 1.0, **settings)
    tolerance = 2e-2 if keep == "half" else 1e-4
    close(found.current, apart.current * affine.scale.view(1, 1, 6, *[1] * (raw.dim() - 3)), tolerance)
    close(found.leak, apart.leak, tolerance)
    close(found.threshold, apart.threshold, tolerance)


@every_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("keep", ["full", "half", "recompute"])
def test_half_precision_current_is_computed_in_float32(device, dtype, keep):
    layer = layer_of(Dynamics(LEAK, THRESHOLD, "soft", gain="leaky"))
    current, weight = (random((4, 2, 70), device, seed).to(dtype) * 2 for seed in (0, 1))
    spikes, membrane = triton_lif().forward(current, 4, layer, keep)
    expected = triton_lif().forward(current.float(), 4, layer, keep)
    assert spikes.dtype == dtype
    assert torch.equal(spikes.float(), expected[0])
    assert torch.equal(membrane.float(), expected[1])
    settings = {"constant": False, "sums": True}
    found = triton_lif().backward(current, membrane, weight, layer, "sigmoid", 0.5, **settings)
    exact = triton_lif().backward(current.float(), expected[1], weight.float(), layer, "sigmoid", 0.5, **settings)
    same(found.current, exact.current.to(dtype))
    assert torch.equal(found.leak, exact.leak)
    assert torch.equal(found.threshold, exact.threshold)


@every_device
def test_sums_of_a_sample_do_not_depend_on_the_batch(device):
    """Over several blocks of neurons, the last one not full."""
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    current, weight = random((3, 4, 11, 20, 10), device), random((3, 4, 11, 20, 10), device, 1)

    def gradients(rows):
        x, g = current[:, rows].contiguous(), weight[:, rows].contiguous()
        membrane = triton_lif().forward(x, 3, layer, "full")[1]
        return triton_lif().backward(x, membrane, g, layer, "triangular", 1.0, constant=False, sums=True)

    whole, expected = gradients(slice(None)), reference(current, Dynamics(LEAK, THRESHOLD), Surrogate())
    close(gradients(slice(None)).leak, whole.leak, 0)
    for row in range(4):
        alone = gradients(slice(row, row + 1))
        assert torch.equal(alone.current, whole.current[:, row : row + 1])
        assert torch.equal(alone.leak, whole.leak[row : row + 1])
        assert torch.equal(alone.threshold, whole.threshold[row : row + 1])
    clear = expected.clear.expand_as(current)
    spikes = triton_lif().forward(current, 3, layer, "nothing")[0]
    assert torch.equal(spikes[clear].double(), expected.spikes[clear])


@every_device
@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 1, 1), (4, 1, 1), (3, 0, 5)])
def test_small_and_empty_sequences(device, shape):
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    current = torch.full(shape, 0.7, device=device)
    spikes, membrane = triton_lif().forward(current, shape[0], layer, "full")
    assert spikes.shape == membrane.shape == current.shape
    found = triton_lif().backward(None, membrane, spikes, layer, "triangular", 1.0, constant=False, sums=True)
    assert found.current.shape == current.shape
    assert found.leak.shape == (shape[1],)
    if current.numel():
        assert spikes[0].eq(1).all()
        assert found.current[0].gt(0).all()


@every_device
def test_gradient_in_another_memory_order(device):
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    current, weight = random((3, 2, 4, 5, 6), device), random((3, 2, 4, 5, 6), device, 1)
    settings = {"constant": False, "sums": True}
    membrane = triton_lif().forward(current, 3, layer, "half")[1]
    expected = triton_lif().backward(current, membrane, weight, layer, "triangular", 1.0, **settings)
    other = laid_out(weight.half(), "channels last")
    found = triton_lif().backward(current, membrane, other, layer, "triangular", 1.0, **settings)
    assert found.current.dtype == torch.float16
    close(found.current, expected.current, 1e-2)


@every_device
def test_errors(device):
    layer = layer_of(Dynamics(LEAK, THRESHOLD, gain="leaky"))
    current = random((2, 3, 4), device)
    with pytest.raises(ConfigError, match="float64"):
        triton_lif().forward(current.double(), 2, layer, "full")
    with pytest.raises(ConfigError, match=r"\[T, B, 5, ...\]"):
        triton_lif().forward(current, 2, layer, "full", triton_lif().affine(nn.BatchNorm1d(5)))
    with pytest.raises(ModelContractError, match="running statistics"):
        triton_lif().affine(nn.BatchNorm1d(4, track_running_stats=False))
    for membrane in (None, current):
        with pytest.raises(ModelContractError, match=r"not given|not kept"):
            triton_lif().backward(None, membrane, current, layer, "triangular", 1.0, constant=False, sums=True)


def on_cuda(function):
    for mark in GPU:
        function = mark(function)
    return function


@on_cuda
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dispatch_on_cuda(steps, layout):
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    current = laid_out(random((steps, 2, 3, 4, 5), "cuda"), layout)
    spikes, membrane = lif.forward(current, 4, layer, "half")
    assert spikes.is_cuda
    assert membrane.dtype == torch.bfloat16
    found = lif.backward(current, membrane, spikes, layer, "triangular", 1.0, constant=steps == 1, sums=True)
    assert found.current.shape == current.shape
    assert found.leak.is_cuda


@on_cuda
@pytest.mark.parametrize("learn", [False, True])
def test_training_step_agrees_with_the_cpu(learn):
    """Up to the few spikes that another order of addition in the convolutions flips."""
    from trustsnn.models import build

    x, y = random((16, 3, 16, 16), "cpu").sigmoid(), torch.arange(16) % 10
    results = []
    for device in ("cpu", "cuda"):
        model = build("conv", input_shape=(3, 16, 16), classes=10, channels=0.5, learn=learn).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.backends.cudnn.flags(enabled=False):  # its convolutions may use TF32
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            loss.backward()
        gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
        optimizer.step()
        results.append((loss.item(), gradients, {name: p.detach().cpu() for name, p in model.named_parameters()}))
    (loss, gradients, weights), (other_loss, other_gradients, other_weights) = results
    assert other_loss == pytest.approx(loss, rel=1e-3)
    for name, gradient in gradients.items():
        assert (other_gradients[name] - gradient).norm() <= 2e-2 * gradient.norm() + 1e-4, name
        assert (other_weights[name] - weights[name]).norm() <= 2e-3 * weights[name].norm() + 1e-4, name


@on_cuda
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_replayed_graph_equals_eager():
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    weight = random((8, 3, 3, 3), "cuda")

    def step(x, g):
        current = nn.functional.conv2d(x, weight, padding=1)[None]
        spikes, membrane = lif.forward(current, 4, layer, "half")
        return spikes, lif.backward(None, membrane, g, layer, "triangular", 1.0, constant=True, sums=False).current

    examples = [(random((2, 3, 8, 8), "cuda", s), random((4, 2, 8, 8, 8), "cuda", s + 10)) for s in range(3)]
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        captured = Captured(step, *examples[0])
        replayed = [captured(*example) for example in examples]
        for found, example in zip(replayed, examples, strict=True):
            for mine, theirs in zip(found, step(*example), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@on_cuda
def test_replayed_input_gradient_of_a_model_equals_eager():
    from trustsnn.blocks import BLOCK, frozen, input_gradient
    from trustsnn.models import build

    model = build("conv", input_shape=(3, 16, 16), classes=10, channels=0.5).cuda()
    y = torch.arange(BLOCK, device="cuda") % 10

    def gradient(x):
        return tuple(input_gradient(model, x, y, lambda a, b: nn.functional.cross_entropy(a, b, reduction="none")))

    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with deterministic, frozen(model):
        captured = Captured(gradient, torch.zeros(BLOCK, 3, 16, 16, device="cuda"))
        for seed in range(2):
            x = random((BLOCK, 3, 16, 16), "cuda", seed).sigmoid()
            for mine, theirs in zip(captured(x), gradient(x), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@on_cuda
def test_what_reads_values_cannot_be_captured():
    with pytest.raises(ModelContractError, match="cannot be recorded"):
        Captured(lambda x: x * float(x.sum()), torch.ones(3, device="cuda"))


@on_cuda
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_half_takes_less_memory_on_cuda():
    layer = layer_of(Dynamics(LEAK, THRESHOLD))
    current = random((4, 8, 16, 32, 32), "cuda")
    size = {}
    for keep in ("full", "half", "nothing"):
        before = torch.cuda.memory_allocated()
        kept = lif.forward(current, 4, layer, keep)
        size[keep] = torch.cuda.memory_allocated() - before - kept[0].nbytes
        del kept
    assert size["half"] == size["full"] / 2
    assert size["nothing"] <= 512


def test_captured_on_the_cpu_is_the_function():
    class Pair(NamedTuple):
        total: Tensor
        gradient: Tensor

    def step(x, y):
        leaf = x.clone().requires_grad_()
        total = (leaf * y).square().sum()
        return Pair(total.detach(), torch.autograd.grad(total, leaf)[0])

    captured = Captured(step, torch.zeros(3), torch.zeros(3))
    for seed in range(2):
        x, y = random((3,), "cpu", seed), random((3,), "cpu", seed + 5)
        found = captured(x, y)
        assert isinstance(found, Pair)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, step(x, y), strict=True))
    assert torch.equal(Captured(torch.square, torch.zeros(2))(torch.tensor([2.0, 3.0])), torch.tensor([4.0, 9.0]))


def test_captured_refuses_what_it_was_not_made_for():
    captured = Captured(torch.square, torch.zeros(2, 3))
    for other in ([torch.zeros(3, 2)], [torch.zeros(2, 3).double()], [torch.zeros(2, 3)] * 2, []):
        with pytest.raises(ConfigError, match=r"Expected tensors \[2, 3\] float32 on cpu as at the recording"):
            captured(*other)
    with pytest.raises(ConfigError, match="got 0 on none"):
        Captured(torch.square)
    with pytest.raises(ConfigError, match=r"on \['cpu', 'meta'\]"):
        Captured(torch.add, torch.zeros(1), torch.zeros(1, device="meta"))
    with pytest.raises(ConfigError, match="got float"):
        Captured(lambda x: float(x), torch.zeros(1))(torch.zeros(1))


def test_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; import trustsnn.kernels.graphs, trustsnn.kernels.lif, trustsnn.neurons"
    subprocess.run([sys.executable, "-c", code], check=True)
