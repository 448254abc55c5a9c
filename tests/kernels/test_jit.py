"""The kernels in numba against plain references: the neuron's loop over time, torch's convolution, and sums in a fixed order."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

numba = pytest.importorskip("numba")

from trustsnn.kernels import jit  # noqa: E402
from trustsnn.kernels.convolution import Geometry  # noqa: E402
from trustsnn.kernels.lif import Gradients, Layer  # noqa: E402
from trustsnn.neurons import SURROGATES, Dynamics, Surrogate, reference_forward  # noqa: E402

OPTIONS = list(itertools.product(("hard", "soft"), (False, True), (">=", ">"), ("unit", "leaky"), (0.0, 0.5)))
LEAK, THRESHOLD = 0.6875, 0.625  # exact in float32, as are the gain and V0 that follow from them
WIDTH = 0.8


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def layer_of(d: Dynamics) -> Layer:
    leaky = d.gain == "leaky"
    gain = 1 - d.leak if leaky else 1.0
    return Layer(
        d.leak, d.threshold, gain, d.initial * d.threshold, d.reset == "hard", d.comparator == ">", d.detach_reset, leaky
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/16: many membranes lie exactly at the threshold."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 24).round() / 16


def forward(current: Tensor, layer: Layer, steps: int) -> tuple[Tensor, Tensor]:
    spikes = torch.full_like(current[:1].expand(steps, *current.shape[1:]), torch.nan)
    membrane = torch.full_like(spikes, torch.nan)
    jit.lif_forward(current, spikes, membrane, layer)
    return spikes, membrane


def backward(current, membrane, weight, layer, surrogate="triangular", width=WIDTH, *, constant=False, sums=True) -> Gradients:
    out = torch.full_like(weight[: 1 if constant else len(weight)], torch.nan)
    got = jit.lif_backward(current, membrane, weight, out, layer, surrogate, width, sums=sums)
    assert got.current is out
    return got


def reference(current: Tensor, weight: Tensor, dynamics: Dynamics, surrogate: str) -> tuple[Tensor, Tensor, Gradients]:
    """Spikes, membrane and gradients; those of leak and threshold for each sample."""
    ones = [1] * (current.dim() - 2)
    leaves = (
        current,
        torch.full((current.shape[1], *ones), dynamics.leak),
        torch.full((current.shape[1], *ones), dynamics.threshold),
    )
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    sequence = leaves[0].expand(len(weight), *current.shape[1:])
    spikes, membrane = reference_forward(sequence, *leaves[1:], dynamics, Surrogate(surrogate, WIDTH))
    gradients = torch.autograd.grad((spikes * weight).sum(), leaves)
    return spikes.detach(), membrane.detach(), Gradients(gradients[0], gradients[1].flatten(), gradients[2].flatten())


def assert_close(got: Gradients, expected: Gradients) -> None:
    torch.testing.assert_close(got.current, expected.current, rtol=1e-5, atol=1e-5)
    for mine, theirs in ((got.leak, expected.leak), (got.threshold, expected.threshold)):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, theirs.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(("reset", "detach", "comparator", "gain", "initial"), OPTIONS)
def test_neurons_equal_reference(reset, detach, comparator, gain, initial, surrogate):
    dynamics = Dynamics(LEAK, THRESHOLD, reset, detach, comparator, gain, initial)
    current, weight = random(6, 3, 37), random(6, 3, 37, seed=1)
    spikes, membrane, expected = reference(current, weight, dynamics, surrogate)
    assert spikes.mean() > 0.05  # the test says nothing about a silent layer
    layer = layer_of(dynamics)
    got = forward(current, layer, 6)
    assert torch.equal(got[0], spikes)
    assert torch.equal(got[1], membrane)
    assert_close(backward(current, membrane, weight, layer, surrogate), expected)


@pytest.mark.parametrize("comparator", [">=", ">"])
def test_comparator_at_the_threshold(comparator):
    spikes, _ = forward(torch.full((1, 1, 40), THRESHOLD), layer_of(Dynamics(LEAK, THRESHOLD, comparator=comparator)), 1)
    assert spikes.unique().tolist() == [float(comparator == ">=")]


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("gain", ["unit", "leaky"])
def test_constant_current_and_recomputed_membrane(recomputed, constant, reset, gain):
    """Over spans that are shorter than a sample, whose sizes are no multiple of a vector."""
    dynamics = Dynamics(LEAK, THRESHOLD, reset, gain=gain, initial=0.5)
    steps, layer = 40, layer_of(dynamics)
    current, weight = random(1 if constant else steps, 2, 2 * jit.SPAN + 3), random(steps, 2, 2 * jit.SPAN + 3, seed=1)
    spikes, membrane, expected = reference(current, weight, dynamics, "atan")
    got = forward(current, layer, steps)
    assert torch.equal(got[0], spikes)
    got = backward(current, None if recomputed else membrane, weight, layer, "atan", constant=constant)
    torch.testing.assert_close(got.current, expected.current, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.leak, expected.leak.double(), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(got.threshold, expected.threshold.double(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("width", [0.2, 1.0, 5.0])
def test_surrogates(name, width):
    current = torch.linspace(-30, 30, 4001)[None, None]
    layer = layer_of(Dynamics(0.0, 1.0))
    got = backward(current, current, torch.ones_like(current), layer, name, width, sums=False)
    # torch's sigmoid(z) (1 - sigmoid(z)) has no correct digits where the sigmoid is almost 1.
    expected = Surrogate(name, width).derivative(current.double() - 1)
    torch.testing.assert_close(got.current.double(), expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1, jit.SPAN - 1, jit.SPAN, jit.SPAN + 1, 3 * jit.SPAN - 5])
def test_neurons_of_any_size(size, threads):
    """A sample's results are the same bits with other samples, another number of threads, and without sums."""
    layer = layer_of(Dynamics(LEAK, THRESHOLD, "soft", initial=0.5))
    current, weight = random(3, 4, size), normal(3, 4, size)
    threads(1)
    spikes, membrane = forward(current, layer, 3)
    all_of_them = backward(None, membrane, weight, layer)
    assert torch.equal(spikes, reference_forward(current, torch.tensor(LEAK), torch.tensor(THRESHOLD),
                                                 Dynamics(LEAK, THRESHOLD, "soft", initial=0.5), Surrogate())[0])  # fmt: skip
    assert torch.equal(backward(None, membrane, weight, layer, sums=False).current, all_of_them.current)
    for one in range(4):
        threads(2)
        mine = slice(one, one + 1)
        again, kept = forward(current[:, mine].contiguous(), layer, 3)
        assert torch.equal(again, spikes[:, mine])
        got = backward(None, kept, weight[:, mine].contiguous(), layer)
        assert torch.equal(got.current, all_of_them.current[:, mine])
        assert torch.equal(got.leak, all_of_them.leak[mine])
        assert torch.equal(got.threshold, all_of_them.threshold[mine])


def test_membrane_is_optional():
    current = random(4, 2, 100)
    layer = layer_of(Dynamics())
    spikes = torch.full_like(current, torch.nan)
    jit.lif_forward(current, spikes, torch.empty(0), layer)
    assert torch.equal(spikes, forward(current, layer, 4)[0])


@pytest.mark.parametrize("constant", [False, True])
def test_channels_last(constant):
    def last(sequence: Tensor) -> Tensor:
        return sequence.movedim(2, -1).contiguous().movedim(-1, 2)

    layer = layer_of(Dynamics(LEAK, THRESHOLD, gain="leaky", initial=0.5))
    current, weight = random(1 if constant else 4, 3, 5, 7, 6), random(4, 3, 5, 7, 6, seed=1)
    spikes, membrane = forward(current, layer, 4)
    expected = backward(current, membrane, weight, layer, constant=constant)
    got_spikes, got_membrane = last(torch.empty_like(spikes)), last(torch.empty_like(membrane))
    jit.lif_forward(last(current), got_spikes, got_membrane, layer)
    assert torch.equal(got_spikes, spikes)
    assert torch.equal(got_membrane, membrane)
    got = backward(last(current), got_membrane, last(weight), layer, constant=constant)
    assert torch.equal(got.current, expected.current)
    torch.testing.assert_close(got.leak, expected.leak, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.threshold, expected.threshold, rtol=1e-12, atol=1e-12)


def test_no_neurons():
    layer = layer_of(Dynamics())
    for shape in ((3, 0, 5), (3, 2, 0)):
        spikes, membrane = forward(torch.empty(shape), layer, 3)
        assert spikes.shape == shape
        got = backward(None, membrane, torch.empty(shape), layer)
        assert got.current.shape == shape
        assert torch.equal(got.leak, torch.zeros(shape[1], dtype=torch.float64))
        assert torch.equal(got.threshold, torch.zeros(shape[1], dtype=torch.float64))


def test_current_that_is_needed():
    zeros = torch.zeros(2, 1, 3)
    with pytest.raises(ValueError, match="need the current"):
        backward(None, None, zeros, layer_of(Dynamics()), sums=False)
    with pytest.raises(ValueError, match="need the current"):
        backward(None, zeros, zeros, layer_of(Dynamics(gain="leaky")))


# Images, weight, geometry: strides, padding, dilation, groups, and outputs around the size of a chunk.
CONVOLUTIONS = {
    "plain": ((3, 5, 9, 7), (4, 5, 3, 3), Geometry()),
    "same": ((3, 16, 8, 8), (65, 16, 3, 3), Geometry(padding=(1, 1))),
    "many pixels": ((2, 3, 19, 17), (33, 3, 3, 3), Geometry(padding=(1, 1))),
    "strided": ((2, 6, 11, 12), (16, 6, 3, 5), Geometry((2, 3), (1, 2))),
    "strides that leave pixels out": ((3, 4, 9, 10), (20, 4, 2, 2), Geometry((3, 4))),
    "dilated": ((2, 4, 12, 13), (17, 4, 3, 3), Geometry((1, 2), (2, 3), (2, 3))),
    "one input": ((3, 1, 9, 9), (70, 1, 3, 3), Geometry(padding=(1, 1))),
    "groups": ((2, 6, 7, 7), (9, 2, 3, 3), Geometry(padding=(1, 1), groups=3)),
    "depthwise": ((2, 8, 6, 7), (8, 1, 3, 3), Geometry((2, 1), (1, 1), (1, 1), 8)),
    "large kernel": ((2, 2, 5, 5), (70, 2, 5, 7), Geometry(padding=(3, 5))),
    "tall kernel": ((2, 201, 6, 3), (5, 201, 3, 1), Geometry(padding=(1, 0))),
    "pixel": ((3, 7, 9, 11), (64, 7, 1, 1), Geometry()),
    "strided pixel": ((3, 7, 9, 11), (8, 7, 1, 1), Geometry((2, 2))),
    "linear": ((150, 401, 1, 1), (130, 401, 1, 1), Geometry()),
    "linear groups": ((37, 40, 1, 1), (10, 20, 1, 1), Geometry(groups=2)),
}
every_convolution = pytest.mark.parametrize(("images", "weight", "geometry"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def inputs(shape: tuple[int, ...], density: float, graded: bool) -> Tensor:
    active = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    return active * normal(*shape) if graded else active.float()


def in_order(images: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    """The convolution in single precision, each output summed by kernel row, kernel column and input."""
    (rows, columns), groups = geometry.output(images.shape[2:], weight.shape[2:]), geometry.groups
    top, left = geometry.padding
    x = F.pad(images, (left, left, top, top)).unflatten(1, (groups, -1))
    w = weight.unflatten(0, (groups, -1))
    out = bias.view(1, groups, -1, 1, 1).expand(len(images), -1, -1, rows, columns).clone()
    for ky, kx, i in itertools.product(range(weight.shape[2]), range(weight.shape[3]), range(weight.shape[1])):
        y, z = ky * geometry.dilation[0], kx * geometry.dilation[1]
        seen = x[:, :, i, y :: geometry.stride[0], z :: geometry.stride[1]][..., :rows, :columns]
        out += seen[:, :, None] * w[None, :, :, i, ky, kx, None, None]
    return out.flatten(1, 2)


@every_convolution
@pytest.mark.parametrize("graded", [False, True])
def test_convolution_equals_torch(images, weight, geometry, graded):
    for density in (0, 0.02, 0.2, 1):
        x, w, b = inputs(images, density, graded), normal(*weight), normal(weight[0])
        arguments = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        got = jit.convolve(x, w, b, geometry)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(got, in_order(x, w, b, geometry))
        expected = F.conv2d(x.double(), w.double(), b.double(), *arguments)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=5e-5)
        expected = F.conv2d(x.double(), w.double(), None, *arguments)
        torch.testing.assert_close(jit.convolve(x, w, None, geometry).double(), expected, rtol=1e-5, atol=5e-5)


@every_convolution
@pytest.mark.parametrize("graded", [False, True])
def test_weight_gradient_equals_torch(images, weight, geometry, graded):
    for density in (0, 0.02, 0.2, 1):
        x = inputs(images, density, graded)
        to_out = normal(images[0], weight[0], *geometry.output(images[2:], weight[2:]))
        got = jit.weight_gradient(x, to_out, weight[2:], geometry)
        arguments = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        expected = torch.nn.grad.conv2d_weight(x.double(), weight, to_out.double(), *arguments)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=5e-5)


@every_convolution
def test_convolution_is_the_same_for_each_image(images, weight, geometry, threads):
    """With other images or alone, in either memory order, with one thread or two."""
    x, w, b = inputs(images, 0.3, True), normal(*weight), normal(weight[0])
    to_out = normal(images[0], weight[0], *geometry.output(images[2:], weight[2:]))
    threads(1)
    expected, gradient = jit.convolve(x, w, b, geometry), jit.weight_gradient(x, to_out, weight[2:], geometry)
    threads(2)
    assert torch.equal(jit.convolve(x.contiguous(memory_format=torch.channels_last), w, b, geometry), expected)
    assert torch.equal(jit.weight_gradient(x, to_out, weight[2:], geometry), gradient)
    for image in (0, len(x) - 1):
        assert torch.equal(jit.convolve(x[image : image + 1], w, b, geometry)[0], expected[image])


def test_weight_gradient_of_many_images(threads):
    """More images than are taken at a time; each sum goes on where the last images left it."""
    geometry = Geometry((2, 1), (1, 1))
    x = inputs((150, 3, 16, 17), 0.2, False)
    to_out = normal(150, 20, *geometry.output((16, 17), (3, 3)))
    threads(1)
    got = jit.weight_gradient(x, to_out, (3, 3), geometry)
    assert len(x) > 2 * (jit.PLACES // (16 * 17))
    expected = torch.nn.grad.conv2d_weight(x.double(), (20, 3, 3, 3), to_out.double(), geometry.stride, geometry.padding)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
    threads(2)
    assert torch.equal(jit.weight_gradient(x, to_out, (3, 3), geometry), got)


def test_no_images():
    w = normal(4, 3, 3, 3)
    assert jit.convolve(torch.empty(0, 3, 8, 8), w, None, Geometry()).shape == (0, 4, 6, 6)
    got = jit.weight_gradient(torch.empty(0, 3, 8, 8), torch.empty(0, 4, 6, 6), (3, 3), Geometry())
    assert torch.equal(got, torch.zeros(4, 3, 3, 3))


def test_narrower_registers(monkeypatch):
    """Processors without AVX-512 sum fewer outputs at a time, to the same bits."""
    x, w = inputs((3, 6, 7, 7), 0.3, True), normal(70, 6, 3, 3)
    to_out, geometry = normal(3, 70, 7, 7), Geometry(padding=(1, 1))
    found = []
    for widest in (16, 32, 64):
        monkeypatch.setattr(jit, "_WIDEST", widest)
        found.append((jit.convolve(x, w, None, geometry), jit.weight_gradient(x, to_out, (3, 3), geometry)))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_tensors_that_require_gradients():
    x, w = inputs((1, 2, 4, 4), 0.5, False).requires_grad_(), normal(3, 2, 3, 3).requires_grad_()
    got = jit.convolve(x, w, torch.zeros(3, requires_grad=True), Geometry())
    assert not got.requires_grad
    torch.testing.assert_close(got, F.conv2d(x, w).detach(), rtol=1e-5, atol=1e-5)


def test_threads_of_numba_stay():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        forward(random(2, 1, 5), layer_of(Dynamics()), 2)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


IN_A_PROCESS_OF_ITS_OWN = """
import concurrent.futures, torch
from trustsnn.kernels import jit
from trustsnn.kernels.convolution import Geometry

torch.set_num_threads(1)
x, w = (torch.rand(8, 4, 12, 12) < 0.2).float(), torch.randn(8, 4, 3, 3)
expected = jit.convolve(x, w, None, Geometry())
assert torch.get_num_threads() == 1
torch.set_num_threads(2)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    results = list(pool.map(lambda _: jit.convolve(x, w, None, Geometry()), range(400)))
assert all(torch.equal(result, expected) for result in results)
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_threads_of_torch_and_of_python(layer):
    """numba's plain thread pool, all that is there without OpenMP, ends a process that uses it from two threads at once; with
    OpenMP, numba changes torch's number of threads when it starts."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_folder_for_the_cache(monkeypatch):
    real = numba.njit

    def njit(*, cache=False, **settings):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return real(**settings)

    monkeypatch.setattr(numba, "njit", njit)
    assert jit._jit()(lambda a: a + 1)(2) == 3
