"""Prices of operations and memory, worked out by hand."""

from __future__ import annotations

import math

import pytest

from trustsnn.energy.conventions import (
    MEMORY_PJ,
    Work,
    access,
    break_even,
    dense,
    energies,
    level_bits,
    quantised,
    quantised_mac,
    spiking,
    tables,
)

FIRST = Work("first", macs=1000, acs=0, dense=1200, once=1000, weights=100, inputs=64, outputs=50, neuron_steps=0)
SECOND = Work("second", macs=0, acs=4000, dense=5000, once=3000, weights=20_000, inputs=50, outputs=10, neuron_steps=0)
NEURONS = Work("neurons", 0, 0, 0, 0, 0, 50, 50, neuron_steps=200)
WORK = [FIRST, SECOND, NEURONS]


@pytest.mark.parametrize(
    ("precision", "mac", "ac"), [("fp32", 4.6, 0.9), ("fp16", 1.5, 0.4), ("int32", 3.2, 0.1), ("int8", 0.23, 0.03)]
)
def test_operations_cost_what_horowitz_says(precision, mac, ac):
    """Horowitz, ISSCC 2014, 45 nm."""
    assert spiking(WORK, precision, False) == pytest.approx(1000 * mac + 4000 * ac)
    assert dense(WORK, precision, False) == pytest.approx(6200 * mac)
    assert {"precision": precision, "mac_pj": mac, "ac_pj": ac} in tables()["operations"]


def test_an_access_costs_by_the_size_of_the_memory():
    assert [access(size) for size in (1, 8 << 10, (8 << 10) + 1, 32 << 10, (32 << 10) + 1, 1 << 20, 1 << 24)] == [
        10, 10, 20, 20, 100, 100, 100,
    ]  # fmt: skip
    assert [price for _, price in MEMORY_PJ] == [10, 20, 100]


def test_memory_reads_each_operand_and_writes_each_sum():
    small, large = 10.0, 20.0  # 20,000 weights of 8 bits lie in 32 KiB, all else in 8 KiB
    expected = 1000 * (small + small) + 4000 * (large + 2 * small) + 2 * 200 * small
    assert spiking(WORK, "int8", True) - spiking(WORK, "int8", False) == pytest.approx(expected)
    expected = 1200 * (small + small) + 50 * small + 5000 * (large + small) + 10 * small
    assert dense(WORK, "int8", True) - dense(WORK, "int8", False) == pytest.approx(expected)


def test_the_quantised_network_has_as_many_levels_as_spikes_have_numbers():
    assert [level_bits(steps) for steps in (1, 2, 3, 4, 7, 8, 15)] == [1, 2, 2, 3, 3, 4, 4]
    assert quantised_mac(8) == pytest.approx(0.23)
    assert quantised_mac(4) == pytest.approx(0.13)
    assert quantised(WORK, 4, False, zeros=True) == pytest.approx(1200 * 0.23 + 5000 * (0.2 * 3 / 8 + 0.03))
    assert quantised(WORK, 4, False, zeros=False) == pytest.approx(1000 * 0.23 + 3000 * (0.2 * 3 / 8 + 0.03))


def test_at_the_break_even_rate_both_cost_the_same():
    for memory in (False, True):
        rate = break_even([SECOND, NEURONS], 4, memory)
        fed = SECOND._replace(acs=rate * 4 * SECOND.dense)
        other = SECOND._replace(dense=SECOND.dense)
        price = quantised([Work("pixels", 0, 0, 0, 0, 0, 0, 0, 0), other], 4, memory, zeros=True)
        assert spiking([fed, NEURONS], "int8", memory) == pytest.approx(price)
    assert break_even([SECOND], 10, True) < break_even([SECOND], 5, True) < 0.2
    assert break_even([FIRST], 4, False) == math.inf


def test_a_row_for_each_convention_and_precision():
    rows = energies(WORK, 4)
    assert [(row["convention"], row["precision"]) for row in rows] == [
        (convention, precision) for convention in ("operations", "memory") for precision in ("fp32", "fp16", "int32", "int8")
    ]
    assert rows[0]["spiking"] == spiking(WORK, "fp32", False) / 1e6
    assert [row["quantised"] is None for row in rows] == [True, True, True, False] * 2
