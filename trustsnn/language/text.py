"""Text as tokens: characters or bytes, and a text cut by position into training, validation and test part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, DataError

Tokens = NDArray[np.int64]
PARTS = ("train", "validation", "test")
UNITS = ("characters", "bytes")


@dataclass(frozen=True)
class Alphabet:
    """What a token stands for: one of `symbols` (distinct characters, in order), or one of the 256 bytes of UTF-8 (None)."""

    symbols: str | None = None

    def __post_init__(self) -> None:
        if self.symbols is not None and (not self.symbols or len(set(self.symbols)) != len(self.symbols)):
            raise ConfigError("Expected an alphabet of at least one character, each of them once.")

    @classmethod
    def of(cls, text: str, units: str = "characters") -> Alphabet:
        """The alphabet of all characters of `text`, or that of bytes."""
        if units not in UNITS:
            raise ConfigError(f"Expected tokens that are {' or '.join(UNITS)}, got {units!r}.")
        return cls("".join(sorted(set(text))) if units == "characters" else None)

    def __len__(self) -> int:
        return 256 if self.symbols is None else len(self.symbols)

    def encode(self, text: str) -> Tokens:
        """Tokens [N] of `text`.

        Raises:
            DataError: a character that is not in the alphabet.
        """
        if self.symbols is None:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        place = {symbol: index for index, symbol in enumerate(self.symbols)}
        try:
            return np.fromiter((place[symbol] for symbol in text), dtype=np.int64, count=len(text))
        except KeyError as error:
            raise DataError(
                f"The character {error.args[0]!r} is not among the {len(self)} that the model was trained with. Leave it out, "
                "or train with bytes as tokens."
            ) from None

    def decode(self, tokens: Tokens) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        if self.symbols is None:
            return bytes(tokens.tolist()).decode(errors="replace")
        return "".join(self.symbols[token] for token in tokens.tolist())

    def starts(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Where a character begins, boolean [N]: everywhere, or at the first of its bytes."""
        return np.ones(len(tokens), bool) if self.symbols is not None else (tokens & 0xC0) != 0x80


@dataclass(frozen=True)
class Corpus:
    """A text as tokens, cut by position: the first part trains, the next is for choices, the last is the test.

    The alphabet is that of the whole text, so that every part can be coded.
    """

    alphabet: Alphabet
    tokens: Tokens
    ends: tuple[int, int, int]
    sha256: str
    characters: int

    @classmethod
    def of(cls, text: str, units: str = "characters", *, train: float = 0.8, validation: float = 0.1) -> Corpus:
        """Cut `text`: shares of its tokens for training and validation, the rest for the test."""
        if not (train > 0 and validation > 0 and train + validation < 1):
            raise ConfigError(f"Expected positive shares that leave some for the test, got {train} and {validation}.")
        alphabet = Alphabet.of(text, units)
        tokens = alphabet.encode(text)
        ends = (int(train * len(tokens)), int((train + validation) * len(tokens)), len(tokens))
        if not 0 < ends[0] < ends[1] < ends[2]:
            raise DataError(f"Expected a text that can be cut in three, got {len(text)} characters.")
        return cls(alphabet, tokens, ends, hashlib.sha256(text.encode()).hexdigest(), len(text))

    def span(self, part: str) -> tuple[int, int]:
        """Where a part begins and ends."""
        if part not in PARTS:
            raise ConfigError(f"Expected a part of {', '.join(PARTS)}, got {part!r}.")
        index = PARTS.index(part)
        return (0, *self.ends)[index], self.ends[index]

    def part(self, part: str) -> Tokens:
        """The tokens of a part."""
        begin, end = self.span(part)
        return self.tokens[begin:end]

    def describe(self) -> dict[str, Any]:
        """What it is, in plain values: hash, length in characters, symbols, and tokens of each part."""
        parts = {part: self.span(part)[1] - self.span(part)[0] for part in PARTS}
        units = UNITS[self.alphabet.symbols is None]
        return {"sha256": self.sha256, "characters": self.characters, "units": units, "symbols": len(self.alphabet), **parts}


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file, line ends as they are.

    Raises:
        DataError: no such file, not UTF-8, or empty.
    """
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise DataError(f"Could not read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"Expected UTF-8 in {path}, got byte {error.object[error.start]:#04x} at {error.start}.") from error
    if not text:
        raise DataError(f"Expected a text, got the empty file {path}.")
    return text
