"""Text from a language model, one token after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from trustsnn.errors import ConfigError
from trustsnn.language.model import SpikeGPT
from trustsnn.language.text import Tokens
from trustsnn.rng import stream


def generate(model: SpikeGPT, length: int, *, prompt: str = "", temperature: float = 1.0, seed: int = 0) -> str:
    """`length` tokens as text that go on from `prompt` (which is not repeated), the same for the same arguments.

    The network keeps its state and reads one token a step. `temperature` divides the logits; 0 takes the likeliest token.
    An empty prompt stands for a line end, or for the first symbol where the alphabet has none.
    """
    if length < 0 or not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"Expected a length and a finite temperature of at least 0, got {length} and {temperature}.")
    symbols = model.alphabet.symbols
    start = "\n" if symbols is None or "\n" in symbols else symbols[0]
    tokens = list(_tokens(model, model.alphabet.encode(prompt or start), length, temperature, seed))
    return model.alphabet.decode(np.array(tokens, np.int64))


def _tokens(model: SpikeGPT, prompt: Tokens, length: int, temperature: float, seed: int) -> Iterator[int]:
    draws = stream(seed, "generate")
    with torch.no_grad():
        logits, state = model.run(torch.from_numpy(prompt)[:, None])
        for _ in range(length):
            last = logits[-1, 0].double().numpy()
            if temperature == 0:
                token = int(last.argmax())
            else:
                weights = np.exp((last - last.max()) / temperature)
                sums = np.cumsum(weights)
                token = int(np.searchsorted(sums, draws.random() * sums[-1], side="right"))
            yield token
            logits, state = model.run(torch.tensor([[token]]), state)
