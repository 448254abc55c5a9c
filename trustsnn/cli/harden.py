"""`trustsnn harden`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.audit import listed
from trustsnn.data import splits


def harden(
    model: Annotated[str, typer.Argument(help="A checkpoint folder of a bundled network, or package.module:callable.")],
    data: options.DataOption,
    recipe: Annotated[
        str,
        typer.Option("--with", help="A recipe with its settings, such as at:eps=8/255 or trades+mpd-sgr; see `list recipes`."),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint folder of the hardened network; the audits go into it.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with new weights in place of the model's.")] = False,
    learn: Annotated[bool, typer.Option("--learn", help="Train leak and threshold of each layer, too.")] = False,
    epochs: options.EpochsOption = None,
    batch_size: options.BatchOption = 128,
    optimizer: options.OptimizerOption = "adamw",
    learning_rate: options.RateOption = 1e-3,
    weight_decay: options.DecayOption = 1e-4,
    augment: options.AugmentOption = "none",
    profile: Annotated[str, typer.Option(help="Of both audits; see `trustsnn list profiles`.")] = "quick",
    eps: Annotated[str | None, typer.Option(help="Radii of both audits, with commas, as for `trustsnn audit`.")] = None,
    norms: Annotated[str | None, typer.Option("--norm", help="Norms of both audits, with commas.")] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples of both audits; 0 for all. [default: 1000]")] = None,
    gate: Annotated[list[str] | None, typer.Option("--gate", help="Of the audit afterwards; repeat it.")] = None,
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train a copy of a model with a robust recipe, audit both, and say whether the gain survives every attack. The exit code is that of
    the audit afterwards. The same command goes on where a killed run stopped."""
    options.prepare(threads)
    from trustsnn.runners.harden import harden as run_harden
    from trustsnn.runners.resolve import resolve_model
    from trustsnn.training import TrainConfig

    network: Any = resolve_model(model)
    sets = splits(data, data_root, download, network.spec.steps)
    settings = {**options.training_settings({**locals(), "label_smoothing": 0.0}), "seed": seed}
    if settings["epochs"] is None:
        settings["epochs"] = options.enough_epochs(sets["train"], batch_size)
    asked: dict[str, Any] = {"profile": profile, "eps": listed(eps), "norms": listed(norms)}
    asked = {name: value for name, value in asked.items() if value is not None}
    if samples is not None:
        asked["samples"] = samples or None
    found = run_harden(
        network, recipe, sets["train"], sets["test"], out=out, config=TrainConfig(**settings), fresh=fresh, learn=learn,
        gates=gate, quiet=quiet, **asked,
    )  # fmt: skip
    for sentence in found.sentences:
        typer.echo(sentence)
    for run in (found.before, found.after):
        typer.echo(f"{run.report}: {run.verdict}")
    typer.echo(str(out / "hardening.html"))
    raise typer.Exit(found.after.exit_code)
