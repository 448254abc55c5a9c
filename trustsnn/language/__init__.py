"""Spiking language models: SpikeGPT on any text, n-gram models to hold it against, and bits per character of both."""

from trustsnn.language.bits import Bits, Scorer, bits_per_character, difference
from trustsnn.language.checkpoint import is_language_model, load, save
from trustsnn.language.generate import generate
from trustsnn.language.model import REAL_VALUED, SpikeGPT, SpikeGPTConfig
from trustsnn.language.ngram import NGram, Uniform
from trustsnn.language.text import Alphabet, Corpus, read_text
from trustsnn.language.train import LanguageConfig, train_language

__all__ = [
    "REAL_VALUED",
    "Alphabet",
    "Bits",
    "Corpus",
    "LanguageConfig",
    "NGram",
    "Scorer",
    "SpikeGPT",
    "SpikeGPTConfig",
    "Uniform",
    "bits_per_character",
    "difference",
    "generate",
    "is_language_model",
    "load",
    "read_text",
    "save",
    "train_language",
]
