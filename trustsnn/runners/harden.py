"""Hardening: train a model with a robust recipe, and audit it before and after with the same cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustsnn import checkpoint
from trustsnn.data import Dataset
from trustsnn.defenses.robust import Robust, parse
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import rebuild
from trustsnn.reports.hardening import hardening, hardening_page, hardening_text, sentences
from trustsnn.runners.audit import audit
from trustsnn.runners.progress import TrainingReporter
from trustsnn.runners.resolve import fit, resolve_model
from trustsnn.runners.result import Run
from trustsnn.training import TrainConfig, train

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Hardened:
    """The hardened network, its audits, and what `trustsnn.reports.hardening` says of the two."""

    folder: Path
    model: SpikingNetwork
    before: Run
    after: Run
    result: dict[str, Any]

    @property
    def sentences(self) -> list[str]:
        """What came out within each ball."""
        return sentences(self.result)


def harden(
    model: Any,
    recipe: str | Robust,
    data: Dataset,
    test: Dataset,
    *,
    out: Path | str,
    config: TrainConfig | None = None,
    fresh: bool = False,
    learn: bool = False,
    gates: list[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Hardened:
    """Train a copy of `model` on `data` with a robust recipe, and audit both on `test`. The same call goes on where a killed one stopped.

    Args:
        model: a bundled network, its checkpoint folder, or "package.module:callable" that makes one.
        recipe: one of `trustsnn.defenses.robust`, or a line such as "at:eps=8/255+mpd-sgr".
        out: becomes the checkpoint folder of the hardened network, with the run folders `before` and `after`, and `hardening.json`,
            `hardening.md` and `hardening.html` that hold them against each other.
        config: of the training; its label smoothing has to be the recipe's.
        fresh: begin with new weights, drawn by the seed of `config`, in place of the model's; `robust-ann` always does.
        learn: train leak and threshold of each layer, too, which HIRE does.
        gates: of the audit afterwards.
        settings: of both audits; see `trustsnn.audit`.

    Raises:
        ConfigError: the model cannot be trained here, the recipe does not fit it, `out` holds another checkpoint; and what
            `trustsnn.audit` raises.
    """
    out, config = Path(out), config or TrainConfig()
    chosen = parse(recipe) if isinstance(recipe, str) else recipe
    network = resolve_model(model)
    if not isinstance(network, SpikingNetwork):
        raise ConfigError(f"Expected a bundled network, which can be trained on, got {type(network).__name__}.")
    fit(network, test)
    chosen.check(network)
    if chosen.anew and learn:
        raise ConfigError(f"The recipe {chosen.name!r} says itself what is learnt beside weights. Leave out learn.")
    fresh = fresh or chosen.anew
    start = {"model": checkpoint.model_hash(network), "fresh": fresh, "learn": learn}
    said = {"recipe": chosen.describe(), "data": data.sha256, "epochs": config.epochs, "seed": config.seed, **start}
    checkpoint.check_out(out, said)
    given = {"out": out / BEFORE, "quiet": quiet, "seed": config.seed, **settings}
    before = audit(network, test, **given)
    with TrainingReporter(quiet) as reporter:
        watch: dict[str, Any] = {
            "on_step": lambda p: reporter.step(p.epoch, config.epochs, p.step, p.steps, p.loss),
            "on_epoch": lambda row: reporter.epoch(row, config.epochs),
        }
        begun = _start(network, config.seed, fresh, learn)
        hardened = chosen.prepared(begun, data, config, out / "training" / "before", test=test, **watch)
        train(hardened, data, config, recipe=chosen, test=test, folder=out / "training", start=start, **watch)
    checkpoint.save(hardened, out, training=said)
    after = audit(hardened, test, **{**given, "out": out / AFTER}, gates=gates or [])
    result = hardening(out / BEFORE, out / AFTER)
    write_text(out / "hardening.json", json.dumps({"recipe": chosen.describe(), **result}, indent=1, allow_nan=False) + "\n")
    write_text(out / "hardening.md", hardening_text(result))
    write_text(out / "hardening.html", hardening_page(result, chosen.describe()["name"]))
    return Hardened(out, hardened, before, after, result)


def _start(network: SpikingNetwork, seed: int, fresh: bool, learn: bool) -> SpikingNetwork:
    """A network of the same architecture, with the weights of `network` unless `fresh`."""
    architecture = network.architecture
    arguments = {**architecture["arguments"], "seed": seed, **({"learn": True} if learn else {})}
    made = rebuild({**architecture, "arguments": arguments})
    if not isinstance(made, SpikingNetwork):
        raise ConfigError(f"Expected a bundled network, which can be trained on, got {type(made).__name__}.")
    if not fresh:
        made.load_state_dict(network.state_dict())
    return made
