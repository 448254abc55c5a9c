"""Training of a language model on the first part of a text, resumable and deterministic per seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trustsnn.errors import ConfigError, DataError, ModelContractError
from trustsnn.language.model import SpikeGPT, SpikeGPTConfig
from trustsnn.language.text import Corpus
from trustsnn.rng import stream
from trustsnn.training import Progress
from trustsnn.training.state import TrainingState, load_state, save_state


@dataclass(frozen=True)
class LanguageConfig:
    """Settings of a training run: Adam with decay of the matrices, warm-up over the first steps, then a cosine to 0.

    An epoch is one pass over the training part in windows of one context, the first at a drawn offset, in drawn order.
    """

    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warm_up: int = 50
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("warm_up", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"Expected {name} of at least {low}, got {getattr(self, name)}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate) and self.weight_decay >= 0 and self.clip > 0):
            raise ConfigError("Expected a positive finite learning rate, weight_decay >= 0 and clip > 0.")


def train_language(
    corpus: Corpus,
    model: SpikeGPTConfig | SpikeGPT | None = None,
    config: LanguageConfig | None = None,
    *,
    folder: Path | str | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[SpikeGPT, list[dict[str, Any]]]:
    """Train a SpikeGPT on the training part of `corpus`; the network in eval mode, and one row of figures an epoch.

    Args:
        model: its settings; or a network with the corpus's alphabet, which is trained in place.
        folder: where the state after each epoch goes. One of the same settings that is there is taken up: a killed run ends
            as an unbroken one would, bit for bit.

    Rows have the loss on the training windows and on the validation part, in bits per token. Nothing is chosen by either.

    Raises:
        ConfigError: the state in `folder` is of other settings.
        DataError: the training part is too short for one batch.
    """
    config = config or LanguageConfig()
    network = model if isinstance(model, SpikeGPT) else SpikeGPT(corpus.alphabet, model)
    if network.alphabet != corpus.alphabet:
        raise ConfigError("Expected a network with the alphabet of the corpus, got another one.")
    tokens, context = corpus.part("train"), network.config.context
    per_epoch = (len(tokens) - context - 1) // context // config.batch_size
    if per_epoch < 1:
        raise DataError(
            f"Expected at least {(config.batch_size + 1) * context + 1} tokens to train on, for one batch of {config.batch_size} "
            f"windows of {context}, got {len(tokens)}. Lower the batch size or the context, or take a longer text."
        )
    optimizer = _optimizer(network, config)
    identity = {"config": asdict(config), "architecture": network.architecture, "text": corpus.describe()}
    state = TrainingState(0, [], identity)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        state = load_state(folder, network, optimizer, identity) or state
    steps = config.epochs * per_epoch
    for epoch in range(state.epoch, config.epochs):
        draws = stream(config.seed, f"windows/{epoch}")
        offset = int(draws.integers(context))
        order = draws.permutation((len(tokens) - offset - 1) // context)
        total = 0.0
        for step in range(per_epoch):
            begins = offset + context * order[step * config.batch_size : (step + 1) * config.batch_size]
            windows = torch.from_numpy(tokens[begins + np.arange(context + 1)[:, None]])
            for group in optimizer.param_groups:
                group["lr"] = _rate(config, epoch * per_epoch + step, steps)
            loss = nn.functional.cross_entropy(network(windows[:-1]).flatten(0, 1), windows[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            value = loss.item()
            if not math.isfinite(value):
                where = f"epoch {epoch + 1}, step {step + 1}"
                raise ModelContractError(f"The loss became {value} in {where}. Lower the learning rate {config.learning_rate}.")
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            total += value
            if on_step is not None:
                on_step(Progress(epoch, step + 1, per_epoch, total / (step + 1)))
        row: dict[str, Any] = {"epoch": epoch + 1, "train_bits": total / per_epoch / math.log(2)}
        begin, end = corpus.span("validation")
        row["validation_bits"] = float(network.bits(corpus.tokens[:end], begin).mean())
        state = TrainingState(epoch + 1, [*state.log, row], identity)
        if folder is not None:
            save_state(folder, network, optimizer, state)
        if on_epoch is not None:
            on_epoch(row)
    return network.eval(), state.log


def _optimizer(network: SpikeGPT, config: LanguageConfig) -> torch.optim.Optimizer:
    matrices = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    known = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def _rate(config: LanguageConfig, step: int, steps: int) -> float:
    """The learning rate of a step."""
    rising = min(1.0, (step + 1) / (config.warm_up + 1))
    return config.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / steps))
