"""Alphabets, the cut of a text, bits per character and their interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from trustsnn.errors import ConfigError, DataError
from trustsnn.language import Alphabet, Corpus, Uniform, bits_per_character, difference, read_text

TEXT = "naïve – “ß” 漢字 🙂\r\n" * 40


class Told:
    """A model with bits of its own for each token of the text."""

    def __init__(self, bits):
        self.told = np.asarray(bits, float)

    def bits(self, tokens, begin=0):
        return self.told[begin : len(tokens)]


@pytest.mark.parametrize("units", ["characters", "bytes"])
def test_a_text_comes_back_from_its_tokens(units):
    corpus = Corpus.of(TEXT, units)
    assert corpus.alphabet.decode(corpus.tokens) == TEXT
    assert corpus.alphabet.starts(corpus.tokens).sum() == len(TEXT)
    parts = [corpus.part(part) for part in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.concatenate(parts), corpus.tokens)
    assert [len(part) for part in parts] == [corpus.describe()[name] for name in ("train", "validation", "test")]
    assert len(parts[0]) == int(0.8 * len(corpus.tokens))
    assert (len(corpus.alphabet), corpus.characters) == (256 if units == "bytes" else len(set(TEXT)), len(TEXT))


@pytest.mark.parametrize("units", ["characters", "bytes"])
def test_a_uniform_model_costs_the_logarithm_of_its_alphabet_per_token(units):
    corpus = Corpus.of(TEXT, units)
    found = bits_per_character(Uniform.over(corpus.alphabet), corpus, block=16)
    test = corpus.part("test")
    characters = corpus.alphabet.starts(test).sum()
    assert found["characters"] == characters
    assert found["value"] == pytest.approx(math.log2(len(corpus.alphabet)) * len(test) / characters)
    if units == "characters":
        assert (found["low"], found["high"]) == (pytest.approx(found["value"]), pytest.approx(found["value"]))


def test_the_interval_is_students_over_blocks():
    corpus = Corpus.of("ab" * 500)  # 100 characters of test
    blocks = np.array([1.0, 2.0, 4.0, 1.5, 3.0])
    told = Told(np.concatenate([np.full(900, 9.0), np.repeat(blocks, 20)]))
    found = bits_per_character(told, corpus, block=20)
    half = t.ppf(0.975, 4) * blocks.std(ddof=1) / math.sqrt(5)
    assert (found["value"], found["blocks"], found["characters"]) == (pytest.approx(2.3), 5, 100)
    assert (found["low"], found["high"]) == (pytest.approx(2.3 - half), pytest.approx(2.3 + half))
    joined = bits_per_character(told, corpus, block=30)  # 30 + 30 + 40: no short block
    assert (joined["blocks"], joined["value"]) == (3, pytest.approx(2.3))


def test_a_difference_is_taken_block_by_block():
    corpus = Corpus.of("ab" * 500)
    rising = np.linspace(1, 5, 1000)
    gap = difference(Told(rising - 0.5), Told(rising), corpus, block=20)
    assert (gap["low"], gap["high"]) == (pytest.approx(-0.5), pytest.approx(-0.5))


def test_a_model_without_finite_bits_gets_no_figure():
    corpus = Corpus.of("ab" * 500)
    for bits in (np.full(1000, np.nan), np.zeros(990)):
        with pytest.raises(DataError, match="finite bits"):
            bits_per_character(Told(bits), corpus, block=20)
    with pytest.raises(DataError, match="Lower the block"):
        bits_per_character(Told(np.ones(1000)), corpus, block=60)


def test_text_that_cannot_be_used_is_refused(tmp_path):
    for content in (b"", b"abc\xff"):
        (tmp_path / "text").write_bytes(content)
        with pytest.raises(DataError, match="Expected"):
            read_text(tmp_path / "text")
    with pytest.raises(DataError, match="Could not read"):
        read_text(tmp_path / "none")
    (tmp_path / "text").write_bytes(TEXT.encode())
    assert read_text(tmp_path / "text") == TEXT
    with pytest.raises(ConfigError, match="characters or bytes"):
        Corpus.of(TEXT, "words")
    with pytest.raises(ConfigError, match="shares"):
        Corpus.of(TEXT, train=0.9, validation=0.1)
    with pytest.raises(DataError, match="cut in three"):
        Corpus.of("abc")
    with pytest.raises(DataError, match="'z' is not among"):
        Alphabet.of("abc").encode("abz")
