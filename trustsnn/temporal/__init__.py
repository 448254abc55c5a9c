"""Temporal coding: networks whose neurons spike once and speak through when, rank order decoding, and plasticity of spike timing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.temporal.alpha import AlphaNetwork, alpha_spikes, lambert_w
    from trustsnn.temporal.ranks import rank_order_response
    from trustsnn.temporal.s4nn import S4NN
    from trustsnn.temporal.s4nn_training import S4NNConfig, train_s4nn
    from trustsnn.temporal.stdp import STDP
    from trustsnn.temporal.winner import WinnerConfig, WinnerTakeAll, train_winner

_NAMES = {
    "AlphaNetwork": "alpha",
    "S4NN": "s4nn",
    "S4NNConfig": "s4nn_training",
    "STDP": "stdp",
    "WinnerConfig": "winner",
    "WinnerTakeAll": "winner",
    "alpha_spikes": "alpha",
    "lambert_w": "alpha",
    "rank_order_response": "ranks",
    "train_s4nn": "s4nn_training",
    "train_winner": "winner",
}
_lazy = lazy_names(__name__, _NAMES)

__all__ = [
    "AlphaNetwork",
    "S4NN",
    "S4NNConfig",
    "STDP",
    "WinnerConfig",
    "WinnerTakeAll",
    "alpha_spikes",
    "lambert_w",
    "rank_order_response",
    "train_s4nn",
    "train_winner",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
