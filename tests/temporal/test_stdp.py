"""STDP by traces against the sum over pairs of spikes, rank order decoding, and unsupervised learning with it."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch

from trustsnn.errors import ConfigError
from trustsnn.temporal import STDP, WinnerConfig, WinnerTakeAll, rank_order_response, train_winner

RULE = {"up": 0.3, "down": 0.2, "tau_up": 5.0, "tau_down": 9.0}


def pairs(before, after, rule):
    """The change of one weight: a double sum over the spike times of its input and of its neuron."""
    change = 0.0
    for late in after:
        earlier = [t for t in before if t < late]
        change += sum(rule.up * exp(-(late - t) / rule.tau_up) for t in (earlier if rule.pairing == "all" else earlier[-1:]))
    for late in before:
        earlier = [t for t in after if t < late]
        change -= sum(rule.down * exp(-(late - t) / rule.tau_down) for t in (earlier if rule.pairing == "all" else earlier[-1:]))
    return change


@pytest.mark.parametrize("pairing", ["all", "nearest"])
@pytest.mark.parametrize("seed", range(3))
def test_traces_equal_the_sum_over_pairs(pairing, seed):
    generator = torch.Generator().manual_seed(seed)
    before, after = ((torch.rand(40, 2, n, generator=generator) < 0.3).double() for n in (5, 4))
    rule = STDP(**RULE, pairing=pairing)
    found = rule.change(before, after)
    for b, i, j in np.ndindex(*found.shape):
        spikes = (train[:, b, n].nonzero().flatten().tolist() for train, n in ((before, i), (after, j)))
        assert found[b, i, j].item() == pytest.approx(pairs(*spikes, rule), rel=1e-9, abs=1e-12)


def test_before_strengthens_after_weakens_and_together_does_nothing():
    spikes = torch.eye(3, dtype=torch.float64)[:, None]
    change = STDP(**RULE).change(spikes, spikes)[0]
    assert (change.triu(1) > 0).sum() == 3
    assert (change.tril(-1) < 0).sum() == 3
    assert (change.diagonal() == 0).all()


def test_rank_order_response_is_the_weighted_sum_over_ranks_and_prefers_its_own_order():
    generator = torch.Generator().manual_seed(0)
    times, weight = torch.rand(6, 9, generator=generator), torch.rand(9, 4, generator=generator)
    times[:, 4], times[2, 7] = times[:, 1], torch.inf
    found = rank_order_response(times, weight, 0.8)
    for b, j in np.ndindex(*found.shape):
        heard = sorted(range(9), key=lambda i: (times[b, i].item(), i))
        wanted = sum(0.8**rank * weight[i, j].item() for rank, i in enumerate(heard) if times[b, i] < torch.inf)
        assert found[b, j].item() == pytest.approx(wanted, rel=1e-5)
    own = rank_order_response(-weight.t(), weight)
    assert (own.diagonal() >= own.amax(0)).all()


def test_winner_take_all_learns_digits_without_labels(digits_train, digits_test):
    config = WinnerConfig(neurons=40)
    data = digits_train.take(900)
    told = []
    layer = train_winner(data, config, on_image=lambda *progress: told.append(progress))
    untrained = WinnerTakeAll(64, config)
    untrained.name(data)
    assert layer.accuracy(digits_test)["low"] > untrained.accuracy(digits_test)["high"]
    assert told[-1] == (900, 900)
    assert layer.weight.min() >= 0
    assert layer.weight.max() <= 1
    assert torch.equal(layer.weight, train_winner(data, config).weight)


def test_the_winner_crosses_first_in_a_simulation(digits_test):
    layer = WinnerTakeAll(64, WinnerConfig(neurons=9, threshold=0.3))
    x = torch.from_numpy(digits_test.batch(range(30))[0])
    winners, when, spikes = layer.winners(x)
    for b in range(30):
        potential = torch.zeros(9)
        for step in range(16):
            potential = potential + spikes[step, b] @ layer.weight
            if (potential > layer.thresholds).any() or step == 15:
                assert (step, (potential - layer.thresholds).argmax()) == (when[b], winners[b])
                break
    assert when.max() < 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: STDP(tau_up=0.0), "time constants"),
        (lambda: STDP(pairing="some"), "pairing"),
        (lambda: STDP().change(torch.zeros(3, 1, 2), torch.zeros(4, 1, 2)), "equal T and B"),
        (lambda: WinnerConfig(neurons=0), "neuron"),
        (lambda: WinnerConfig(load=1.0), "load"),
        (lambda: rank_order_response(torch.zeros(1, 2), torch.zeros(2, 1), 1.0), "modulation"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
