"""The native convolutions against torch's dense one, forward and backward, and that nothing but the sample decides its bits."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, vmap

from trustsnn.kernels import convolution, native
from trustsnn.kernels.convolution import Geometry
from trustsnn.neurons.synapses import Synapses, _Convolve

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels were not built here")

GEOMETRIES = {
    "plain": (5, 7, 3, Geometry(padding=(1, 1))),
    "wide": (64, 130, 3, Geometry(padding=(1, 1))),
    "strided": (16, 40, 3, Geometry(stride=(2, 2), padding=(1, 1))),
    "dilated": (16, 24, 3, Geometry(padding=(2, 2), dilation=(2, 2))),
    "grouped": (16, 96, 5, Geometry(stride=(2, 1), padding=(2, 0), groups=4)),
    "depthwise": (8, 8, 3, Geometry(padding=(1, 1), groups=8)),
    "pointwise": (70, 130, 1, Geometry()),
    "overpadded": (6, 6, 2, Geometry(padding=(2, 2))),
}


@pytest.fixture(params=[16, 8, 4], autouse=True)
def lanes(request):
    """Each instruction set that this processor has."""
    known = native.library()
    best = known.trustsnn_lanes(0)
    if known.trustsnn_lanes(request.param) != request.param:
        known.trustsnn_lanes(best)
        pytest.skip(f"this processor has no vectors of {request.param} floats")
    yield request.param
    known.trustsnn_lanes(best)


def sparse(*shape: int, density: float = 0.2, graded: bool = False, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(shape, generator=generator) < density).float()
    if graded:
        x = x * torch.rand(shape, generator=generator)
    return x


def dense(x, weight, bias, g):
    return F.conv2d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_layer_in_training_that_reads_few_channels_equals_the_dense_one(channels, bias):
    layer = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=bias)
    x = sparse(4, channels, 12, 15, density=0.9, graded=True)
    got, expected = [], []
    for results, through in ((got, Synapses(layer)), (expected, layer)):
        images = x.clone().requires_grad_()
        out = through(images)
        slopes = torch.autograd.grad(out.square().sum(), [images, *layer.parameters()])
        results += [out, *slopes]
        if results is got:
            assert type(out.grad_fn).__name__ == "_ConvolveBackward"
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(("density", "graded"), [(0.0, False), (0.2, False), (0.2, True), (0.9, False), (0.9, True)])
def test_convolution_and_its_gradients_equal_the_dense_ones(name, density, graded):
    inputs, outputs, kernel, g = GEOMETRIES[name]
    torch.manual_seed(1)
    x = sparse(3, inputs, 9, 11, density=density, graded=graded)
    weight, bias = torch.randn(outputs, inputs // g.groups, kernel, kernel), torch.randn(outputs)
    leaves = [t.double().requires_grad_() for t in (x, weight)]
    expected = dense(*leaves, bias.double(), g)
    to_out = torch.randn_like(expected)
    to_x, to_weight = torch.autograd.grad(expected, leaves, to_out)
    got = convolution.convolve(x, convolution.pack(weight, g.groups), bias, g)
    torch.testing.assert_close(got, expected.detach().float(), rtol=1e-4, atol=1e-4)
    back = convolution.pack(weight, g.groups, transposed=True)
    torch.testing.assert_close(convolution.input_gradient(to_out.float(), back, (9, 11), g), to_x.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        convolution.weight_gradient(x, to_out.float(), (kernel, kernel), g), to_weight.float(), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 70)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_convolution_equals_the_dense_one_anywhere(size, channels, kernel, stride, padding, density, seed):
    g = Geometry((stride, stride), (padding, padding))
    if min(n + 2 * padding for n in size) < kernel:
        return
    x = sparse(2, channels[0], *size, density=density, graded=seed % 2 == 0, seed=seed)
    weight = torch.randn(channels[1], channels[0], kernel, kernel, generator=torch.Generator().manual_seed(seed))
    got = convolution.convolve(x, convolution.pack(weight), None, g)
    torch.testing.assert_close(got, dense(x.double(), weight.double(), None, g).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_adding_active_inputs_and_multiplying_all_out_give_the_same_bits(monkeypatch, graded, kernel):
    x = sparse(4, 70, 12, 12, density=0.3, graded=graded)
    packed, g = convolution.pack(torch.randn(66, 70, kernel, kernel)), Geometry(padding=(kernel // 2,) * 2)
    results = []
    for dense_above in (-1.0, 2.0):
        monkeypatch.setattr(convolution, "DENSE_ABOVE", dense_above)
        results.append(convolution.convolve(x, packed, torch.randn(66, generator=torch.Generator().manual_seed(0)), g))
    assert torch.equal(*results)


@pytest.mark.parametrize("method", ["sum", "tiles"])
def test_a_sample_has_the_same_bits_in_any_company_and_on_any_number_of_threads(method):
    x, g = sparse(13, 64, 10, 10, graded=True), Geometry(padding=(1, 1))
    packed = convolution.pack(torch.randn(64, 64, 3, 3), method=method)
    whole = convolution.convolve(x, packed, None, g)
    parts = torch.cat([convolution.convolve(part, packed, None, g) for part in x.split([1, 5, 7])])
    assert torch.equal(parts, whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        assert torch.equal(convolution.convolve(x, packed, None, g), whole)
        to_out = torch.randn(13, 64, 10, 10, generator=torch.Generator().manual_seed(0))
        one = convolution.weight_gradient(x, to_out, (3, 3), g)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(convolution.weight_gradient(x, to_out, (3, 3), g), one)


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(32, 70, 7), (64, 64, 16), (48, 33, 9), (32, 32, 3)])
def test_winograd_equals_the_dense_convolution(inputs, outputs, size):
    torch.manual_seed(2)
    g = Geometry(padding=(1, 1))
    x, weight, bias = torch.randn(5, inputs, size, size), torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)
    assert convolution.tiles(weight, g)
    expected = dense(x.double(), weight.double(), bias.double(), g)
    got = convolution.convolve(x, convolution.pack(weight, method="tiles"), bias, g)
    assert (got - expected).norm() / expected.norm() < 5e-6
    if outputs % 16 == 0:
        back = convolution.pack(weight, transposed=True, method="tiles")
        expected = torch.nn.grad.conv2d_input((5, inputs, size, size), weight.double(), expected, 1, 1)
        got = convolution.input_gradient(dense(x, weight, bias, g), back, (size, size), g)
        assert (got - expected).norm() / expected.norm() < 5e-6


def test_winograd_is_for_3x3_with_stride_1_alone():
    plain = torch.empty(64, 64, 3, 3)
    assert convolution.tiles(plain, Geometry())
    for weight, g in (
        (plain, Geometry(stride=(2, 2))),
        (plain, Geometry(dilation=(2, 2))),
        (torch.empty(64, 32, 3, 3), Geometry(groups=2)),
        (torch.empty(64, 64, 5, 5), Geometry()),
        (torch.empty(64, 40, 3, 3), Geometry()),
        (torch.empty(16, 64, 3, 3), Geometry()),
    ):
        assert not convolution.tiles(weight, g)


@pytest.mark.parametrize("inputs", [1, 5, 8, 19, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("g", [GEOMETRIES[n][3] for n in ("plain", "strided", "dilated", "overpadded")])
def test_few_outputs_equal_the_dense_convolution(g, channels, inputs, lanes):
    torch.manual_seed(5)
    weight, bias, x = torch.randn(inputs, channels, 3, 3), torch.randn(channels), torch.randn(2, channels, 9, 27)
    assert not convolution.few(torch.empty(8, 5, 3, 3), g, transposed=True)
    assert convolution.few(weight, g, transposed=True)
    to_out = torch.randn_like(dense(x, weight, None, g))
    expected = torch.nn.grad.conv2d_input(x.shape, weight, to_out, g.stride, g.padding, g.dilation)
    back = convolution.pack(weight, transposed=True, method="few")
    torch.testing.assert_close(convolution.input_gradient(to_out, back, (9, 27), g), expected, rtol=1e-4, atol=1e-4)
    ahead = torch.randn(channels, inputs, 3, 3)
    assert convolution.few(ahead, g) == (g.stride == (1, 1))
    assert not convolution.few(torch.empty(5, 8, 3, 3), g)
    if g.stride != (1, 1):
        return
    torch.testing.assert_close(
        convolution.convolve(to_out, convolution.pack(ahead, method="few"), bias, g),
        dense(to_out, ahead, bias, g),
        rtol=1e-4,
        atol=1e-4,
    )


def test_bfloat16_input_gradient(lanes):
    if lanes != 16 or not convolution.has_half():
        pytest.skip("this processor does not multiply bfloat16")
    torch.manual_seed(3)
    for inputs, outputs, kernel, g in (c for n, c in GEOMETRIES.items() if c[3].groups == 1):
        weight = torch.randn(outputs, inputs, kernel, kernel)
        size = (9, 11)
        to_out = torch.randn(2, outputs, *g.output(size, (kernel, kernel)))
        expected = torch.nn.grad.conv2d_input((2, inputs, *size), weight, to_out, g.stride, g.padding, g.dilation)
        got = convolution.input_gradient(to_out, convolution.pack(weight, transposed=True, method="half"), size, g)
        assert (got - expected).norm() / expected.norm() < 5e-3


def test_winograd_in_bfloat16_is_good_to_three_percent(lanes):
    if lanes != 16 or not convolution.has_half():
        pytest.skip("this processor does not multiply bfloat16")
    torch.manual_seed(5)
    for inputs, outputs, size in ((32, 64, (8, 8)), (64, 32, (9, 11)), (128, 48, (4, 5))):
        weight, g = torch.randn(outputs, inputs, 3, 3), Geometry(padding=(1, 1))
        to_out = torch.randn(3, outputs, *size)
        expected = torch.nn.grad.conv2d_input((3, inputs, *size), weight, to_out, padding=1)
        packed = convolution.pack(weight, transposed=True, method="half tiles")
        got = convolution.input_gradient(to_out, packed, size, g)
        assert (got - expected).norm() / expected.norm() < 4e-2
        # The rounding is all that differs: it is no bias.
        assert abs((got * expected).sum() / (expected * expected).sum() - 1) < 5e-3


@pytest.mark.parametrize(("channels", "height", "width"), [(64, 8, 8), (5, 7, 9), (16, 2, 3)])
def test_pooling_and_its_gradient(channels, height, width):
    torch.manual_seed(4)
    x = torch.randn(3, channels, height, width, requires_grad=True)
    expected = F.avg_pool2d(x, 2)
    to_out = torch.randn_like(expected)
    torch.testing.assert_close(convolution.pool(x.detach()), expected.detach())
    (to_x,) = torch.autograd.grad(expected, x, to_out)
    torch.testing.assert_close(convolution.pool_gradient(to_out, (height, width)), to_x)


def test_nothing_in_nothing_out():
    g, weight = Geometry(padding=(1, 1)), torch.randn(4, 3, 3, 3)
    empty = torch.empty(0, 3, 8, 8)
    out = convolution.convolve(empty, convolution.pack(weight), None, g)
    assert out.shape == (0, 4, 8, 8)
    assert convolution.input_gradient(out, convolution.pack(weight, transposed=True), (8, 8), g).shape == (0, 3, 8, 8)
    assert not convolution.weight_gradient(empty, out, (3, 3), g).any()
    assert convolution.pool(empty).shape == (0, 3, 4, 4)


def test_density_counts_what_is_not_zero():
    x = sparse(3, 5, 7, 9, density=0.3, graded=True)
    expected = (x != 0).float().mean().item()
    for layout in (x, convolution.channels_last(x), x.transpose(2, 3)):
        assert convolution.density(layout) == pytest.approx(expected)


def test_all_instruction_sets_add_in_the_same_order():
    """Sums without products, so the one with no fused multiply-add agrees too."""
    known = native.library()
    best = known.trustsnn_lanes(0)
    x, packed = sparse(2, 40, 9, 9), convolution.pack(torch.randn(70, 40, 3, 3, generator=torch.Generator().manual_seed(5)))
    results = []
    for lanes in (16, 8, 4):
        known.trustsnn_lanes(lanes)
        results.append(convolution.convolve(x, packed, None, Geometry(padding=(1, 1))))
    known.trustsnn_lanes(best)
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(results))


def test_per_sample_gradients_through_an_event_driven_convolution():
    layer, x = nn.Conv2d(16, 32, 3, padding=1), sparse(5, 16, 6, 6)

    def through(convolve):
        def loss(weight, sample):
            return convolve(sample[None], weight).square().sum()

        return vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(layer.weight.detach(), x)

    got = through(lambda image, weight: _Convolve.apply(image, weight, None, True, Synapses(layer)))
    expected = through(lambda image, weight: F.conv2d(image, weight, None, 1, 1))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
