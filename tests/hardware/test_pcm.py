"""Phase-change memory against the published polynomials, and what follows from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trustsnn.hardware.crossbar import to_pairs
from trustsnn.hardware.pcm import PCM, drift, exponents, program, read
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.rng import stream

DEVICES = 1_000_000
HOUR, DAY = 3600.0, 86400.0
TIMES = [25.0, HOUR, DAY, 30 * DAY, 365 * DAY]
# uS: target; sigma of the programmed conductance; mean and sigma of nu before the absolute value. From the polynomials of
# aihwkit's PCMLikeNoiseModel by hand, so that each row is a published figure.
PUBLISHED = [
    (5.0, 0.609556, 0.049346, 0.014218),
    (10.0, 0.861784, 0.049, 0.008),
    (15.0, 1.020164, 0.049, 0.008),
    (20.0, 1.084696, 0.049, 0.008),
    (25.0, 1.055380, 0.049, 0.008),
]
LAYER = Layer(Chip(), "0")


def expected_after(target, sigma, nu, deviation, time):
    """Mean and sigma of a device read `time` s after programming, uS: follows from the published figures, by quadrature over the
    normal draws of programming and drift. No device of 5 uS and more comes near 0, where a clamp would count."""
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    programmed = target + sigma * at
    share = np.minimum(0.0088 / (np.maximum(programmed, 1e-3) / 25) ** 0.65, 0.2) ** 2 * math.log((time + 20 + 250e-9) / 500e-9)
    kept = ((time + 20) / 20) ** -np.abs(nu + deviation * at)
    mean = (weight @ programmed) * (weight @ kept)
    square = (weight @ (programmed**2 * (1 + share))) * (weight @ kept**2)
    return mean, math.sqrt(square - mean**2)


@pytest.mark.parametrize(("target", "sigma", "nu", "deviation"), PUBLISHED)
def test_a_million_devices_have_the_published_mean_and_sigma_at_five_times(target, sigma, nu, deviation):
    meant = np.full(DEVICES, target)
    programmed = program(meant, stream(0, f"programming {target}"))
    assert programmed.mean() == pytest.approx(target, rel=0.01)
    assert programmed.std() == pytest.approx(sigma, rel=0.01)
    drifts = exponents(meant, stream(0, f"drift {target}"))
    assert drifts.mean() == pytest.approx(nu, rel=0.01)
    assert drifts.std() == pytest.approx(deviation, rel=0.01)
    for time in TIMES:
        found = read(drift(programmed, drifts, time), programmed, time, stream(0, f"read {target} {time}"))
        mean, spread = expected_after(target, sigma, nu, deviation, time)
        assert found.mean() == pytest.approx(mean, rel=0.01)
        assert found.std() == pytest.approx(spread, rel=0.01)


def test_a_device_at_zero_deviates_to_one_side():
    found = program(np.zeros(DEVICES), stream(0, "zero"))
    assert float(found.min()) == 0
    assert found.mean() == pytest.approx(0.26348 / math.sqrt(2 * math.pi), rel=0.01)
    assert (found**2).mean() == pytest.approx(0.26348**2 / 2, rel=0.01)


def test_the_exponents_of_small_conductances():
    # g = .01: m = -.0155 ln .01 + .0244 = .095780, d = .051665, clipped to .045; g = 0: m is clipped to .1, d to .045
    for target, mean in ((0.25, 0.095780), (0.0, 0.1)):
        drawn = exponents(np.full(DEVICES, target), stream(0, "small"))
        folded = mean * math.erf(mean / 0.045 / math.sqrt(2)) + 0.045 * math.sqrt(2 / math.pi) * math.exp(
            -((mean / 0.045) ** 2) / 2
        )
        assert float(drawn.min()) >= 0
        assert drawn.mean() == pytest.approx(folded, rel=0.01)


def test_small_conductances_have_the_largest_read_noise():
    programmed = np.full(DEVICES, 0.1)  # .0088 / .004^.65 = .318, clipped to .2
    found = read(programmed, programmed, 0.0, stream(0, "read"), 0.1)
    assert found.std() == pytest.approx(0.1 * 0.1 * 0.2 * math.sqrt(math.log(20.00000025 / 5e-7)), rel=0.01)
    assert np.array_equal(read(np.zeros(3), np.zeros(3), 25.0, stream(0, "read")), np.zeros(3))


def weights(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def conductances(**settings):
    return PCM(**settings).conductances(to_pairs(weights(40, 5, 3, 3), 0.0, 25.0).conductances, LAYER)


def test_a_chip_at_two_times_was_programmed_once_and_has_the_same_exponents():
    first, hour, year = (conductances(time=t, read_noise=0.0, compensate=False) for t in (0.0, HOUR, 365 * DAY))
    alive = first > 0
    rate = [np.log(first[alive] / later[alive]) / math.log((t + 20) / 20) for later, t in ((hour, HOUR), (year, 365 * DAY))]
    np.testing.assert_allclose(*rate, rtol=1e-9)
    assert rate[0].std() > 0.008
    reads = [conductances(time=time, drift_rate=0.0, compensate=False) - first for time in (0.0, HOUR)]
    assert abs(np.corrcoef(reads[0].ravel(), reads[1].ravel())[0, 1]) < 0.1  # each time is read anew


def test_weights_fade_with_time_and_compensation_holds_their_mean():
    def mean(**settings):
        return float(PCM(**settings).weights(weights(60, 50), LAYER).abs().mean())

    faded = [mean(time=time, compensate=False) for time in (0.0, *TIMES)]
    assert faded == sorted(faded, reverse=True)
    assert faded[-1] < 0.6 * faded[0]
    programmed = mean(time=0.0, read_noise=0.0)
    assert [mean(time=time) for time in TIMES] == pytest.approx([programmed] * 5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compensate", [True, False])
def test_without_noise_and_drift_the_weights_come_back(dtype, compensate):
    weight = weights(7, 4, 3, 3).to(dtype)
    found = PCM(program_noise=0, drift_rate=0, read_noise=0, compensate=compensate).weights(weight, LAYER)
    assert found.dtype == dtype
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-6)


def test_a_layer_without_weights_keeps_none():
    assert not PCM().weights(torch.zeros(3, 2), LAYER).any()
