"""S-IBP and S-CROWN: no input of the ball leaves the bounds, and the bounds are as tight as they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from trustsnn.attacks import PGD
from trustsnn.blocks import frozen, predict
from trustsnn.defenses.certify import Verified, slow
from trustsnn.defenses.certify.crown import line, refined
from trustsnn.defenses.certify.intervals import ball, currents, propagate
from trustsnn.defenses.certify.layers import Lif, layers_of
from trustsnn.defenses.certify.verified import margins
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.neurons import SpikingNeuron
from trustsnn.rng import stream

BOTH = pytest.mark.parametrize("crown", [False, True], ids=["ibp", "crown"])


def margin_of(model, x, label):
    """The smallest logit difference of each input of a batch, as the network computes it."""
    logits = predict(model, x)
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(1)


def check_inside(model, x, points, eps, crown):
    """Every membrane, spike and margin of `points`, which lie in the ball, is within its bounds; how many spikes are not decided."""
    layers = layers_of(model, torch.float64)
    h = ball(x.double()[None], eps)
    seen, out = refined(layers, h, refine=64) if crown else propagate(layers, h)
    logits, distances = model.distances(points)
    neurons = [m for m in model.modules() if isinstance(m, SpikingNeuron)]
    undecided = 0
    for neuron, each, distance in zip(neurons, seen, distances.values(), strict=True):
        membrane = distance.double() + neuron.threshold
        assert (membrane >= each.membrane.low - 2e-7).all()  # u - V was rounded on its way here
        assert (membrane <= each.membrane.high + 2e-7).all()
        spikes = (distance > 0 if neuron.dynamics.comparator == ">" else distance >= 0).double()
        assert (spikes >= each.low).all()
        assert (spikes <= each.high).all()
        undecided += int((each.high > each.low).sum())
    assert (logits.double() >= (out.low - out.error).mean(0) - 1e-6).all()
    assert (logits.double() <= (out.high + out.error).mean(0) + 1e-6).all()
    label = int(predict(model, x[None]).argmax())
    least = float(margins(layers, x, label, eps, crown=crown, refine=64).min())
    assert float(margin_of(model, points, label).min()) >= least
    return undecided


@BOTH
@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_a_tiny_network_on_a_grid_of_its_ball(tiny_model, eps, crown):
    x = torch.tensor([[[0.4, 0.7]]])
    steps = torch.linspace(-1, 1, 81)
    points = (x + eps * torch.cartesian_prod(steps, steps).view(-1, 1, 1, 2)).clamp(0, 1)
    undecided = check_inside(tiny_model, x, points, eps, crown)
    assert undecided or eps < 0.2  # else the test would not see a relaxation


@BOTH
def test_random_and_adversarial_points_of_a_trained_network(conv_model, digits_test, crown):
    images, labels = (torch.from_numpy(each) for each in digits_test.batch([3]))
    eps = 0.03
    found = PGD(eps=eps, steps=10)(conv_model, images, labels)
    signs = torch.from_numpy(stream(0, "signs").choice([-1.0, 1.0], (60, 1, 8, 8))).float()
    with frozen(conv_model), torch.no_grad():
        for x, adversarial in zip(images, found, strict=True):
            points = torch.cat(
                [adversarial[None], x[None], (x + eps * signs).clamp(0, 1), (x + eps * signs.abs() * 0.5).clamp(0, 1)]
            )
            assert check_inside(conv_model, x, points, eps, crown) > 0


def test_crown_is_never_looser_and_somewhere_tighter(tiny_model):
    layers, gained = layers_of(tiny_model, torch.float64), 0.0
    for first, second, eps in product((0.2, 0.5, 0.9), (0.1, 0.6), (0.02, 0.1, 0.3)):
        x = torch.tensor([[[first, second]]])
        intervals, linear = (margins(layers, x, 0, eps, crown=crown, refine=512) for crown in (False, True))
        assert (linear >= intervals - 1e-12).all()
        gained = max(gained, float((linear - intervals).max()))
    assert gained > 0.01


@BOTH
def test_without_a_ball_the_bounds_are_the_forward_pass(tiny_model, crown):
    x = torch.tensor([[[0.35, 0.8]]])
    layers = layers_of(tiny_model, torch.float64)
    logits = predict(tiny_model, x[None])[0].double()
    found = margins(layers, x, 1, 0.0, crown=crown, refine=512)
    assert found == pytest.approx((logits[1] - logits[[0, 2]]).numpy(), abs=2e-5)
    assert (found <= logits[1] - logits[[0, 2]]).all()


@BOTH
@pytest.mark.parametrize(
    ("name", "settings"), [("mlp", {"threshold": 0.3, "seed": 6}), ("conv", {"reset": "soft", "threshold": 0.1, "seed": 8})]
)
def test_the_slow_implementation_says_the_same(name, settings, crown):
    model = build(name, input_shape=(2, 5, 5), classes=4, channels=0.04, steps=3, **settings)
    x = torch.from_numpy(stream(1, "x").random((2, 5, 5), dtype=np.float32))
    unsure = []
    with frozen(model), torch.no_grad():
        layers = layers_of(model, torch.float64)
        for eps in (0.0, 0.02, 0.1):
            fast = margins(layers, x, 2, eps, crown=crown, refine=64).numpy()
            assert slow.margins(model, x.double().numpy(), 2, eps, crown=crown, refine=64) == pytest.approx(fast, abs=1e-12)
            unsure.append(float(fast.min()))
    assert unsure[0] > unsure[1] > unsure[2]


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_a_line_lies_below_its_neuron(hard, strict):
    a, b, low, width = torch.from_numpy(stream(2, "lines").normal(size=(4, 300, 1))).double()
    high = low + 2 * width.abs() + 0.01
    low[:20] = 0.75  # on the threshold
    high[20:40] = 0.75
    lif = Lif(*torch.tensor([0.5, 0.75, 1.0, 0.0]).double(), hard, strict, SpikingNeuron())
    high = torch.maximum(low, high)
    slope, offset = line(lif, a, b, low, high)
    u = low + (high - low) * torch.linspace(0, 1, 400).double()
    u = torch.cat([u, low, high, torch.full_like(low, 0.75).clamp(low, high)], 1)
    spikes = lif.fires(u).double()
    value = a * spikes + b * (u * (1 - spikes) if hard else u - spikes * 0.75)
    gap = value - (slope * u + offset)
    assert (gap >= -1e-9).all()
    assert (gap.amin(1) < 0.05 * (1 + a.abs() + b.abs()).squeeze(1)).all()  # and touches it


def test_rounding_of_float32_is_within_the_error(conv_model, digits_test):
    """What the kernels compute for a layer's current differs from float64 by less than the error that the bounds add."""
    x = torch.from_numpy(digits_test.batch(range(16))[0])
    with frozen(conv_model), torch.no_grad():
        layers = layers_of(conv_model, torch.float64)
        seen, _ = propagate(layers, ball(x.double(), 0.0))
        _, distances = conv_model.distances(x)
        first = next(iter(distances.values()))[0].double() + 1.0  # after one step the membrane is the current
        found = currents(layers.blocks[0], ball(x.double(), 0.0))
    gap = (first - found.low[0]).abs()
    assert (gap <= found.error[0] + 2e-7).all()
    assert float((gap - 2e-7).max() / found.error.max()) < 1
    assert len(seen) == 3


def test_bisection_finds_a_radius_that_is_verified_and_not_the_next(certified_model, digits_test):
    method = Verified(method="ibp", largest=0.4, rounds=5)
    layers = layers_of(certified_model, torch.float64)
    found = 0
    with frozen(certified_model), torch.no_grad():
        for row in range(6):
            x = torch.from_numpy(digits_test.batch([row])[0])[0]
            entry = method.entry(certified_model, x, str(row))
            place = 0 if entry["radius"] is None else round(entry["radius"] / 0.4 * 32)
            at = [
                float(margins(layers, x, entry["prediction"], method.eps_of(p), crown=False, refine=0).min())
                for p in (place, place + 1)
            ]
            assert at[1] <= 0
            if place:
                assert at[0] == entry["margin"] > 0
                found += 1
    assert found > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "poisson"}, "Take the method 'rate'"),
        ({"encoder": "latency"}, "encoder 'direct'"),
        ({"norm": "bntt"}, "BatchNormThroughTime"),
        ({"neuron": "relu"}, "ReLU"),
        ({"name": "sew-resnet18"}, "branches"),
    ],
)
def test_networks_without_bounds_are_refused(settings, message):
    settings = {"name": "mlp", "input_shape": (1, 8, 8), "classes": 3, "channels": 0.1, **settings}
    model = build(settings.pop("name"), **settings)
    with pytest.raises(ConfigError, match=message):
        Verified().check(model)
