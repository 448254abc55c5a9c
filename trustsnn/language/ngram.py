"""Interpolated Kneser-Ney n-gram models (Kneser and Ney 1995; Chen and Goodman 1999): what a language model is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, DataError
from trustsnn.language.text import Alphabet, Tokens

Floats = NDArray[np.float64]
DISCOUNTS = tuple(round(0.05 * step, 2) for step in range(1, 20))


class _Level(NamedTuple):
    """Counts of one order: codes of its n-grams and of their contexts, both ascending, with what is counted of each."""

    grams: Tokens
    counts: Tokens
    contexts: Tokens
    totals: Tokens
    kinds: Tokens


@dataclass(frozen=True)
class NGram:
    """The probability of a token given the `order` - 1 before it, for `symbols` different tokens.

        p_n(w | h) = max(c(hw) - D_n, 0) / c(h) + D_n N(h) / c(h) * p_{n-1}(w | h'),    p_0 = 1 / symbols

    c counts occurrences at the highest order and, with `continuations`, the number of different tokens before hw at lower
    ones; N(h) is the number of different tokens after h; h' lacks the first token of h. Where h is unknown, p_n = p_{n-1}.
    """

    symbols: int
    order: int
    levels: tuple[_Level, ...]
    discounts: tuple[float, ...]
    continuations: bool

    @classmethod
    def fit(cls, train: Tokens, symbols: int, order: int, validation: Tokens) -> NGram:
        """Count `train`; choose discounts and the kind of lower counts by the bits of `validation`, each from 0.05 to 0.95 in
        steps of 0.05, order by order, twice."""
        if order < 1 or symbols < 1 or symbols**order >= 2**63:
            raise ConfigError(f"Expected an order of at least 1 with symbols^order below 2^63, got {order} and {symbols}.")
        if len(train) < order or len(validation) == 0:
            raise DataError(
                f"Expected {order} or more tokens to count and some to choose by, got {len(train)}, {len(validation)}."
            )
        best: tuple[float, NGram] | None = None
        for continuations in (True, False) if order > 1 else (False,):
            levels = _count(train, symbols, order, continuations)
            model = cls(symbols, order, levels, (0.5,) * order, continuations)
            model, bits = model._tuned(validation)
            if best is None or bits < best[0]:
                best = bits, model
        assert best is not None
        return best[1]

    def _tuned(self, validation: Tokens) -> tuple[NGram, float]:
        terms = self._terms(validation, 0)
        discounts = list(self.discounts)

        def bits(tried: list[float]) -> float:
            return -float(np.log2(_mixed(terms, tried, self.symbols)).sum())

        for _ in range(2):
            for level in range(self.order):
                discounts[level] = min(DISCOUNTS, key=lambda d: bits([*discounts[:level], d, *discounts[level + 1 :]]))
        return NGram(self.symbols, self.order, self.levels, tuple(discounts), self.continuations), bits(discounts)

    def bits(self, tokens: Tokens, begin: int = 0) -> Floats:
        """-log2 of the probability of each of tokens[begin:] given those before it."""
        return -np.log2(_mixed(self._terms(tokens, begin), self.discounts, self.symbols))

    def _terms(self, tokens: Tokens, begin: int) -> list[tuple[Tokens, Tokens, Tokens]]:
        """For each order, c(hw), c(h) and N(h) at each of tokens[begin:]; zeros where h reaches before the first token."""
        found = []
        for order, level in enumerate(self.levels, 1):
            first = min(max(begin, order - 1), len(tokens))
            codes = _codes(tokens[max(0, first - order + 1) :], self.symbols, order)
            places = [(level.grams, codes, level.counts)]
            places += [(level.contexts, codes // self.symbols, values) for values in (level.totals, level.kinds)]
            columns = [np.concatenate([np.zeros(first - begin, np.int64), _look_up(*place)]) for place in places]
            found.append((columns[0], columns[1], columns[2]))
        return found


@dataclass(frozen=True)
class Uniform:
    """Every token as likely as any other: log2 of the number of symbols in bits."""

    symbols: int

    @classmethod
    def over(cls, alphabet: Alphabet) -> Uniform:
        """Over the symbols of an alphabet."""
        return cls(len(alphabet))

    def bits(self, tokens: Tokens, begin: int = 0) -> Floats:
        """log2 of the number of symbols, for each of tokens[begin:]."""
        return np.full(len(tokens) - begin, math.log2(self.symbols))


def _mixed(terms: list[tuple[Tokens, Tokens, Tokens]], discounts: list[float] | tuple[float, ...], symbols: int) -> Floats:
    probability = np.full(len(terms[0][0]), 1 / symbols)
    for (count, total, kinds), discount in zip(terms, discounts, strict=True):
        known = np.maximum(total, 1)
        mixed = (np.maximum(count - discount, 0) + discount * kinds * probability) / known
        probability = np.where(total > 0, mixed, probability)
    return probability


def _codes(tokens: Tokens, symbols: int, order: int) -> Tokens:
    """Each run of `order` tokens as one number."""
    count = max(0, len(tokens) - order + 1)
    codes = np.zeros(count, np.int64)
    for place in range(order):
        codes = codes * symbols + tokens[place : place + count]
    return codes


def _count(tokens: Tokens, symbols: int, highest: int, continuations: bool) -> tuple[_Level, ...]:
    levels = []
    for order in range(1, highest + 1):
        grams, counts = np.unique(_codes(tokens, symbols, order), return_counts=True)
        if continuations and order < highest:
            longer = np.unique(_codes(tokens, symbols, order + 1))
            grams, counts = np.unique(longer % symbols**order, return_counts=True)
        contexts, kinds = np.unique(grams // symbols, return_counts=True)
        totals = np.add.reduceat(counts, np.searchsorted(grams // symbols, contexts))
        levels.append(_Level(grams, counts, contexts, totals, kinds))
    return tuple(levels)


def _look_up(keys: Tokens, wanted: Tokens, values: Tokens) -> Tokens:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
