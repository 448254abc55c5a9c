"""Flower's strategies against slow ones from the papers, in float64, and what stands between them and a stranger's update."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ConfigError
from trustsnn.federated.catalogue import STRATEGIES
from trustsnn.federated.config import Limits
from trustsnn.federated.strategies import strategy
from trustsnn.federated.validation import Answer, validate

pytest.importorskip("flwr")

SHAPES = {"a.weight": (4, 3), "b": (), "c": (2, 1, 2)}
EVERY = ["fedavg", "fedmedian", "fedtrimmedavg:beta=0.2", "krum:malicious=1", "multikrum:malicious=1", "bulyan:malicious=1"]


def updates_of(count, seed=0, spread=1.0):
    """Updates of the same shapes around one direction, as those of clients are, with numbers of samples."""
    draws = np.random.default_rng(seed)
    middle = {name: draws.standard_normal(shape) for name, shape in SHAPES.items()}
    return (
        {
            client: {name: np.asarray(middle[name] + spread * draws.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
            for client in draws.permutation(50)[:count].tolist()
        },
        draws.integers(1, 200, 50),
    )  # fmt: skip


def weights_of(updates, samples):
    return {client: int(samples[client]) for client in updates}


def flat(update):
    return np.concatenate([np.asarray(update[name], np.float64).ravel() for name in sorted(update)])


def shaped(vector):
    found, at = {}, 0
    for name, shape in sorted(SHAPES.items()):
        size = int(np.prod(shape))
        found[name], at = vector[at : at + size].reshape(shape), at + size
    return found


def mean(rows, weights):
    """McMahan et al. 2017, algorithm 1: sum over k of n_k / n w_k."""
    total = np.zeros_like(rows[0])
    for row, weight in zip(rows, weights, strict=True):
        total += row * weight / sum(weights)
    return total


def middle(rows):
    """Yin et al. 2018, definition 1: the median of each value, the mean of the two in the middle for an even number."""
    found = []
    for column in zip(*rows, strict=True):
        values = sorted(column)
        half = len(values) // 2
        found.append(values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2)
    return np.array(found)


def trimmed(rows, beta):
    """Yin et al. 2018, definition 2: without the share beta at either end, in whole clients."""
    cut = int(beta * len(rows))
    return np.array([sum(sorted(column)[cut : len(rows) - cut]) / (len(rows) - 2 * cut) for column in zip(*rows, strict=True)])


def krum_order(rows, malicious):
    """Blanchard et al. 2017, section 4: by the sum of squared distances to the n - f - 2 nearest others, the least first."""
    scores = []
    for i, one in enumerate(rows):
        distances = sorted(float(((one - other) ** 2).sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(distances[: len(rows) - malicious - 2]))
    return sorted(range(len(rows)), key=scores.__getitem__)


def bulyan(rows, malicious):
    """Mhamdi et al. 2018, section 4: of theta = n - 2 f chosen ones, for each value the mean of the theta - 2 f nearest to the median.
    The paper chooses one by one, each time by Krum among those that are left; Flower takes the theta best of one ranking."""
    theta = len(rows) - 2 * malicious
    chosen = [rows[i] for i in krum_order(rows, malicious)[:theta]]
    found = []
    for value, column in zip(middle(chosen), zip(*chosen, strict=True), strict=True):
        nearest = sorted(column, key=lambda each: abs(each - value))[: theta - 2 * malicious]
        found.append(sum(nearest) / len(nearest))
    return np.array(found)


def slow(line, updates, samples):
    """What the paper makes of these updates."""
    clients = sorted(updates)
    rows, weights = [flat(updates[client]) for client in clients], [samples[client] for client in clients]
    name = line.partition(":")[0]
    if name == "fedavg":
        return shaped(mean(rows, weights))
    if name == "fedmedian":
        return shaped(middle(rows))
    if name == "fedtrimmedavg":
        return shaped(trimmed(rows, float(line.partition("=")[2])))
    malicious = int(line.partition("=")[2])
    if name == "krum":
        return shaped(rows[krum_order(rows, malicious)[0]])
    if name == "multikrum":
        kept = krum_order(rows, malicious)[: len(rows) - malicious - 2]
        return shaped(mean([rows[i] for i in kept], [weights[i] for i in kept]))
    return shaped(bulyan(rows, malicious))


@pytest.mark.parametrize(
    "line",
    [*EVERY, "fedtrimmedavg:beta=0.1", "fedtrimmedavg:beta=0", "krum:malicious=0", "krum:malicious=2", "multikrum:malicious=2",
     "bulyan:malicious=0"],
)  # fmt: skip
@pytest.mark.parametrize("count", [7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_strategy_is_that_of_its_paper(line, count, seed):
    updates, samples = updates_of(count, seed)
    weights = weights_of(updates, samples)
    found, expected = strategy(line).combine(updates, weights), slow(line, updates, weights)
    assert sorted(found) == sorted(SHAPES)
    for name, shape in SHAPES.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == shape
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("line", EVERY)
def test_the_order_of_the_clients_does_not_matter(line):
    updates, samples = updates_of(7)
    weights = weights_of(updates, samples)
    first = strategy(line).combine(updates, weights)
    for order in list(permutations(updates))[::700]:
        again = strategy(line).combine({client: updates[client] for client in order}, {c: weights[c] for c in reversed(order)})
        assert all(first[name].tobytes() == again[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("line", EVERY)
def test_the_updates_stay_as_they_were(line):
    updates, samples = updates_of(7)
    before = {client: {name: each.copy() for name, each in update.items()} for client, update in updates.items()}
    strategy(line).combine(updates, weights_of(updates, samples))
    for client, update in before.items():
        for name, each in update.items():
            np.testing.assert_array_equal(each, updates[client][name])


@pytest.mark.parametrize("line", ["fedavg", "fedmedian", "fedtrimmedavg"])
def test_one_update_alone_is_what_comes_of_it(line):
    updates, samples = updates_of(1)
    (update,) = updates.values()
    found = strategy(line).combine(updates, weights_of(updates, samples))
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], update[name])


@pytest.mark.parametrize(
    ("line", "least"),
    [("krum:malicious=1", 5), ("multikrum:malicious=2", 7), ("bulyan:malicious=1", 7), ("bulyan:malicious=2", 11)],
)
def test_too_few_updates_are_one_error(line, least):
    found = strategy(line)
    assert found.least == least
    updates, samples = updates_of(least - 1)
    with pytest.raises(ConfigError, match=f"{line.partition(':')[0]} needs the updates of {least} clients, got {least - 1}"):
        found.combine(updates, weights_of(updates, samples))
    updates, samples = updates_of(least)
    found.combine(updates, weights_of(updates, samples))


@pytest.mark.parametrize("line", ["fedavg", "fedmedian", "fedtrimmedavg"])
def test_no_updates_are_one_error(line):
    with pytest.raises(ConfigError, match="needs the updates of 1 clients, got 0"):
        strategy(line).combine({}, {})


@pytest.mark.parametrize("line", ["krum", "multikrum", "bulyan"])
def test_far_away_updates_are_left_out(line):
    updates, samples = updates_of(8, spread=0.1)
    weights = weights_of(updates, samples)
    bad = max(updates)
    honest = np.stack([flat(update) for client, update in updates.items() if client != bad])
    updates[bad] = {name: np.asarray(each + np.float32(100)) for name, each in updates[bad].items()}
    found = flat(strategy(line).combine(updates, weights))
    assert (found >= honest.min(0) - 1e-6).all()
    assert (found <= honest.max(0) + 1e-6).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fedsum", "Unknown strategy 'fedsum'. Known: fedavg, fedmedian"),
        ("fedAvg", "Did you mean 'fedavg'"),
        ("", "Unknown strategy ''"),
        ("fedavg:beta=0.1", "strategy 'fedavg' has no setting 'beta'. Known: none"),
        ("krum:beta=0.1", "strategy 'krum' has no setting 'beta'. Known: malicious"),
        ("krum:malicious=-1", "malicious of the strategy 'krum' as a whole number from 0, got -1"),
        ("krum:malicious=1.5", "malicious of the strategy 'krum' as a whole number from 0, got 1.5"),
        ("fedtrimmedavg:beta=0.5", "beta of the strategy 'fedtrimmedavg' as a number from 0 to 0.49, got 0.5"),
        ("fedtrimmedavg:beta=nan", "beta of the strategy 'fedtrimmedavg' as a number"),
        ("krum:1:2", "Expected settings as name=value"),
    ],
)
def test_a_mistake_is_one_message(line, message):
    with pytest.raises(ConfigError, match=message):
        strategy(line)


def test_the_catalogue_is_what_there_is():
    assert [type(strategy(name)).__name__.lower() for name in STRATEGIES] == [*STRATEGIES]
    assert strategy("krum:2") == strategy("krum:malicious=2")


# What Flower's strategies make of an answer that nobody has looked at: why the validation layer is there.


@pytest.mark.parametrize("line", ["fedavg", "fedmedian"])
def test_one_nan_is_enough_for_flower_and_not_with_the_layer(line):
    updates, samples = updates_of(4)
    weights, bad = weights_of(updates, samples), max(updates)
    updates[bad] = {name: np.full_like(each, np.nan) for name, each in updates[bad].items()}
    assert all(np.isnan(each).all() for each in strategy(line).combine(updates, weights).values())
    verdict = validate({client: Answer(updates[client], weights[client]) for client in updates}, SHAPES, Limits())
    expected = slow(line, {client: update for client, update in updates.items() if client != bad}, weights)
    found = strategy(line).combine(verdict.updates, verdict.samples)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_billion_samples_own_flowers_mean_and_not_with_the_layer():
    updates, _ = updates_of(4)
    weights, bad = dict.fromkeys(updates, 100), max(updates)
    weights[bad] = 10**9
    owned = strategy("fedavg").combine(updates, weights)
    np.testing.assert_allclose(flat(owned), flat(updates[bad]), rtol=1e-4, atol=1e-5)
    verdict = validate({client: Answer(updates[client], weights[client]) for client in updates}, SHAPES, Limits(samples_ratio=2))
    found = strategy("fedavg").combine(verdict.updates, verdict.samples)
    expected = slow("fedavg", updates, {**weights, bad: 200})
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-5, atol=1e-6)


def test_a_million_fold_update_owns_flowers_mean_and_not_with_the_layer():
    updates, _ = updates_of(4)
    weights, bad = dict.fromkeys(updates, 100), max(updates)
    updates[bad] = {name: np.asarray(1e6 * each, np.float32) for name, each in updates[bad].items()}
    assert np.linalg.norm(flat(strategy("fedavg").combine(updates, weights))) > 1e5
    verdict = validate({client: Answer(updates[client], weights[client]) for client in updates}, SHAPES, Limits())
    assert np.linalg.norm(flat(strategy("fedavg").combine(verdict.updates, verdict.samples))) < 10


SIZES = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(
    st.lists(st.lists(SIZES, min_size=3, max_size=3), min_size=1, max_size=2),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_the_mean_of_finite_updates_lies_between_them(values, counts):
    updates = {client: {"w": np.array(row, np.float32)} for client, row in enumerate(values)}
    found = strategy("fedavg").combine(updates, dict(enumerate(counts)))["w"]
    rows = np.array(values, np.float64)
    room = 1e-6 * np.abs(rows).max(0) + 1e-37
    assert (found >= rows.min(0) - room).all()
    assert (found <= rows.max(0) + room).all()
