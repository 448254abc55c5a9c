"""Gradient inversion: the twice differentiable network, the attacks, and what a run says of defences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from trustsnn.attacks.leakage.analytic import analytic, first_layer
from trustsnn.attacks.leakage.gradient_inversion import GradientInversion
from trustsnn.attacks.leakage.similarity import EXACT, matched, psnr, spread, ssim
from trustsnn.attacks.leakage.twice import SOFT, TwiceDifferentiable
from trustsnn.attacks.leakage.update_defences import Defence, poisson_coded
from trustsnn.attacks.leakage.updates import Reconstruction, Update, read_update, simulate
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.neurons import SURROGATES, Surrogate
from trustsnn.rng import Draws, stream
from trustsnn.runners.gradients import Plan, gradient_leakage, saved_update
from trustsnn.training import TrainConfig, train

FEW = GradientInversion(iterations=60, tv=0.01)


def network(name="mlp", **arguments):
    return build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **arguments)


@pytest.fixture(scope="module")
def model(digits_train):
    found = network(norm="none")
    train(found, digits_train, TrainConfig(epochs=3, batch_size=64))
    return found


@pytest.fixture
def samples(digits_test):
    return digits_test.take(8)


@pytest.fixture
def first(samples):
    """Images and labels of eight samples."""
    return tuple(torch.from_numpy(each.copy()) for each in samples.batch(range(8)))


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_soft_spike_has_the_surrogate_as_its_derivative_and_a_second_one(name, width):
    at = torch.tensor([-2.0, -1.0, -0.5, -0.3, -0.1, 0.0, 0.2, 0.5, 0.7, 1.0, 1.7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SOFT[name](at, width).sum(), at, create_graph=True)
    assert torch.allclose(slope, SURROGATES[name](at.detach(), width), atol=1e-12)
    inner = torch.tensor([-0.43, -0.21, 0.13, 0.37], dtype=torch.float64, requires_grad=True)  # where none has a corner
    (inner_slope,) = torch.autograd.grad(SOFT[name](inner, width).sum(), inner, create_graph=True)
    bend = torch.autograd.grad(inner_slope.sum(), inner)[0] if inner_slope.requires_grad else torch.zeros(4)
    step = 1e-6
    there = (SURROGATES[name](inner.detach() + step, width) - SURROGATES[name](inner.detach() - step, width)) / (2 * step)
    assert torch.allclose(bend.double(), there, atol=1e-5)


NETWORKS = {
    "mlp": {"norm": "none"},
    "soft reset": {"norm": "none", "reset": "soft", "leak": 0.9, "surrogate": "atan", "initial": 0.5},
    "detached": {"norm": "none", "detach_reset": True, "surrogate": "rectangular", "learn": True},
    "spike count": {"norm": "none", "readout": "spike-count", "surrogate": "exponential"},
    "conv": {"name": "conv", "norm": "batch", "surrogate": "sigmoid"},
    "group": {"name": "conv", "norm": "group"},
    "bntt": {"name": "conv", "norm": "bntt", "surrogate": "sigmoid"},
    "residual": {"name": "sew-resnet-small", "norm": "td", "merge": "iand"},
    "latency": {"norm": "none", "encoder": "latency"},
    "relu": {"neuron": "relu", "norm": "batch"},
}


@pytest.mark.parametrize("statistics", ["frozen", "batch"])
@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_the_twin_has_the_networks_logits_and_gradients(settings, statistics, first):
    model = network(**settings).eval()
    x, y = first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # so that neurons fire in every layer
    twin = TwiceDifferentiable(model, statistics=statistics)
    if statistics == "frozen":
        assert torch.allclose(twin(x), model(x), atol=1e-4)
    wanted = simulate(model, x, y, statistics=statistics).gradients
    found = twin.gradients(x, y)
    assert found.keys() == wanted.keys()
    largest = max(float(each.abs().max()) for each in wanted.values())
    for name, each in wanted.items():
        assert torch.allclose(found[name], each, rtol=1e-3, atol=1e-5 * largest), name
    moved = x.clone().requires_grad_()
    distance = sum(each.square().sum() for each in twin.gradients(moved, y).values())
    assert torch.autograd.grad(distance, moved)[0].abs().max() > 0


def test_a_search_sees_the_mean_of_a_poisson_code_and_another_surrogate_if_asked(model, first):
    x, y = first
    coded = TwiceDifferentiable(poisson_coded(model, 4))
    assert torch.equal(coded(x), TwiceDifferentiable(model)(x))
    wide = TwiceDifferentiable(model, surrogate=Surrogate("sigmoid", 2.0)).gradients(x, y)["layers.1.weight"]
    assert not torch.allclose(wide, coded.gradients(x, y)["layers.1.weight"], rtol=0.1)


@pytest.mark.parametrize(
    "settings", [{"norm": "none"}, {"norm": "none", "reset": "soft", "surrogate": "atan"}, {"norm": "batch"}]
)
def test_the_analytic_attack_recovers_direct_coded_images_above_60_decibels(settings, digits_train, samples, first):
    model = network(**settings)
    train(model, digits_train, TrainConfig(epochs=1, batch_size=64))
    noise = torch.from_numpy(stream(0, "images").random((4, 1, 8, 8), dtype=np.float32))  # digits have 17 grey levels, these all
    for x in (*first[0], *noise):
        update = simulate(model, x[None], torch.tensor([3]))
        found = analytic(model, update)
        assert psnr(found.images, x[None]) > 60
        assert found.labels.tolist() == [3]
        assert not found.blank


def test_the_analytic_attack_on_poisson_codes_gains_with_the_steps(model, samples, first):
    x, y = first
    means = []
    for steps in (4, 25, 100):
        coded = poisson_coded(model, steps)
        decibels = [
            float(psnr(analytic(coded, simulate(coded, x[i : i + 1], y[i : i + 1], draws=Draws(0, "u", (samples.ids[i],)))).images,
                       x[i : i + 1]))
            for i in range(8)
        ]  # fmt: skip
        means.append(np.mean(decibels))
    assert np.diff(means).min() > 4
    assert 14 < means[0] < 22
    assert means[2] < 40


def test_a_compressed_update_loses_only_what_was_not_sent(model, first):
    x, y = (each[:1] for each in first)
    update = Defence.parse("topk=0.2")(simulate(model, x, y), 0, "a")
    found = analytic(model, update).images
    layer = first_layer(model)
    sent = ((update.gradients[layer.weight] != 0) & (update.gradients[layer.bias] != 0)[:, None]).any(0).view(x.shape)
    assert sent.any()
    assert torch.allclose(found[sent], x[sent], atol=1e-5)
    assert (found[~sent] == 0).all()


def test_an_update_without_a_gradient_leaves_a_blank(model, first):
    update = simulate(model, first[0][:1], first[1][:1])
    nothing = Update({name: torch.zeros_like(each) for name, each in update.gradients.items()}, 1, update.model)
    found = analytic(model, nothing)
    assert found.blank
    assert (found.images == 0).all()
    assert GradientInversion(iterations=2)(model, nothing).images.isfinite().all()


@pytest.mark.parametrize("method", ["dlg", "idlg", "inverting"])
def test_a_search_comes_nearer_than_its_start(method, model, first):
    attack = replace(FEW, method=method)
    x, y = (each[:1] for each in first)
    update = simulate(model, x, y)
    start, end = (replace(attack, iterations=count)(model, update) for count in (1, 60))
    assert psnr(end.images, x) > psnr(start.images, x) + 4
    assert end.objective < 0.5 * start.objective
    assert end.labels.tolist() == y.tolist()
    in_another_order = Update(dict(reversed(update.gradients.items())), 1, update.model)
    few = replace(attack, iterations=3)
    assert torch.equal(few(model, in_another_order).images, few(model, update).images)


def test_restarts_keep_the_best_and_tv_smooths(model, first):
    update = simulate(model, first[0][:1], first[1][:1])
    attack = replace(FEW, iterations=15)
    one, three = (replace(attack, restarts=count)(model, update) for count in (1, 3))
    assert three.objective <= one.objective
    wild, still = (replace(attack, step=step, tv=1.0, iterations=4)(model, update).objective for step in (5.0, 1e-9))
    assert wild <= still  # such a step goes to pixels of 0 and 1, whose variation is larger than at the start
    rough, smooth = (replace(attack, tv=weight)(model, update).images for weight in (0.0, 1.0))
    assert smooth.diff(dim=3).abs().mean() < rough.diff(dim=3).abs().mean()


def scalar_ssim(a, b):
    """Wang's equations at each place, by loops."""
    size = min(11, *a.shape) - 1 + min(11, *a.shape) % 2
    weights = np.array([[np.exp(-((r - size // 2) ** 2 + (c - size // 2) ** 2) / 4.5) for c in range(size)] for r in range(size)])
    weights /= weights.sum()
    values = []
    for row in range(a.shape[0] - size + 1):
        for column in range(a.shape[1] - size + 1):
            p, q = (each[row : row + size, column : column + size] for each in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq, c = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum(), (weights * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


@pytest.mark.parametrize("side", [8, 14])
def test_likeness_agrees_with_its_definition(side):
    draws = stream(0, "likeness")
    a, b = (torch.from_numpy(draws.random((2, 3, side, side), dtype=np.float32)) for _ in range(2))
    for image in range(2):
        wanted = np.mean([scalar_ssim(a[image, c].double().numpy(), b[image, c].double().numpy()) for c in range(3)])
        assert float(ssim(a, b)[image]) == pytest.approx(wanted, abs=1e-9)
        error = ((a[image].double() - b[image].double()) ** 2).mean()
        assert float(psnr(a, b)[image]) == pytest.approx(-10 * np.log10(float(error)), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1)
    assert psnr(a, a).tolist() == [EXACT, EXACT]
    assert psnr(a * 0, a * 0 + 1).tolist() == [0, 0]


def test_a_batch_is_matched_to_its_originals(first):
    x = first[0]
    order = [3, 1, 0, 2, 7, 5, 4, 6]
    found = x[order] + 0.05
    assert torch.equal(found[matched(found, x)], x + 0.05)
    with pytest.raises(ConfigError, match="as many originals"):
        psnr(x, x[:2])


def test_a_median_stays_in_its_range():
    few, many = (spread(torch.linspace(0.2, 0.8, count), -1.0, 1.0) for count in (5, 41))
    assert (few["low"], few["high"], few["count"]) == (-1, 1, 5)
    assert many["value"] == pytest.approx(0.5)
    assert 0.3 < many["low"] < 0.5 < many["high"] < 0.7


@pytest.fixture
def plan():
    search = GradientInversion(iterations=2)
    return Plan(attacks=("analytic", "inverting"), defences=tuple(map(Defence.parse, ("clip=0.01", "noise=0.2", "poisson"))), search=search,
                keep=True)  # fmt: skip


def test_a_run_says_which_defence_stops_which_attack(model, samples, plan, tmp_path, joined, fits):
    done = gradient_leakage(model, samples, tmp_path, replace(plan, threshold=28.0))
    record = json.loads((tmp_path / "gradients.json").read_text())
    assert record == done.record
    outcomes = {(cell["attack"], cell["defence"]): cell["outcome"] for cell in record["cells"]}
    assert outcomes == {
        ("analytic", "none"): "recovers", ("analytic", "clip=0.01"): "recovers", ("analytic", "noise=0.2"): "stopped",
        ("analytic", "poisson"): "stopped", ("inverting", "none"): "fails", ("inverting", "clip=0.01"): "fails",
        ("inverting", "noise=0.2"): "fails", ("inverting", "poisson"): "fails",
    }  # fmt: skip
    bare = record["cells"][0]
    assert bare["psnr"]["low"] > 60
    assert bare["psnr"]["count"] == bare["labels"]["count"] == 8
    assert bare["labels"]["value"] == 1
    page = (tmp_path / "gradients.html").read_text()
    assert "At 28 dB it is stopped by noise=0.2 and poisson; not stopped by clip=0.01." in page
    assert "So no defence can be said to stop this attack here." in page
    assert page.count("<img ") == 8 * 9
    assert "http" not in page.replace("http-equiv", "")
    x, _ = samples.batch(range(8))
    with np.load(tmp_path / "images.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["original"], x)
        assert psnr(torch.from_numpy(kept["0"]), torch.from_numpy(x)).tolist() == bare["each"]["psnr"]
    outcomes, report = joined(tmp_path)
    assert outcomes == {"gradients": "found"}
    assert report.count("<img ") == 8 * 3  # originals, and both attacks without a defence
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    gradient_leakage(model, samples, tmp_path, replace(plan, threshold=28.0))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == contents
    fits(tmp_path / "gradients.html")


def test_few_samples_leave_it_undecided(model, samples, plan, tmp_path):
    done = gradient_leakage(model, samples.select(range(3)), tmp_path, replace(plan, attacks=("analytic",)))
    assert {cell["outcome"] for cell in done.record["cells"]} == {"undecided"}


def test_a_saved_update_gives_the_same_image(model, samples, plan, tmp_path, joined):
    gradient_leakage(model, samples, tmp_path, plan)
    path = tmp_path / "updates" / "2.safetensors"
    done = saved_update(model, path, tmp_path / "saved", plan)
    outcomes, report = joined(tmp_path / "saved")
    assert outcomes == {"gradients": "inconclusive"}
    assert report.count("<img ") == 2
    assert done.record["data"] is None
    with np.load(tmp_path / "images.npz") as kept, np.load(tmp_path / "saved" / "images.npz") as again:
        assert sorted(again.files) == ["0", "1"]
        assert np.array_equal(kept["0"][2:3], again["0"])
        assert np.array_equal(kept["1"][2:3], again["1"])
    assert done.record["cells"][0]["labels"] == [int(samples.labels[2])]
    assert (tmp_path / "saved" / "gradients.html").read_text().count("<img ") == 2
    assert read_update(path, model).samples == 1


def test_a_batch_of_several_is_matched_and_counted(samples, plan, tmp_path):
    model = network("conv").eval()
    given = replace(plan, attacks=("inverting",), defences=(), batch=4, search=replace(plan.search, statistics="batch"))
    (cell,) = gradient_leakage(model, samples, tmp_path, given).record["cells"]
    assert cell["psnr"]["count"] == 8
    assert len(list((tmp_path / "updates").iterdir())) == 2


def test_reconstructions_are_put_in_the_order_of_the_originals(model, samples, first, plan, tmp_path, monkeypatch):
    def upside_down(name):
        return lambda client, update: Reconstruction(first[0].flip(0) * 0.9, first[1].flip(0))

    monkeypatch.setattr(Plan, "attack", lambda self, name: upside_down(name))
    given = replace(plan, attacks=("inverting",), batch=8, defences=(), threshold=15.0)
    (cell,) = gradient_leakage(model, samples, tmp_path, given).record["cells"]
    assert cell["outcome"] == "recovers"
    assert cell["labels"]["value"] == 1
    with np.load(tmp_path / "images.npz") as kept:
        assert np.allclose(kept["0"], 0.9 * kept["original"])


def test_mistakes_have_one_message(model, samples, first, tmp_path):
    update = simulate(model, *first)
    for settings, told in (
        ({"method": "x"}, "method"),
        ({"iterations": 0}, "iterations"),
        ({"tv": -1.0}, "tv"),
        ({"statistics": "x"}, "stat"),
    ):
        with pytest.raises(ConfigError, match=told):
            GradientInversion(**settings)
    with pytest.raises(ConfigError, match="update of one sample, got one of 8"):
        analytic(model, update)
    for wrong, told in ((network("conv"), "fully connected, got Conv2d"), (network(norm="group"), "with a bias"),
                        (network(encoder="latency"), "direct or Poisson")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            first_layer(wrong)
    with pytest.raises(ConfigError, match="BitSerial, has no second derivative"):
        TwiceDifferentiable(network(neuron="bit-serial", norm="none"))
    with pytest.raises(ConfigError, match="for images"):
        TwiceDifferentiable(build("mlp", input_shape=(2, 2, 4, 4), classes=3, steps=2, domain="events-binary"))
    for settings, told in (({"attacks": ("x",)}, "attacks of analytic"), ({"batch": 0}, "at least 1"), ({"batch": 2}, "one sample"),
                           ({"threshold": 300.0}, "below 200 dB")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            Plan(**settings)
    with pytest.raises(ConfigError, match="batches of 3 divide"):
        gradient_leakage(model, samples, tmp_path, Plan(attacks=("idlg",), batch=3))
    assert not list(tmp_path.iterdir())
