"""The n-gram models that SpikeGPT is held against."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from trustsnn.errors import ConfigError, DataError
from trustsnn.language import NGram
from trustsnn.language.ngram import _count


def by_hand(train, model, history, token):
    """Kneser-Ney by the definition, with dictionaries."""
    probability = 1 / model.symbols
    for order, discount in enumerate(model.discounts, 1):
        if len(history) < order - 1:
            break
        grams = Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))
        if model.continuations and order < model.order:
            longer = {tuple(train[i : i + order + 1]) for i in range(len(train) - order)}
            grams = Counter(gram[1:] for gram in longer)
        context = tuple(history[len(history) - order + 1 :])
        after = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == context}
        if after:
            kept = max(after.get(token, 0) - discount, 0) + discount * len(after) * probability
            probability = kept / sum(after.values())
    return probability


@pytest.fixture(scope="module", params=[1, 2, 3, 5])
def model(request, corpus):
    return NGram.fit(corpus.part("train")[:1500], len(corpus.alphabet), request.param, corpus.part("validation"))


@pytest.mark.parametrize("history", [[], [4], [4, 2, 7], [1, 1, 1, 1, 1, 1]])
def test_probabilities_sum_to_one(model, history):
    known = list(range(model.symbols))
    chances = [2 ** -float(model.bits(np.array([*history, token]), len(history))[0]) for token in known]
    assert math.fsum(chances) == pytest.approx(1, abs=1e-12)
    assert min(chances) > 0


@pytest.mark.parametrize("continuations", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_definition(order, continuations, corpus):
    train, test, symbols = corpus.part("train")[:1500], corpus.part("test")[:60], len(corpus.alphabet)
    levels = _count(train, symbols, order, continuations)
    model, train = NGram(symbols, order, levels, (0.1, 0.9, 0.4, 0.7, 0.6)[:order], continuations), train.tolist()
    bits = model.bits(test)
    for place, token in enumerate(test.tolist()):
        wanted = by_hand(train, model, test[:place].tolist(), token)
        assert bits[place] == pytest.approx(-math.log2(wanted), abs=1e-9)


def test_bits_from_a_place_on_are_those_of_the_whole(model, corpus):
    tokens = corpus.part("test")[:300]
    np.testing.assert_array_equal(model.bits(tokens, 100), model.bits(tokens)[100:])


def test_discounts_are_the_best_of_their_grid_on_the_validation_part(corpus):
    train, validation = corpus.part("train")[:800], corpus.part("validation")
    model = NGram.fit(train, len(corpus.alphabet), 3, validation)
    best = model.bits(validation).sum()
    for level in range(3):
        for discount in (0.05, 0.5, 0.95):
            others = (*model.discounts[:level], discount, *model.discounts[level + 1 :])
            tried = NGram(model.symbols, 3, model.levels, others, model.continuations)
            assert best <= tried.bits(validation).sum() + 1e-9


def test_an_alternating_text_is_known_after_one_token():
    train = np.arange(2000) % 2
    assert NGram.fit(train, 2, 2, train[:200]).bits(train[:200], 1).mean() < 0.01
    assert NGram.fit(train, 2, 1, train[:200]).bits(train[:200]).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("order", "length", "error"), [(0, 100, ConfigError), (40, 100, ConfigError), (3, 2, DataError), (2, 0, DataError)]
)
def test_counts_that_cannot_be_are_refused(order, length, error):
    tokens = np.zeros(length, np.int64)
    with pytest.raises(error, match="Expected"):
        NGram.fit(tokens, 50, order, tokens)
