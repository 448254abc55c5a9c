"""The verifier on layouts of time that Opacus gets right and wrong, and on this project's own gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trustsnn.defenses.dp import naive_gradients, per_sample_gradients, verify
from trustsnn.defenses.dp.layouts import LAYOUTS, FoldedConvolution, stock_opacus
from trustsnn.errors import ConfigError

opacus = pytest.importorskip("opacus.grad_sample")


@pytest.fixture
def images():
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(12) % 10


def layout(name):
    torch.manual_seed(0)
    return FoldedConvolution(8, 10) if name == "convolution" else LAYOUTS[name](64, 10)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("name", ["looped", "sequences"])
def test_right_layouts_are_confirmed_under_stock_opacus(name, wrapped, images):
    model = layout(name)
    found = verify(opacus.GradSampleModule(model), *images) if wrapped else verify(model, *images, gradients=stock_opacus)
    assert found.ok
    assert found.error < 1e-12
    assert found.sensitivity == pytest.approx(1.0)  # every sample is clipped
    assert found.samples == 18


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("name", ["folded", "convolution"])
def test_time_folded_into_the_batch_is_refuted_under_stock_opacus(name, wrapped, images):
    model = layout(name)
    found = verify(opacus.GradSampleModule(model), *images) if wrapped else verify(model, *images, gradients=stock_opacus)
    assert not found.ok
    assert 3 < found.sensitivity <= 4 + 1e-9  # T = 4; METHODS section 12 has 3.2 to 3.5
    assert found.error == math.inf
    assert "24 gradients came back for 6 samples" in found.sentence


def test_stepped_neurons_with_a_learnt_leak_are_refuted_under_stock_opacus(images):
    found = verify(layout("stepped"), *images, gradients=stock_opacus)
    assert not found.ok
    assert found.where == "neuron.leak"
    assert found.error > 0.1
    assert "neuron.leak" in found.sentence
    kept = verify(opacus.GradSampleModule(layout("stepped")), *images)  # whose state outlives its batch
    assert not kept.ok
    assert kept.sensitivity == math.inf


@pytest.mark.parametrize("name", [*LAYOUTS, "convolution"])
def test_mapping_over_samples_is_right_for_every_layout(name, images):
    found = verify(layout(name), *images)
    assert found.ok
    assert found.error < 1e-9


@pytest.mark.parametrize(
    "options", [{}, {"learn": True, "encoder": "poisson"}, {"encoder": "latency"}, {"name": "onestep", "steps": 1}], ids=str
)
def test_bundled_networks_are_confirmed_and_left_as_they_were(options, network, images):
    model = network(**{"name": "conv", **options}, classes=10).float().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = verify(model, *images, batches=1)
    assert found.ok
    assert not any(module.training for module in model.modules())
    assert all(t.dtype == before[n].dtype and torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_network_that_opacus_does_not_see_is_refuted(network, images):
    """A bundled network calls its layers' weights and not its layers, so that hooks on them never run."""
    hidden = opacus.GradSampleModule(network("conv", classes=10), strict=False)
    found = verify(hidden, *images)
    assert not found.ok
    assert "No gradients of" in found.sentence


def test_samples_that_look_at_each_other_are_refuted(images):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1) - x.flatten(1).mean(0))

    def as_a_batch(model, x, y):
        """The batch's own centre for each of its samples."""
        centred = x.flatten(1) - x.flatten(1).mean(0)
        return {f"layer.{name}": g for name, g in naive_gradients(model.layer, centred, y).items()}

    found = verify(Centred(), *images, gradients=as_a_batch)
    assert not found.ok
    assert found.error > 0.1
    assert found.sensitivity > 1.01


def test_gradients_of_another_length_are_refuted_where_no_clip_is_at_work(images):
    found = verify(
        layout("looped"), *images, clip=1e6, gradients=lambda m, x, y: {n: 2 * g for n, g in naive_gradients(m, x, y).items()}
    )
    assert not found.ok
    assert found.error == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 13}, "of the 12 samples"), ({"size": 1}, "at least 2"), ({"batches": 0}, "at least 1 batch")],
)
def test_too_little_to_verify_is_refused(settings, message, images):
    with pytest.raises(ConfigError, match=message):
        verify(layout("looped"), *images, **settings)


def test_batch_normalisation_and_dead_models_are_refused(network, images):
    with pytest.raises(ConfigError, match="--norm group"):
        verify(network("conv", norm="batch", classes=10), *images)
    dead = layout("looped")
    with torch.no_grad():
        dead.readout.weight.zero_()
    assert verify(dead, *images).ok  # only the readout learns
    with pytest.raises(ConfigError, match="nothing to verify"):
        verify(dead, *images, loss=lambda logits, y: (logits * 0).sum())


def test_another_loss_is_verified_as_given(images):
    def loss(logits, y):
        return nn.functional.cross_entropy(logits, y, label_smoothing=0.2)

    assert verify(layout("folded"), *images, loss=loss).ok
    wrong = verify(layout("folded"), *images, loss=loss, gradients=per_sample_gradients)
    assert not wrong.ok


class Hoarder(nn.Linear):
    """A linear layer that keeps the sum of what it was trained on."""

    def __init__(self, assigned: bool) -> None:
        super().__init__(64, 10)
        self.assigned = assigned
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training and self.assigned:
            self.seen = self.seen + x.detach().sum(0)
        elif self.training:
            self.seen.add_(x.detach().sum(0))
        return super().forward(x)


@pytest.mark.parametrize("assigned", [False, True])
def test_a_buffer_that_keeps_samples_is_refuted_and_put_back(assigned, images):
    model = Hoarder(assigned)
    buffer = model.seen
    found = verify(model, *images, gradients=lambda model, x, y: naive_gradients(model, x, y, loss=nn.functional.cross_entropy))
    assert not found.ok
    assert (
        found.sentence
        == "The samples move the buffer seen, which the model keeps and no noise covers: the accountant's eps does not hold."
    )
    assert model.seen is buffer
    assert (buffer.dtype, float(buffer.abs().sum())) == (torch.float32, 0.0)


def test_a_model_without_gradients_of_single_samples_is_one_error(images):
    with pytest.raises(ConfigError, match="gradients of single samples cannot be computed"):
        verify(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)), *images)
