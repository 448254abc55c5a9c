"""An event camera's noise: rates of events for each pixel and second within their intervals, and frames that stay frames."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from scipy import stats

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.dvs import DVSNoise, NoisyDVS, poisson
from trustsnn.hardware.twin import Chip
from trustsnn.models import build
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws

EVEN = {"threshold_spread": 0.0, "rate_spread": 0.0}


def noise_of(twin: DVSNoise, count: int = 40, steps: int = 10, size: int = 30, most: int | None = 15, x=None) -> torch.Tensor:
    """What the twin adds to frames [count, steps, 2, size, size], empty ones if none are given."""
    spec = ModelSpec("events-count" if most else "events-binary", (steps, 2, size, size), 3, steps, "frames", "own", False, most)
    frames = torch.zeros(count, *spec.input_shape) if x is None else x
    return twin.sensor(spec, Chip())(frames, range(1), Draws(0, "t", tuple(map(str, range(count))))) - frames


def rate_interval(events: float, seconds: float) -> tuple[float, float]:
    """The exact 99.9 % interval of a Poisson rate."""
    return stats.chi2.ppf(0.0005, 2 * events) / 2 / seconds, stats.chi2.ppf(0.9995, 2 * events + 2) / 2 / seconds


@pytest.mark.parametrize(("shot", "frame"), [(5.0, 0.0315), (200.0, 0.01), (0.5, 0.1)])
def test_shot_noise_comes_at_its_rate_in_both_polarities(shot, frame):
    found = noise_of(DVSNoise(shot=shot, leak=0.0, refractory=0.0, frame=frame, **EVEN))
    seconds = 40 * 10 * 30 * 30 * frame  # of pixels
    for polarity in (0, 1):
        low, high = rate_interval(float(found[:, :, polarity].sum()), seconds)
        assert low < shot / 2 < high
    counts, mean = found[:, :, 0].flatten().numpy(), shot / 2 * frame
    assert counts.var() == pytest.approx(mean, rel=0.05)  # a Poisson process has its mean as variance


def test_leak_is_on_events_at_even_intervals():
    twin = DVSNoise(shot=0.0, leak=2.5, frame=0.1, **EVEN)
    found = noise_of(twin, count=20, steps=12)
    assert found[:, :, 0].sum() == 0
    assert torch.equal(found[:, :, 1].unfold(1, 4, 4).sum(-1), torch.ones(20, 3, 30, 30))  # one in any .4 s
    first = found[:, :4, 1].sum((0, 2, 3))
    assert stats.chisquare(first.numpy()).pvalue > 1e-3  # phases are uniform
    seconds = 200 * 10 * 30 * 30 * 0.0315
    low, high = rate_interval(float(noise_of(DVSNoise(shot=0.0, **EVEN), count=200).sum()), seconds)
    assert low < 0.01 < high


def test_pixels_differ_as_v2e_has_it():
    """v2e: leak times 10^(.1 xi), shot noise times threshold / max(threshold + spread xi, .01)."""
    spec = ModelSpec("events-binary", (5, 2, 100, 100), 3, 5, "frames", "own", False)
    camera = DVSNoise(refractory=0.0).sensor(spec, Chip())
    decades = (camera.leak.double() / (0.01 * 0.0315)).log10()
    assert float(decades.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(decades.mean())) < 0.004
    thresholds = 0.2 * (0.001 / 2 * 0.0315) / camera.shot.double()
    assert float(thresholds.mean()) == pytest.approx(0.2, abs=0.001)
    assert float(thresholds.std()) == pytest.approx(0.03, rel=0.05)
    other = DVSNoise().sensor(spec, Chip(number=1))
    again = DVSNoise().sensor(spec, Chip())
    assert not torch.equal(other.leak, camera.leak)
    assert torch.equal(again.leak, camera.leak)
    steep = NoisyDVS(threshold_spread=0.3).sensor(spec, Chip())
    assert float(steep.shot.max()) == pytest.approx(5 / 2 * 0.0315 * 0.2 / 0.01)  # no threshold falls below .01


def test_a_pixel_is_deaf_after_an_event():
    """A dead time tau makes r / (1 + r tau) of a rate r: half of it for 200 Hz and 5 ms."""
    found = noise_of(DVSNoise(shot=200.0, leak=0.0, refractory=0.005, frame=0.01, **EVEN))
    low, high = rate_interval(float(found.sum()), 40 * 10 * 30 * 30 * 0.01)
    assert low < 100.0 < high
    busy = torch.zeros(40, 10, 2, 30, 30)
    busy[:, :, 0] = 2  # of the frame's own, which keep the pixel deaf for all of its 10 ms
    busy[:, :, :, :15] = 0
    found = noise_of(DVSNoise(shot=200.0, leak=0.0, refractory=0.005, frame=0.01, **EVEN), x=busy)
    assert found[:, :, :, 15:].sum() == 0
    assert found[:, :, :, :15].sum() > 0


@pytest.mark.parametrize("most", [None, 3])
def test_frames_stay_frames(most):
    ceiling = most or 1
    x = torch.randint(0, ceiling + 1, (20, 6, 2, 12, 12), generator=torch.Generator().manual_seed(0)).float()
    added = noise_of(NoisyDVS(shot=400.0), count=20, steps=6, size=12, most=most, x=x)
    noisy = x + added
    assert noisy.shape == x.shape
    assert noisy.dtype == x.dtype
    assert set(noisy.unique().tolist()) == {float(n) for n in range(ceiling + 1)}
    assert (added >= 0).all()
    assert int((added > 0).sum()) > 0


def test_gradients_go_straight_through(draws_of):
    spec = ModelSpec("events-binary", (4, 2, 6, 6), 3, 4, "frames", "own", False)
    x = torch.zeros(3, 4, 2, 6, 6, requires_grad=True)
    noisy = NoisyDVS(shot=100.0).sensor(spec, Chip())(x, range(1), draws_of(3))
    noisy.sum().backward()
    assert float(noisy.detach().sum()) > 0
    assert (x.grad == 1).all()


def test_counts_are_the_inverse_of_the_poisson_distribution():
    uniform = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    for mean in (0.001, 0.7, 4.0):
        found = poisson(uniform, torch.full((2000,), mean), 50)
        # the upper tail is the lower one of 1 - u
        expected = stats.poisson.isf(uniform.double().numpy(), mean)
        assert (found.numpy() == expected).mean() > 0.999  # but for a draw at an edge
        assert torch.equal(poisson(uniform, torch.full((2000,), mean), 2), found.clamp_max(2))


def test_the_presets_are_those_of_v2e():
    default = asdict(DVSNoise())
    assert default == {
        "shot": 0.001, "leak": 0.01, "threshold": 0.2, "threshold_spread": 0.03, "rate_spread": 0.1, "refractory": 0.0005, "frame": 0.0315,
    }  # fmt: skip
    noisy = {"shot": 5.0, "leak": 0.1, "threshold_spread": 0.05, "refractory": 0.0}
    assert asdict(NoisyDVS()) == {**default, **noisy}
    assert NoisyDVS().describe()["name"] == "dvs-noisy"


def test_images_are_refused():
    with pytest.raises(ConfigError, match="sensor-noise"):
        deploy(build("mlp", input_shape=(1, 4, 4), classes=3), [DVSNoise()])


@pytest.mark.parametrize(
    "settings",
    [{"shot": -1.0}, {"leak": float("inf")}, {"threshold": 0.0}, {"rate_spread": -0.1}, {"refractory": -1e-3}, {"frame": 0.0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DVSNoise(**settings)


def test_no_more_noise_than_settings_say():
    """Without any rate nothing is added, whatever the spreads."""
    assert float(noise_of(DVSNoise(shot=0.0, leak=0.0)).abs().max()) == 0
