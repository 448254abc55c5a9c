"""Resistive memory against the published polynomials."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trustsnn.hardware.rram import DEVICES, RRAM, program
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.rng import stream

COUNT = 1_000_000
LAYER = Layer(Chip(), "0")
# uS: target and sigma, from the fits of CrossSim (RRAMWan, RRAMMilo) by hand: published figures.
PUBLISHED = {
    "wan2022": [(10.0, 2.4136), (15.0, 2.50665), (20.0, 2.3618), (30.0, 1.8192), (39.26, 1.680759)],
    "milo": [(50.0, 4.326971), (100.0, 3.871621), (150.0, 3.416271), (200.0, 2.960921), (225.0, 2.733246)],
}


@pytest.mark.parametrize(("model", "target", "sigma"), [(model, *row) for model, rows in PUBLISHED.items() for row in rows])
def test_a_million_devices_have_the_published_mean_and_sigma(model, target, sigma):
    found = program(np.full(COUNT, target), model, stream(0, f"{model} {target}"))
    assert found.mean() == pytest.approx(target, rel=0.01)
    assert found.std() == pytest.approx(sigma, rel=0.01)


def test_a_device_at_zero_deviates_to_one_side():
    found = program(np.zeros(COUNT), "wan2022", stream(0, "zero"))
    assert float(found.min()) == 0
    assert found.mean() == pytest.approx(1.053 / math.sqrt(2 * math.pi), rel=0.01)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_generic_devices_are_log_normal(sigma):
    found = np.log(program(np.full(COUNT, 7.0), "generic", stream(0, "generic"), sigma=sigma) / 7)
    assert found.mean() == pytest.approx(0, abs=0.01 * sigma)
    assert found.std() == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("model", DEVICES)
def test_without_noise_the_weights_come_back(model):
    weight = torch.randn((6, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(RRAM(model=model, noise=0.0).weights(weight, LAYER), weight, rtol=0, atol=1e-6)


def test_the_noise_of_a_weight_is_that_of_both_devices_of_its_pair():
    weight = torch.ones(1000, 400)  # every pair is 225 and 50 uS
    found = RRAM(model="milo").weights(weight, LAYER)
    assert float(found.mean()) == pytest.approx(1, rel=0.01)
    assert float(found.std()) == pytest.approx(math.hypot(2.733246, 4.326971) / 175, rel=0.01)
