"""Bit errors against a plain re-derivation, and the noise of sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.sram import SRAM, flip
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build
from trustsnn.rng import Draws, stream

LAYER = Layer(Chip(), "0")
WEIGHT = torch.randn((64, 32), generator=torch.Generator().manual_seed(0))


def two_s_complement(code, bits):
    return format(code + (1 << bits) if code < 0 else code, f"0{bits}b")


@pytest.mark.parametrize("bits", [4, 8])
def test_each_bit_of_two_s_complement_flips_by_its_own_draw(bits):
    top = 2 ** (bits - 1)
    codes = np.arange(-top, top)
    found = flip(codes, 0.3, bits, stream(0, "bits"))
    draws = stream(0, "bits")
    wrong = [draws.random(len(codes)) < 0.3 for _ in range(bits)]
    for place, code in enumerate(codes):
        stored = list(two_s_complement(int(code), bits))
        for bit in range(bits):
            if wrong[bit][place]:
                stored[-1 - bit] = "10"[int(stored[-1 - bit])]
        value = int("".join(stored), 2)
        assert found[place] == (value - 2 * top if stored[0] == "1" else value)
    assert np.array_equal(flip(codes, 0.0, bits, stream(0, "bits")), codes)
    assert np.array_equal(flip(codes, 1.0, bits, stream(0, "bits")), -codes - 1)


@pytest.mark.parametrize("rate", [1e-3, 9e-2])
def test_bits_flip_at_the_rate_and_a_lower_rate_flips_some_of_them(rate):
    codes = np.zeros(500_000, dtype=np.int64)
    many, few = (flip(codes, r, 8, stream(0, "rate")) & 255 for r in (rate, rate / 3))
    share = np.unpackbits(many.astype(np.uint8)).mean()
    assert share == pytest.approx(rate, abs=4 * np.sqrt(rate / 4e6))
    assert not (few & ~many).any()
    assert few.any()


@pytest.mark.parametrize("bits", [4, 8])
def test_without_errors_weights_are_their_nearest_level(bits):
    found = SRAM(bits=bits, ber=0.0).weights(WEIGHT, LAYER)
    step = float(WEIGHT.abs().max()) / (2 ** (bits - 1) - 1)
    assert float((found - WEIGHT).abs().max()) <= step / 2 * (1 + 1e-5)
    assert len(found.unique()) <= 2**bits - 1
    assert float(found.abs().max()) == pytest.approx(float(WEIGHT.abs().max()), rel=1e-6)
    assert SRAM(bits=bits, ber=1.0).weights(WEIGHT, LAYER).abs().max() == found.abs().max()
    assert not SRAM(ber=0.0).weights(torch.zeros(2, 2), LAYER).any()
    assert not SRAM(ber=0.0).stochastic


def test_sums_deviate_by_the_cells_of_their_column():
    layer = replace(LAYER, synapses=torch.nn.Linear(25, 20_000))
    layer.synapses.weight.data.uniform_(-0.4, 0.4).view(-1)[0] = -0.5
    h = torch.randn((2 * 3, 20_000), generator=torch.Generator().manual_seed(1))
    noise = SRAM(noise=0.1).outputs(layer)(h, range(2), Draws(0, "sums", ("a", "b", "c"))) - h
    assert noise.std(1).tolist() == pytest.approx([0.1 * 0.5 * 5] * 6, rel=0.03)
    assert noise.mean(1).tolist() == pytest.approx([0.0] * 6, abs=0.01)
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.04


def test_noise_makes_a_network_stochastic_and_bit_errors_do_not():
    network = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.125)
    assert not deploy(network, [SRAM()]).spec.stochastic
    noisy, x = deploy(network, [SRAM(noise=0.1)]), torch.rand(3, 1, 8, 8)
    assert noisy.spec.stochastic
    one, again, other = (noisy(x, generator=Draws(seed, "run", ("a", "b", "c"))) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
