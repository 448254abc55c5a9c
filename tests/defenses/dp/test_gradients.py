"""The gradients of samples against one pass a sample, for every bundled network, and their clipped sum against Opacus."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trustsnn.defenses.dp import gradients, naive_gradients, per_sample_gradients
from trustsnn.defenses.dp.gradients import clipped_sum, clipped_sum_of, encoded, norms, refuse_unfit_layers
from trustsnn.errors import ConfigError
from trustsnn.models import MODELS
from trustsnn.models.extended import extended
from trustsnn.models.onestep import ONE_STEP
from trustsnn.rng import Draws

IDS = tuple("abcde")
DRAWS = Draws(0, "test", IDS)
SMALL = [
    "mlp",
    "conv",
    "resnet-small",
    "sew-resnet-small",
    "ms-resnet-small",
    "spikformer-small",
    "spikingformer-small",
    "sdt-small",
]
QUICK = {*SMALL, *ONE_STEP, "vgg9", "vgg11", "sew-resnet18", "ms-resnet18"}


def assert_equal(found, truth, tolerance=1e-5):
    """Sample by sample and parameter by parameter; most parameters must have a gradient at all."""
    assert found.keys() == truth.keys()
    reached = 0
    for name, right in truth.items():
        assert found[name].shape == right.shape
        scale = right.reshape(len(right), -1).norm(dim=1).max()
        reached += bool(scale > 1e-12)
        off = (found[name] - right).reshape(len(right), -1).norm(dim=1).max()
        assert off <= tolerance * scale + 1e-12, name
    assert reached > 0.9 * len(truth)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*MODELS, *ONE_STEP)]
)
def test_every_bundled_network_has_the_gradients_of_single_samples(name, network, batch):
    model = network(name, steps=1 if name in ONE_STEP else 2)
    assert_equal(per_sample_gradients(model, *batch), naive_gradients(model, *batch))


@pytest.mark.parametrize(("name", "steps"), [("mlp", 1), ("conv", 1), *((name, 4) for name in SMALL)])
def test_a_sample_is_all_its_time_steps(name, steps, network, batch):
    model = network(name, steps=steps)
    assert_equal(per_sample_gradients(model, *batch), naive_gradients(model, *batch))


@pytest.mark.parametrize(
    "options",
    [
        {"learn": True},
        {"learn": True, "reset": "soft"},
        {"readout": "spike-count", "learn": True},
        {"norm": "none", "threshold": 0.1, "steps": 4},
        {"name": "onestep", "windows": "none", "steps": 3},
        {"name": "onestep", "learn": True, "steps": 1},
        {"merge": "iand", "name": "sew-resnet-small"},
    ],
    ids=str,
)
def test_options_keep_the_gradients_of_single_samples(options, network, batch):
    model = network(**{"name": "conv", "steps": 2, **options})
    assert_equal(per_sample_gradients(model, *batch), naive_gradients(model, *batch))


@pytest.mark.parametrize("encoder", ["poisson", "latency", "rank-order"])
def test_every_encoder_keeps_them_and_draws_by_sample(encoder, network, batch):
    x, y = batch
    model = network("conv", steps=3, encoder=encoder, learn=True)
    found = per_sample_gradients(model, x, y, draws=DRAWS)
    alone = [per_sample_gradients(model, x[i : i + 1], y[i : i + 1], draws=DRAWS.select([i])) for i in range(5)]
    assert_equal(found, {name: torch.cat([each[name] for each in alone]) for name in found})
    h, frames = encoded(model, x, DRAWS)
    torch.testing.assert_close(frames(h), model(x, DRAWS.child("encode")))
    assert_equal(found, naive_gradients(frames, h, y))


@pytest.mark.parametrize("learn", [False, True])
def test_a_leak_for_each_step(learn, network, batch):
    model = extended(network("conv", steps=3, learn=learn).float(), leaks=True).double()
    assert_equal(per_sample_gradients(model, *batch), naive_gradients(model, *batch))


def test_layers_that_draw_are_refused(network, batch):
    with pytest.raises(ConfigError, match=r"\(Gate\) draws at random"):
        per_sample_gradients(extended(network("conv").float(), gates=True), *batch)


def test_event_frames(network):
    x = torch.randint(0, 2, (4, 3, 2, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    model = network("conv", input_shape=(3, 2, 8, 8), domain="events-binary", steps=3)
    y = torch.tensor([0, 1, 2, 0])
    assert_equal(per_sample_gradients(model, x, y), naive_gradients(model, x, y))


def test_float32_with_the_fast_kernels(network, batch):
    """Neurons at the threshold may fire in one and not in the other, which these few do not."""
    x, y = batch[0].float(), batch[1]
    model = network("conv", channels=0.25, steps=4, learn=True).float()
    assert_equal(per_sample_gradients(model, x, y), naive_gradients(model, x, y), 1e-4)


def test_their_mean_is_the_gradient_of_the_batch(network, batch):
    x, y = batch
    model = network("conv", steps=4)
    found = per_sample_gradients(model, x, y)
    nn.functional.cross_entropy(model(x), y).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].mean(0), parameter.grad)


@pytest.mark.parametrize("norm", ["batch", "td", "bntt"])
def test_batch_normalisation_is_refused_with_the_mend(norm, network, batch):
    model = network("conv", norm=norm)
    for act in (lambda: refuse_unfit_layers(model), lambda: per_sample_gradients(model, *batch)):
        with pytest.raises(ConfigError, match=r"layers\.1 .*--norm group"):
            act()


def _random(rows=6):
    draws = torch.Generator().manual_seed(3)
    return {"a": torch.randn(rows, 4, 3, generator=draws), "b": torch.randn(rows, generator=draws)}


def test_the_clipped_sum_is_that_of_opacus():
    optimizers = pytest.importorskip("opacus.optimizers")
    found = _random()
    clip = float(norms(found).median())
    parameters = [nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(()))]
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(parameters, 1.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1
    )
    for parameter, each in zip(parameters, found.values(), strict=True):
        parameter.grad_sample = each
    optimizer.clip_and_accumulate()
    for parameter, mine in zip(parameters, clipped_sum(found, clip).values(), strict=True):
        torch.testing.assert_close(mine, parameter.summed_grad, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_counts_as_none():
    found = _random()
    broken = {name: g.clone() for name, g in found.items()}
    broken["a"][2, 0, 0], broken["b"][4] = torch.nan, torch.inf
    kept = {name: g[[0, 1, 3, 5]] for name, g in found.items()}
    for mine, right in zip(clipped_sum(broken, 0.5).values(), clipped_sum(kept, 0.5).values(), strict=True):
        torch.testing.assert_close(mine, right)


def test_parts_of_a_batch_sum_up_to_it(network, batch, monkeypatch):
    x, y = batch
    model = network("conv", encoder="poisson")
    whole = clipped_sum_of(model, x, y, 0.1, draws=DRAWS)
    monkeypatch.setattr(gradients, "_BYTES", 8 * sum(p.numel() for p in model.parameters()))  # two samples
    parts = clipped_sum_of(model, x, y, 0.1, draws=DRAWS)
    for name, right in whole.items():
        torch.testing.assert_close(parts[name], right)
    empty = clipped_sum_of(model, x[:0], y[:0], 0.1, draws=DRAWS.select([]))
    assert all(bool((each == 0).all()) for each in empty.values())
    assert empty.keys() == whole.keys()
