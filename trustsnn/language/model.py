"""SpikeGPT (Zhu 2023, arXiv 2302.13939): RWKV-4 whose branches enter the residual stream as spikes, LIF over the text.

    x = LN(1[E token >= 0]);   x += LIF(RWKV(LN x));   x += LIF(RFFN(LN x));   logits = W LN x

The time steps of the neurons are the positions in the text. Leak, gain, reset and surrogate follow the authors' code: tau = 2,
u_t = v_{t-1} / 2 + x_t / 2, threshold 1, hard reset, atan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.language.text import Alphabet, Tokens
from trustsnn.language.wkv import Sums, wkv
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate

EMBEDDINGS = ("binary", "real")
REAL_VALUED = {
    "normalisation": "LayerNorm before every branch, after the embedding and before the head: its output is real",
    "matrix products": "key, value, receptance, output and head multiply real values; no matrix has spikes alone as its input",
    "receptance": "a sigmoid gates both branches",
    "WKV": "exponentials, a division, and sums that are kept from position to position",
    "squared ReLU": "the hidden units of the channel mixing are real, not spikes",
    "residual stream": "the embedding's LayerNorm is real; each branch then adds 0 or 1",
}
_WINDOWS = 32  # windows that are scored at once, always as many: matrix products may round otherwise with another number

Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class SpikeGPTConfig:
    """Size and neuron of a SpikeGPT. `context` is the number of positions that it is trained over."""

    width: int = 128
    layers: int = 4
    hidden: int = 4
    context: int = 256
    embedding: str = "binary"
    leak: float = 0.5
    threshold: float = 1.0
    surrogate_width: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("width", 2, 1 << 14), ("layers", 1, 1 << 10), ("hidden", 1, 64), ("context", 2, 1 << 20)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"Expected {name} in {low}..{high}, got {value!r}.")
        if self.embedding not in EMBEDDINGS:
            raise ConfigError(f"Expected an embedding of {EMBEDDINGS}, got {self.embedding!r}.")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigError(f"Expected a seed in 0..2^63-1, got {self.seed!r}.")


class BranchState(NamedTuple):
    """What a branch keeps from one position to the next, each [B, C]: its last input, the membrane after the reset, and the
    sums of the WKV (time mixing only)."""

    last: Tensor
    membrane: Tensor
    sums: Sums | None


State = tuple[BranchState, ...]


class TimeMix(nn.Module):
    """Spiking RWKV before its neurons: sigmoid(R) * WKV(K, V) through an output matrix, after a token shift (RWKV-4)."""

    def __init__(self, width: int, layer: int, layers: int) -> None:
        super().__init__()
        depth, height = layer / max(1, layers - 1), 1 - layer / layers
        place = torch.arange(width) / width
        self.decay = nn.Parameter(-5 + 8 * (torch.arange(width) / (width - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        self.shift = nn.Parameter(torch.stack([place**height, place**height + 0.3 * depth, place ** (0.5 * height)]))
        self.key, self.value, self.receptance, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, before: Tensor, sums: Sums | None) -> tuple[Tensor, Sums]:
        """Current [T, B, C] of `x` [T, B, C] and of `before`, the same one position earlier; and the sums at the end."""
        keys, values, gates = (torch.lerp(before, x, share) for share in self.shift)
        mixed, sums = wkv(self.decay.exp(), self.bonus, self.key(keys), self.value(values), sums)
        return self.output(torch.sigmoid(self.receptance(gates)) * mixed), sums


class ChannelMix(nn.Module):
    """Spiking RFFN before its neurons: sigmoid(R) * V relu(K)^2, after a token shift (RWKV-4)."""

    def __init__(self, width: int, hidden: int, layer: int, layers: int) -> None:
        super().__init__()
        place = (torch.arange(width) / width) ** (1 - layer / layers)
        self.shift = nn.Parameter(torch.stack([place, place]))
        self.key, self.value = nn.Linear(width, hidden * width, bias=False), nn.Linear(hidden * width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, before: Tensor, sums: Sums | None) -> tuple[Tensor, None]:
        """As `TimeMix`, without sums."""
        keys, gates = (torch.lerp(before, x, share) for share in self.shift)
        return torch.sigmoid(self.receptance(gates)) * self.value(torch.relu(self.key(keys)).square()), None


class Branch(nn.Module):
    """x + LIF(mix(LN x)) over a sequence [T, B, C]."""

    def __init__(self, mix: nn.Module, width: int, neuron: SpikingNeuron) -> None:
        super().__init__()
        self.norm, self.mix, self.neuron = nn.LayerNorm(width), mix, neuron

    def run(self, x: Tensor, state: BranchState | None) -> tuple[Tensor, Tensor, BranchState]:
        """The sum, its spikes, both [T, B, C], and the state after the last position."""
        normed = self.norm(x)
        last = torch.zeros_like(normed[:1]) if state is None else state.last[None]
        current, sums = self.mix(normed, torch.cat([last, normed[:-1]]), None if state is None else state.sums)
        if state is not None:  # what is left of the membrane, as a current at the first position
            leak = float(self.neuron.leak)
            current = torch.cat([current[:1] + state.membrane * (leak / (1 - leak)), current[1:]])
        spikes, membrane = self.neuron.unroll(current)
        after = (membrane[-1] * (1 - spikes[-1])).detach()
        return x + spikes, spikes, BranchState(normed[-1].detach(), after, sums)


class SpikeGPT(nn.Module):
    """The network for an alphabet: tokens [T, B] -> logits [T, B, K] of the token that follows each.

    Weights are the same for the same config. A forward starts from the reset state; `run` goes on from a given one.
    """

    def __init__(self, alphabet: Alphabet, config: SpikeGPTConfig | None = None) -> None:
        super().__init__()
        self.alphabet, self.config = alphabet, config or SpikeGPTConfig()
        width, layers = self.config.width, self.config.layers
        surrogate = Surrogate("atan", self.config.surrogate_width)
        dynamics = Dynamics(self.config.leak, self.config.threshold, gain="leaky")
        if dynamics.leak == 1:
            raise ConfigError("Expected a leak below 1: the gain is 1 - leak.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.embedding = nn.Embedding(len(alphabet), width)
            self.binary = SpikingNeuron(Dynamics(leak=0.0), surrogate) if self.config.embedding == "binary" else None
            self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
            mixes: list[nn.Module] = []
            for layer in range(layers):
                mixes += [TimeMix(width, layer, layers), ChannelMix(width, self.config.hidden, layer, layers)]
            self.branches = nn.ModuleList(Branch(mix, width, SpikingNeuron(dynamics, surrogate)) for mix in mixes)
            self.head = nn.Linear(width, len(alphabet), bias=False)
            self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=max(1.0, math.sqrt(module.out_features / module.in_features)))
        for mix in self.modules():  # currents that make about a tenth of the neurons fire: with the gain 1, none would
            if isinstance(mix, TimeMix | ChannelMix):
                nn.init.orthogonal_((mix.output if isinstance(mix, TimeMix) else mix.value).weight, gain=4.0)
        nn.init.normal_(self.head.weight, std=0.02)

    @property
    def architecture(self) -> dict[str, Any]:
        """What makes the network again but for its weights, in plain values."""
        return {"alphabet": self.alphabet.symbols, **asdict(self.config)}

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [T, B, K] of the token after each of `tokens` [T, B], whole numbers below K."""
        return self.run(tokens)[0]

    def run(self, tokens: Tensor, state: State | None = None, watch: Watch | None = None) -> tuple[Tensor, State]:
        """As `forward`, from the state after earlier positions to the state after these. `watch` is shown the spikes of each
        layer, [T, B, C] in {0, 1}, by its name. No gradient passes through a state."""
        x = self.embedding(tokens)
        if self.binary is not None:
            x = self.binary(x + 1)  # threshold 1 and no leak: 1 where x >= 0
            if watch is not None:
                watch("embedding", x)
        x = self.norm_in(x)
        after: list[BranchState] = []
        for index, (name, branch) in enumerate(zip(self.layer_names(), self.branches, strict=True)):
            x, spikes, end = branch.run(x, None if state is None else state[index])  # type: ignore[operator]
            after.append(end)
            if watch is not None:
                watch(name, spikes)
        return self.head(self.norm_out(x)), tuple(after)

    def layer_names(self) -> Sequence[str]:
        """The names of the spiking layers of the blocks, in their order."""
        return [f"blocks.{index // 2}.{('time', 'channel')[index % 2]}" for index in range(len(self.branches))]

    def bits(self, tokens: Tokens, begin: int = 0) -> NDArray[np.float64]:
        """-log2 of the probability of each of tokens[begin:] given those before it, of which half a context to a whole one is
        read. Nothing precedes the first token of all: it costs log2 K."""
        scored: list[NDArray[np.float64]] = [] if begin else [np.full(min(1, len(tokens)), math.log2(len(self.alphabet)))]
        for windows, firsts in self._windows(tokens, max(1, begin)):
            with torch.no_grad():
                logits = self(torch.from_numpy(windows[:-1]))
            costs = nn.functional.cross_entropy(logits.movedim(-1, 1).double(), torch.from_numpy(windows[1:]), reduction="none")
            scored += [costs[first:last, row].numpy() / math.log(2) for row, (first, last) in enumerate(firsts)]
        return np.concatenate(scored) if scored else np.empty(0)

    def _windows(self, tokens: Tokens, begin: int) -> list[tuple[Tokens, list[tuple[int, int]]]]:
        """Batches of windows [context + 1, _WINDOWS], and which of their positions count, window by window."""
        context, stride = self.config.context, max(1, self.config.context // 2)
        starts = range(begin, len(tokens), stride)
        batches = []
        for at in range(0, len(starts), _WINDOWS):
            windows, places = np.zeros((context + 1, _WINDOWS), np.int64), []
            for row, first in enumerate(starts[at : at + _WINDOWS]):
                last = min(first + stride, len(tokens))
                origin = max(0, last - 1 - context)
                windows[: last - origin, row] = tokens[origin:last]
                places.append((first - 1 - origin, last - 1 - origin))
            batches.append((windows, places))
        return batches

    def spike_rates(self, tokens: Tokens) -> list[dict[str, Any]]:
        """Mean spikes per neuron and position of each layer over `tokens`, and the number of positions. Windows of one context."""
        totals: dict[str, float] = {}

        def count(name: str, spikes: Tensor) -> None:
            totals[name] = totals.get(name, 0.0) + float(spikes.double().sum())

        context = min(self.config.context, len(tokens))
        pieces = tokens[: len(tokens) // context * context].reshape(-1, context)
        with torch.no_grad():
            for at in range(0, len(pieces), _WINDOWS):
                self.run(torch.from_numpy(pieces[at : at + _WINDOWS].T.copy()), watch=count)
        return [
            {"layer": name, "rate": total / (pieces.size * self.config.width), "positions": pieces.size}
            for name, total in totals.items()
        ]

    def describe(self) -> dict[str, Any]:
        """Size, spiking layers, and the parts that compute with real values."""
        spiking = (["embedding"] if self.binary is not None else []) + list(self.layer_names())
        real = dict(REAL_VALUED)
        if self.binary is None:
            real["embedding"] = "real vectors"
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return {"parameters": parameters, "symbols": len(self.alphabet), "spiking_layers": spiking, "real_valued": real}
