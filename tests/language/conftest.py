"""A small text with some structure, and a small network."""

from __future__ import annotations

import numpy as np
import pytest

from trustsnn.language import Corpus, SpikeGPT, SpikeGPTConfig


@pytest.fixture(scope="session")
def sentences():
    """20,000 characters of drawn sentences: three words in a fixed order, so that each depends on the one before."""
    draws = np.random.default_rng(0)
    subjects, verbs, objects = (["the cat", "a dog", "my uncle"], ["sees", "buys"], ["two fish.", "one ball.", "no house."])
    words = [" ".join(draws.choice(kind) for kind in (subjects, verbs, objects)) for _ in range(900)]
    return "\n".join(words)[:20000]


@pytest.fixture(scope="session")
def corpus(sentences):
    return Corpus.of(sentences)


@pytest.fixture
def network(corpus):
    """Two layers of 16 in float64, whose neurons fire."""
    return SpikeGPT(corpus.alphabet, SpikeGPTConfig(width=16, layers=2, context=24)).double()
