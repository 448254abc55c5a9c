"""Bits per character over a whole part of a text, with an interval over blocks of it."""

from __future__ import annotations

from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from trustsnn.errors import DataError
from trustsnn.language.text import Corpus, Tokens

BLOCK = 1024


class Scorer(Protocol):
    """What a language model does here."""

    def bits(self, tokens: Tokens, begin: int = 0) -> NDArray[np.float64]:
        """-log2 of the probability of each of tokens[begin:] given those before it."""


class Bits(TypedDict):
    """Bits per character with their 95 % interval, and what they rest on."""

    value: float
    low: float
    high: float
    characters: int
    blocks: int
    block: int


def bits_per_character(model: Scorer, corpus: Corpus, part: str = "test", *, block: int = BLOCK) -> Bits:
    """The bits of every token of `part` over its number of characters. What comes before the part is known to the model.

    The interval is Student's over blocks of `block` neighbouring tokens: text is alike within a topic, so that single
    characters would give too narrow a one. It speaks of text like this one, not of other training runs.

    Raises:
        DataError: the part has fewer than two blocks.
    """
    return _ratio(_scored(model, corpus, part), corpus, part, block)


def difference(model: Scorer, baseline: Scorer, corpus: Corpus, part: str = "test", *, block: int = BLOCK) -> Bits:
    """Bits per character of `model` minus those of `baseline`, block by block: below 0 where `model` is the better one."""
    return _ratio(_scored(model, corpus, part) - _scored(baseline, corpus, part), corpus, part, block)


def _scored(model: Scorer, corpus: Corpus, part: str) -> NDArray[np.float64]:
    begin, end = corpus.span(part)
    bits = model.bits(corpus.tokens[:end], begin)
    if bits.shape != (end - begin,) or not np.isfinite(bits).all():
        raise DataError(f"Expected {end - begin} finite bits from the model, got {bits.shape} with {np.isnan(bits).sum()} NaN.")
    return bits


def _ratio(bits: NDArray[np.float64], corpus: Corpus, part: str, block: int) -> Bits:
    """Sum of bits over number of characters; the interval is that of a ratio estimated from blocks."""
    cuts = np.arange(len(bits) // block) * block  # what is left over belongs to the last block
    if len(cuts) < 2:
        raise DataError(f"Expected at least two blocks of {block} tokens in {part}, got {len(bits)} tokens. Lower the block.")
    sums = np.add.reduceat(bits, cuts)
    characters = np.add.reduceat(corpus.alphabet.starts(corpus.part(part)).astype(np.int64), cuts)
    value = sums.sum() / characters.sum()
    spread = np.sqrt(((sums - value * characters) ** 2).sum() / (len(cuts) - 1) * len(cuts)) / characters.sum()
    half = float(stdtrit(len(cuts) - 1, 0.975)) * spread
    return {
        "value": float(value), "low": float(value - half), "high": float(value + half),
        "characters": int(characters.sum()), "blocks": len(cuts), "block": block,
    }  # fmt: skip
