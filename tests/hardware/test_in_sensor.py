"""The first layer in the sensor, and a camera's noise: against loops over codes and the intervals of their variances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.converters import Noisy, Quantised
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.in_sensor import InSensor, SensorNoise
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build


@pytest.fixture
def first():
    """A first layer of 3 x 3 weights on one channel, with a bias."""
    torch.manual_seed(0)
    return Layer(Chip(), "0", nn.Conv2d(1, 4, 3, padding=1), True)


@pytest.mark.parametrize("bits", [1, 4, 6])
def test_sums_become_the_nearest_code_of_their_span(first, bits):
    conv, image = first.synapses, torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sums = conv(image).detach()
    found = InSensor(bits=bits, noise=0.0).outputs(first)(sums)
    for channel in range(4):
        weight, bias = conv.weight[channel].detach(), float(conv.bias[channel].detach())
        low, high = bias + float(weight.clamp_max(0).sum()), bias + float(weight.clamp_min(0).sum())
        codes = np.linspace(low, high, 2**bits)
        values = sums[:, channel].flatten().numpy()
        nearest = codes[np.abs(values[:, None] - codes).argmin(1)]
        np.testing.assert_allclose(found[:, channel].flatten().numpy(), nearest, atol=1e-6)


def test_no_sum_of_an_image_is_clipped(first):
    conv = first.synapses
    extreme = (conv.weight[:, 0] > 0).float()  # the image that drives each channel highest, and its negative
    images = torch.cat([extreme, 1 - extreme])[:, None]
    sums = conv(nn.functional.pad(images, (2, 2, 2, 2))).detach().requires_grad_()
    converter = InSensor(bits=8, noise=0.0).outputs(first)
    found = converter(sums)
    assert ((found - sums).abs() <= converter.reach.view(1, -1, 1, 1) / 255 * 1.001).all()
    assert float(
        ((sums.detach() - converter.centre.view(1, -1, 1, 1)).abs() / converter.reach.view(1, -1, 1, 1)).max()
    ) == pytest.approx(1)


def test_noise_is_a_share_of_the_span_and_held_over_the_steps(first, draws_of):
    count, span = 4000, first.synapses.weight.detach().abs().flatten(1).sum(1)
    sums = first.synapses.bias.detach().view(1, -1, 1, 1).expand(3 * count, 4, 2, 1)
    noisy = InSensor(bits=16, noise=0.01).outputs(first)
    sums = sums + (noisy.then.centre - first.synapses.bias.detach()).view(1, -1, 1, 1)
    noise = (noisy(sums, range(3), draws_of(count)) - sums).unflatten(0, (3, count))
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])
    for channel in range(4):
        measured = float((noise[0][:, channel] / span[channel]).double().square().sum())
        low, high = chi2.ppf([0.0005, 0.9995], 2 * count) * 0.01**2
        assert low < measured < high
    assert len(noise[0].unique()) > count  # samples and outputs differ


def test_an_image_that_is_held_is_read_once(image_network, draws_of, monkeypatch):
    network, images = image_network
    chip, seen = deploy(network, [InSensor()]), []
    noisy = next(layer for layer in chip.layers if isinstance(layer, Noisy))
    noisy.register_forward_hook(lambda layer, given, found: seen.append(len(found)))
    with torch.no_grad():
        once = chip(images, generator=draws_of(12))
        membranes: dict = {}
        parts = [chip.part(images, steps, membranes, draws_of(12)) for steps in (range(0, 1), range(1, 4))]
        monkeypatch.setattr(type(noisy), "held", False)
        assert torch.equal(chip(images, generator=draws_of(12)), once)  # as of the image at each step
    torch.testing.assert_close(torch.cat(parts).mean(0), once)
    assert seen == [12, 12, 12, 4 * 12]
    assert float(once.std()) > 0


def test_only_the_first_layer_is_in_the_sensor(image_network):
    network, _ = image_network
    chip = deploy(network, [InSensor()])
    assert [name for name, m in chip.layers.named_children() if isinstance(m, Noisy)] == ["0-out-0"]
    assert sum(isinstance(m, Quantised) for m in chip.modules()) == 1
    assert chip.spec.stochastic
    assert not deploy(network, [InSensor(noise=0.0)]).spec.stochastic


@pytest.mark.parametrize("options", [{"domain": "events-binary", "input_shape": (4, 2, 8, 8)}, {"encoder": "poisson"}])
def test_what_no_pixel_can_hold_is_refused(options):
    network = build("mlp", **{"input_shape": (1, 8, 8), "classes": 3, **options})
    with pytest.raises(ConfigError, match="encoder 'direct'"):
        deploy(network, [InSensor()])


@pytest.mark.parametrize("value", [0.0, 0.25, 0.9])
def test_a_camera_has_the_variance_of_its_electrons(value, draws_of):
    """EMVA 1288: the variance in electrons is their number and the square of the read noise."""
    camera = SensorNoise(full_well=2000.0, read=20.0).sensor(None, Chip())
    images = torch.full((400, 1, 10, 10), value)
    noise = camera(images, range(1), draws_of(400)) - images
    if value == 0.0:  # what would be darker than black is black
        assert float(noise.min()) == 0.0
        noise = noise[noise > 0]
        assert 0.48 < len(noise) / images.numel() < 0.52
    expected = (value * 2000 + 20**2) / 2000**2
    low, high = chi2.ppf([0.0005, 0.9995], noise.numel()) * expected
    assert low < float(noise.double().square().sum()) < high


def test_a_camera_gives_images_and_lets_gradients_through(draws_of):
    camera = SensorNoise(full_well=100.0, read=30.0).sensor(None, Chip())
    images = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    noisy = camera(images, range(1), draws_of(8))
    assert 0 <= float(noisy.detach().min()) < float(noisy.detach().max()) <= 1
    noisy.sum().backward()
    assert (images.grad == 1).all()
    with pytest.raises(ConfigError, match="dvs-noise"):
        deploy(build("mlp", input_shape=(4, 2, 6, 6), classes=3, domain="events-binary"), [SensorNoise()])


@pytest.mark.parametrize(
    ("make", "settings"),
    [(InSensor, {"bits": 0}), (InSensor, {"noise": -1.0}), (SensorNoise, {"full_well": 0}), (SensorNoise, {"read": -1})],
)
def test_settings_out_of_range_are_refused(make, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make(**settings)
