"""The one-step network against loops over windows, places and formulas that are written out here."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.attacks import FGSM, PGD
from trustsnn.attacks.estimators import ASSG, BPTR, HART, PDSG, RGA
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, observe, predict
from trustsnn.checkpoint import load_tensors
from trustsnn.errors import ConfigError
from trustsnn.models import check_contract
from trustsnn.models.onestep import ONE_STEP, PROJECTIONS, WindowCell, build_onestep, condense, cut
from trustsnn.models.onestep_rnn import Sweep
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.neurons.estimator import follow
from trustsnn.training import TrainConfig, train

SIZES = [(8, 12), (7, 9), (6, 10), (1, 2)]
A = math.pi / 4


def corners(size: tuple[int, int], dilated: bool) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The upper left corner of each window in raster order, and height and width of all."""
    height, width = (math.ceil(side * (0.75 if dilated else 0.5)) for side in size)
    return [(top, left) for top in (0, size[0] - height) for left in (0, size[1] - width)], (height, width)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_windows_by_index(size, dilated):
    x = torch.rand(2, 3, *size)
    places, (height, width) = corners(size, dilated)
    expected = torch.zeros(4, 2, 3, height, width)
    for k, (top, left) in enumerate(places):
        for i in range(height):
            for j in range(width):
                expected[k, :, :, i, j] = x[:, :, top + i, left + j]
    assert torch.equal(cut(x, dilated), expected)
    assert torch.equal(condense(expected, dilated, size), x)


def test_windows_of_a_map_of_8_by_12():
    """Plain: halves without overlap. Dilated: three quarters, of which two are shared."""
    for dilated, expected in (
        (False, ([(0, 0), (0, 6), (4, 0), (4, 6)], (4, 6))),
        (True, ([(0, 0), (0, 3), (2, 0), (2, 3)], (6, 9))),
    ):
        assert corners((8, 12), dilated) == expected


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_condense_by_index(size, dilated):
    places, shape = corners(size, dilated)
    parts = torch.rand(4, 2, 3, *shape, dtype=torch.float64)
    expected = torch.zeros(2, 3, *size, dtype=torch.float64)
    counts = set()
    for row in range(size[0]):
        for column in range(size[1]):
            over = [
                parts[k, :, :, row - top, column - left]
                for k, (top, left) in enumerate(places)
                if 0 <= row - top < shape[0] and 0 <= column - left < shape[1]
            ]
            expected[:, :, row, column] = sum(over) / len(over)
            counts.add(len(over))
    torch.testing.assert_close(condense(parts, dilated, size), expected)
    assert counts == ({1, 2, 4} if dilated and size == (8, 12) else counts)


@pytest.mark.parametrize(("first", "second"), [(0.3, -1.1), (-2.0, 0.7), (0.0, 0.9)])
def test_projections_are_their_formulas(first, second):
    expected = {
        "coded": 2 * math.sin((first * A) * math.cos(second * A)),
        "intended": 2 * math.sin(A * first) * math.cos(A * second),
        "mean": (first + second) / 2,
    }
    found = {name: float(of(torch.tensor(first), torch.tensor(second))) for name, of in PROJECTIONS.items()}
    assert found == pytest.approx(expected, rel=1e-6)


class Spike(torch.autograd.Function):
    """A spike whose derivative is what it is told."""

    @staticmethod
    def forward(ctx, distance, derivative):
        ctx.save_for_backward(distance)
        ctx.derivative = derivative
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.derivative(ctx.saved_tensors[0]), None


def loop(cell: WindowCell, x, derivative):
    """The cell one window after the other, all of it before the next one."""
    size = (x.shape[2], x.shape[3])
    places, (height, width) = corners(size, cell.dilated)
    project = PROJECTIONS[cell.second.projection]
    one = two = one_fired = two_fired = torch.zeros((), dtype=x.dtype)
    spikes = []
    for top, left in places:
        window = x[:, :, top : top + height, left : left + width]
        handed = project(one, two)
        one = cell.currents[0](window) + cell.first.leak * (1 - one_fired) * one
        one_fired = Spike.apply(one - cell.first.threshold, derivative)
        two = cell.currents[1](one_fired) + cell.second.leak * (1 - two_fired) * handed
        two_fired = Spike.apply(two - cell.second.threshold, derivative)
        spikes.append(two_fired)
    total, count = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
    for (top, left), fired in zip(places, spikes, strict=True):
        room = (left, size[1] - left - width, top, size[0] - top - height)
        total = total + nn.functional.pad(fired, room)
        count = count + nn.functional.pad(torch.ones_like(fired), room)
    return total / count


def rectangle(distance):
    return (distance.abs() < 0.5).to(distance.dtype)


def atan(distance, sharpness=2.0):
    return (sharpness / 2) / (1 + (math.pi * sharpness * distance / 2) ** 2)


def adaptive(distance):
    """ASSG in the first backward pass: M = .9 + .1 |d|, D = .1 ||d| - M|."""
    mean = 0.9 + 0.1 * distance.abs()
    spread = 0.1 * (distance.abs() - mean).abs()
    return atan(distance, 2 * math.tan(math.pi * 0.425) / math.pi / (mean + 1.5 * spread + 1e-4))


def a_cell(name: str, dilated: bool, projection: str = "coded") -> WindowCell:
    """A cell of 4 channels for 2, with drawn statistics, in float64."""
    torch.manual_seed(0)
    model = build_onestep(
        name, input_shape=(2, 8, 8), classes=3, channels=4 / ONE_STEP[name][0], depth=2, learn=True, projection=projection
    )
    cell = [layer for layer in model.layers if isinstance(layer, WindowCell)][int(dilated)]
    assert cell.dilated == dilated
    for norm in cell.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 2.0, 0.2)
            nn.init.normal_(norm.bias, 0.4, 0.2)
            norm.running_var.uniform_(0.3, 1.0)
    return cell.double().eval()


@pytest.mark.parametrize("name", ONE_STEP)
@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize(
    ("projection", "estimator", "derivative"),
    [
        ("coded", None, rectangle),
        ("intended", None, rectangle),
        ("mean", None, rectangle),
        ("coded", STBP(Surrogate("atan", 0.5)), atan),
        ("coded", ASSG(), adaptive),
    ],
)
def test_a_cell_is_a_loop_over_its_windows(name, dilated, projection, estimator, derivative):
    cell = a_cell(name, dilated, projection)
    x = torch.rand(3, 4 if dilated else 2, 7, 10, dtype=torch.float64).requires_grad_()
    leaves = [x, *cell.parameters()]
    expected = loop(cell, x, derivative)
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    if estimator is None:
        mine = torch.autograd.grad((cell(x) * weight).sum(), leaves)
    else:
        for parameter in cell.parameters():
            parameter.requires_grad_(False)
        with estimator.applied(cell):
            follow(cell, ["a", "b", "c"])
            mine = torch.autograd.grad((cell(x) * weight).sum(), x)
    torch.testing.assert_close(cell(x), expected)
    assert 0.1 < float(expected.detach().mean()) < 0.9
    assert all(float(gradient.abs().sum()) > 0 for gradient in theirs)
    for got, wanted in zip(mine, theirs[: len(mine)], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_the_first_window_reaches_the_last_one():
    cell = a_cell("onestep", False)
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(cell(x)[:, :, 4:, 4:].sum(), x)
    assert gradient[:, :, :4, :4].abs().sum() > 0


@pytest.mark.parametrize("axis", [2, 3])
def test_a_sweep_is_an_lstm_along_each_line(axis):
    torch.manual_seed(0)
    sweep, x = Sweep(3, 4, axis), torch.rand(2, 3, 5, 6)
    found = sweep(x)
    for n in range(2):
        for line in range(x.shape[5 - axis]):
            rows = (x[n, :, line] if axis == 3 else x[n, :, :, line]).T  # [sequence, channels]
            got = found[n, :, line] if axis == 3 else found[n, :, :, line]
            torch.testing.assert_close(got.T, sweep.lstm(rows.unsqueeze(0))[0][0])


def dilations(model) -> list[bool]:
    return [module.dilated for module in model.modules() if isinstance(module, WindowCell)]


def test_each_model_has_its_own_alternation():
    shape = {"input_shape": (1, 8, 8), "classes": 3, "channels": 0.1}
    odd = build_onestep("onestep-rnn", **shape)
    whole = build_onestep(depth=2, **shape)
    assert dilations(odd) == [False, True, False]
    assert dilations(whole) == [False, True, False, True, False, True, False, False]
    assert dilations(build_onestep(windows="plain", **shape)) == [False] * 4
    x = torch.rand(2, 1, 8, 8)
    for model in (odd.eval(), whole.eval()):
        alone = model(x)
        (whole if model is odd else odd)(x)
        assert torch.equal(model(x), alone)


FORMS = [(name, windows, steps) for name in ONE_STEP for windows, steps in (("alternating", 1), ("none", 4))]


@pytest.fixture(params=FORMS, ids=str, scope="module")
def network(request, digits_train):
    """A small network whose statistics have seen digits, so that its neurons fire."""
    name, windows, steps = request.param
    model = build_onestep(name, input_shape=(1, 8, 8), classes=10, windows=windows, steps=steps, channels=8 / ONE_STEP[name][0])
    x = torch.from_numpy(digits_train.batch(range(64))[0])
    with torch.no_grad():
        for _ in range(30):
            model(x)
    return model.eval()


@pytest.fixture(scope="module")
def some(digits_test):
    x, y = digits_test.batch(range(40))
    return torch.from_numpy(x), torch.from_numpy(y)


def test_the_contract_holds_in_any_company(network, some):
    x, _ = some
    assert check_contract(network, x[:8], 10) == []
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    with frozen(network):
        whole = predict(network, x)
        assert torch.equal(predict(network, x[order]), whole[order])
        assert torch.equal(torch.cat([predict(network, part) for part in x.split(7)]), whole)
    assert float(whole.std(0).min()) > 0


def test_unroll_counts_the_spikes_of_every_layer(network, some):
    x, _ = some
    trace = network.unroll(x)
    steps = network.spec.steps
    assert trace.logits.shape == trace.membrane.shape == (steps, 40, 10)
    torch.testing.assert_close(trace.logits.mean(0), network(x))
    neurons = [name for name, module in network.named_modules() if isinstance(module, SpikingNeuron)]
    assert list(trace.spike_counts) == neurons
    assert all(0 < counts.mean() < steps and counts.max() <= steps for counts in trace.spike_counts.values())
    assert not any(module._forward_hooks for module in network.modules())
    if steps == 1:
        condensed = condense(trace.spike_counts["layers.0.second"].transpose(0, 1), False, (8, 8))
        assert torch.equal(condensed, network.layers[0](x))
        assert all(counts.shape[:2] == (40, 4) for counts in trace.spike_counts.values())
    with frozen(network):
        assert torch.equal(observe(network, x).logits, predict(network, x))


@pytest.mark.parametrize("estimator", [None, BPTR(), RGA(), HART(), PDSG(), ASSG()], ids=str)
def test_attacks_run_through_every_estimator(network, some, estimator):
    x = some[0][:12]
    y = network(x).argmax(1)
    for attack in (FGSM(eps=0.1, estimator=estimator), PGD(eps=0.1, steps=2, estimator=estimator)):
        moved = (attack(network, x, y) - x).abs().flatten(1).amax(1)
        assert moved.max() <= 0.1 + 1e-6
        assert (moved > 0.05).sum() > len(x) / 2


def test_the_twin_of_a_cell_rectifies_and_hands_nothing_on():
    model = build_onestep(input_shape=(1, 8, 8), classes=10, channels=0.1).eval()
    x = torch.rand(2, 1, 8, 8)
    h = x
    for layer in model.layers:
        if isinstance(layer, WindowCell):
            parts = [torch.relu(layer.currents[1](torch.relu(layer.currents[0](part)))) for part in cut(h, layer.dilated)]
            h = condense(torch.stack(parts), layer.dilated, tuple(h.shape[2:]))
        else:
            h = layer(h)
    torch.testing.assert_close(ann_twin(model)(x), h)


@pytest.mark.parametrize("name", ONE_STEP)
def test_it_learns(name, digits_train):
    model = build_onestep(name, input_shape=(1, 8, 8), classes=10, channels=8 / ONE_STEP[name][0], depth=1)
    before = [weight.clone() for weight in model.parameters()]
    log = train(model, digits_train.take(320), TrainConfig(epochs=4, batch_size=32, learning_rate=1e-2))
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_saved_network_is_built_again(tmp_path, network, some):
    trustsnn.save(network, tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text())["architecture"]
    again = build_onestep(architecture["name"], **architecture["arguments"])
    assert again.spec == network.spec
    path = tmp_path / "model.safetensors"
    load_tensors(again, path.read_bytes(), path)
    assert torch.equal(again.eval()(some[0]), network(some[0]))


def weights(model) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", ONE_STEP)
def test_the_conventional_form_has_the_same_cell(name):
    """The same weights in the same order, from the same seed."""
    shape = {"input_shape": (3, 8, 8), "classes": 5, "channels": 0.5, "depth": 2}
    one, four, other = (build_onestep(name, **shape, **more) for more in ({}, {"windows": "none", "steps": 4}, {"seed": 1}))
    assert len(weights(one)) == len(weights(four))
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(four), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_paper_s_number_of_parameters():
    """26.8 M (arXiv 2401.10843, CIFAR-10), counted by hand: 3x3 convolutions, two numbers a channel of each normalisation."""
    with torch.device("meta"):
        model = build_onestep(input_shape=(3, 32, 32), classes=10, channels=2.39)
    stages = [152, 306, 612, 1224]
    cells = sum(9 * c * (before + c) + 4 * c for before, c in zip([3, *stages], stages, strict=False))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == cells + (1224 * 2 * 2 + 1) * 10
    assert count / 1e6 == pytest.approx(26.8, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "onestep-ann"}, "Known: onestep"),
        ({"windows": "round"}, "Known: alternating"),
        ({"projection": "sum"}, "Known: coded"),
        ({"steps": 4}, "one time step, got steps 4"),
        ({"input_shape": (8, 8)}, "3 sizes"),
        ({"channels": 0.0}, "above 0"),
        ({"depth": 0}, "1 to 16"),
        ({"classes": 1}, "at least 2"),
        ({"leak": 2.0}, r"leak in \[0, 1\]"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_architectures_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_onestep(**{"input_shape": (1, 8, 8), "classes": 10, **arguments})
