"""Stuck devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trustsnn.hardware.faulty import StuckAt, stick
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.rng import stream

LAYER = Layer(Chip(), "0")
WEIGHT = torch.rand((50, 40), generator=torch.Generator().manual_seed(0)) + 0.5


def test_devices_are_stuck_at_their_rates():
    target = np.full(1_000_000, 3.0)
    found = stick(target, 25.0, 0.0175, 0.0904, stream(0, "stuck"))
    assert (found == 0).mean() == pytest.approx(0.0175, abs=4 * np.sqrt(0.0175 / 1e6))
    assert (found == 25).mean() == pytest.approx(0.0904, abs=4 * np.sqrt(0.0904 / 1e6))
    assert set(np.unique(found)) == {0.0, 3.0, 25.0}
    fewer = stick(target, 25.0, 0.01, 0.02, stream(0, "stuck"))
    assert np.array_equal(fewer[fewer != 3], found[fewer != 3])


def test_without_faults_the_weights_come_back():
    torch.testing.assert_close(StuckAt(sa0=0.0, sa1=0.0).weights(WEIGHT - 1, LAYER), WEIGHT - 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sa0", "sa1", "values"), [(1.0, 0.0, {0.0}), (0.0, 1.0, {0.0}), (0.5, 0.5, {-1.0, 0.0, 1.0})])
def test_a_weight_of_two_stuck_devices_is_their_difference(sa0, sa1, values):
    found = StuckAt(sa0=sa0, sa1=sa1).weights(WEIGHT, LAYER)
    assert set((found / WEIGHT.max()).unique().tolist()) == values


def test_one_stuck_device_of_a_positive_weight():
    found = StuckAt(sa0=0.0, sa1=0.2).weights(WEIGHT, LAYER)
    largest = float(WEIGHT.max())
    left = torch.isclose(found, WEIGHT, atol=1e-6, rtol=0).float().mean()  # neither device is stuck
    lowered = torch.isclose(found, WEIGHT - largest, atol=1e-6, rtol=0).float().mean()  # G- is stuck at the highest, G+ is not
    assert float(left) == pytest.approx(0.64, abs=0.05)
    assert float(lowered) == pytest.approx(0.16, abs=0.05)
