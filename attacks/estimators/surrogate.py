"""STBP by the names of a surrogate and its width, as a catalogue and a configuration file give them."""

from __future__ import annotations

from trustsnn.neurons import STBP, Surrogate


def stbp(surrogate: str = "triangular", width: float = 1.0) -> STBP:
    """Backpropagation through space and time with a surrogate, see `trustsnn.neurons.STBP`; "ste" is straight-through."""
    return STBP(Surrogate(surrogate, width))
