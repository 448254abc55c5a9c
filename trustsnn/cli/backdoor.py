"""`trustsnn backdoor`: plant a backdoor in a model to be studied, and scan a model for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key
from trustsnn.data import splits

backdoor_app = typer.Typer(
    help="Plant a backdoor in a model to be studied, or scan a model for one.", no_args_is_help=True, rich_markup_mode=None
)


@backdoor_app.command("plant")
def plant(
    model: options.ModelOption,
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder of the model with the backdoor, and backdoor.json.")],
    trigger: Annotated[
        str, typer.Option(help="static, moving, smart or dynamic, with settings such as static:size=3:place=top-left.")
    ] = "static",
    target: Annotated[int, typer.Option(help="The class that the trigger is to lead to, from 0.")] = 0,
    rate: Annotated[float, typer.Option(help="Share of the training samples that carry the trigger.")] = 0.1,
    recipe: Annotated[
        str | None, typer.Option(help="A robust recipe instead of cross-entropy; see `trustsnn list recipes`.")
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of the same network, trained on the clean samples beside it.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    encoder: options.EncoderOption = None,
    channels: options.ChannelsOption = 1.0,
    seed: options.SeedOption = 0,
    epochs: options.EpochsOption = None,
    batch_size: options.BatchOption = 128,
    optimizer: options.OptimizerOption = "adamw",
    learning_rate: options.RateOption = 2e-3,
    weight_decay: options.DecayOption = 1e-4,
    label_smoothing: options.SmoothingOption = 0.0,
    augment: options.AugmentOption = "none",
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train a model on poisoned samples, and say its accuracy on clean ones and how often the trigger works. The same command goes on
    where a killed run stopped."""
    given = options.training_settings(locals())
    options.prepare(threads)
    from trustsnn.attacks.integrity.backdoor import poisoned
    from trustsnn.attacks.integrity.triggers import parse
    from trustsnn.defenses.robust.choose import parse as recipe_of
    from trustsnn.errors import ConfigError
    from trustsnn.files import write_text
    from trustsnn.models import build
    from trustsnn.reports.backdoor import planted_lines
    from trustsnn.runners.backdoor import WARNING, planted

    chosen, losses = parse(trigger), recipe_of(recipe) if recipe else None
    if clean is not None and clean.resolve() == out.resolve():
        raise ConfigError(f"Expected --clean and --out as different folders, got {out} for both.")
    sets = splits(data, data_root, download, steps)
    train, test = sets["train"], sets["test"]
    stamp = chosen.made(train, target, seed)
    poison = poisoned(train, stamp, target, rate, seed)
    said = {"trigger": stamp.describe(), "target": target, "rate": rate, "warning": WARNING}
    wanted: list[tuple[str, Path, Any, dict[str, Any]]] = [("backdoored", out, poison, {"backdoor": said})]
    if clean is not None:
        wanted.append(("clean", clean, train, {}))
    networks = {}
    for name, folder, samples, start in wanted:
        networks[name] = build(
            model, input_shape=train.sample_shape, classes=len(train.classes), domain=train.domain, max_count=train.max_count,
            steps=steps, encoder=encoder, channels=channels, seed=seed,
        )  # fmt: skip
        networks[name] = losses.adapted(networks[name]) if losses else networks[name]
        options.train_and_save(
            "backdoor" if start else "bptt", networks[name], {"train": samples, "test": test}, folder, dict(given), seed, quiet,
            start=start or None, losses=losses,
        )  # fmt: skip
    record = {
        "format": "trustsnn-backdoor/1",
        **said,
        "data": data,
        "seed": seed,
        "models": planted(networks, test, stamp, target, seed),
    }
    write_text(out / "backdoor.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    for line in planted_lines(record):
        typer.echo(line)


@backdoor_app.command("scan")
@takes_key
def scan(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for scan.json, scan.html and triggers.npz.")],
    samples: Annotated[int, typer.Option(help="Clean test samples that the scan reads.")] = 50,
    held_out: Annotated[int, typer.Option(help="Others, on which the triggers that it finds are tried.")] = 200,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="A model known to be clean, trained alike; repeat it, 9 times at least. They set the thresholds."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of trigger inversion.")] = 200,
    estimator: Annotated[
        str | None,
        typer.Option(help="How the spikes are differentiated; by default as the model does. See `trustsnn list estimators`."),
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 1 if a backdoor is found.")] = False,
    seed: options.SeedOption = 0,
    weights: options.WeightsOption = None,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Look for a backdoor by trigger inversion, membrane margins and a threshold sweep. Exits with 3 where they cannot say."""
    options.prepare(threads)
    import numpy as np

    from trustsnn.attacks.estimators import estimator as find_estimator
    from trustsnn.attacks.integrity.inversion import Inversion
    from trustsnn.attacks.integrity.margin import Margin
    from trustsnn.attacks.integrity.scan import Scan
    from trustsnn.attacks.integrity.sweep import Sweep
    from trustsnn.errors import ConfigError
    from trustsnn.reports.backdoor import lines
    from trustsnn.runners.backdoor import backdoor_scan
    from trustsnn.runners.resolve import resolve_data, resolve_model

    found: Any = resolve_model(opened(model, key, weights), weights)
    how = find_estimator(estimator) if estimator else None
    test = resolve_data(data, found.spec, split="test", root=data_root, download=download)
    if min(samples, held_out) < 1 or samples >= len(test):
        raise ConfigError(
            f"Expected at least 1 sample for the scan and 1 held out, of {len(test)} in all, got {samples} and {held_out}."
        )
    read = test.take(samples, seed)
    rest = test.select(np.flatnonzero(~np.isin(test.ids, read.ids))).take(held_out, seed)
    names = reference or []
    if len(set(names)) < len(names):
        raise ConfigError("Expected each --reference once.")
    settings = Scan(detectors=(Inversion(steps=steps, estimator=how), Margin(estimator=how), Sweep()), seed=seed)
    done = backdoor_scan(
        found, read, rest, out, settings, references={name: resolve_model(name) for name in names}, gate=gate,
        told=(lambda line: None) if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)
