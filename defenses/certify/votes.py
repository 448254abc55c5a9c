"""How often a model votes for each class over random draws that are keyed by the sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.blocks import is_stochastic, predict
from trustsnn.rng import Draws

_AT_ONCE = 256  # draws that are in memory together; the k-th draw is the same for any number of them


def votes(model: nn.Module, x: Tensor, sample: str, count: int, *, seed: int, task: str, sigma: float = 0.0) -> NDArray[np.int64]:
    """Votes [K] of `count` forward passes on a sample `x` [C, H, W] in [0, 1], each with its own draws. Call inside `frozen(model)`.

    With sigma > 0 the model sees clip(x + sigma * N(0, 1), 0, 1). The clip belongs to the base classifier
    f(z) = argmax model(clip(z, 0, 1)), which is one fixed function on all of R^d.
    """
    found: NDArray[np.int64] | None = None
    for start in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - start)
        batch = x.expand(size, *x.shape)
        if sigma > 0:
            noise = Draws(seed, f"{task}/noise/{start}", (sample,)).normal((size, *x.shape))[0]
            batch = (batch + sigma * noise).clamp(0, 1)
        names = tuple(f"{sample}\x1f{place}" for place in range(start, start + size))
        draws = Draws(seed, f"{task}/encode", names) if is_stochastic(model) else None
        logits = predict(model, batch.contiguous(), draws)
        counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).numpy()
        found = counts if found is None else found + counts
    assert found is not None
    return found
