"""`trustsnn leakage attribute` and `trustsnn leakage property`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, takes_key


@takes_key
def attribute(
    model: Annotated[Path, typer.Argument(help="Checkpoint folder of a model trained on the data's train split.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for attributes.json and attributes.html.")],
    features: Annotated[str, typer.Option(help="Places of features, with commas, from 0; all by default.")] = "all",
    seed: options.SeedOption = 0,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Guess a secret feature of a record from the rest of it and the model, beside what is guessed without the model."""
    options.prepare(threads)
    from trustsnn.checkpoint import load_network
    from trustsnn.data import load
    from trustsnn.errors import ConfigError
    from trustsnn.reports.inference import lines
    from trustsnn.runners.attributes import attributes

    try:
        places = None if features == "all" else [int(each) for each in features.split(",")]
    except ValueError as error:
        raise ConfigError(f"Expected --features as whole numbers with commas, or all, got {features!r}.") from error
    train, test = (load(data, split, root=data_root, download=download) for split in ("train", "test"))
    others = test.take(len(test) // 2, seed)
    population = test.select([row for row, sample in enumerate(test.ids) if sample not in set(others.ids)])
    told = (lambda line: None) if quiet else (lambda line: typer.echo(line, err=True))
    done = attributes(load_network(model, key=key), train, others, population, out, places, seed=seed, told=told)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))


def property_(
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for properties.json, properties.html and the models.")],
    model: options.ModelOption = "mlp",
    label: Annotated[int, typer.Option(help="The class whose share is the property.")] = 0,
    shares: Annotated[str, typer.Option(help="Share of that class without and with the property.")] = "0.3,0.5",
    samples: Annotated[int, typer.Option(help="Of each model's training data.")] = 100,
    shadows: Annotated[int, typer.Option(help="Models that the attacker trains, half of them with the property.")] = 40,
    targets: Annotated[int, typer.Option(help="Models that it is measured on.")] = 20,
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    encoder: options.EncoderOption = None,
    channels: options.ChannelsOption = 0.25,
    epochs: Annotated[int, typer.Option(help="Of every training.")] = 20,
    batch_size: options.BatchOption = 16,
    learning_rate: options.RateOption = 2e-3,
    workers: Annotated[int | None, typer.Option(help="Processes that train; all cores by default, 0 for this process.")] = None,
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Tell what share of the training data is of a class, from what a model says of probes: does the training data show as a whole?"""
    options.prepare(threads)
    from trustsnn.data import load
    from trustsnn.errors import ConfigError
    from trustsnn.models import build
    from trustsnn.reports.inference import lines
    from trustsnn.runners.attributes import PropertyPlan, properties
    from trustsnn.runners.shadows import Recipe
    from trustsnn.training import TrainConfig

    try:
        low, high = (float(each) for each in shares.split(","))
    except ValueError as error:
        raise ConfigError(f"Expected --shares as two numbers with a comma, got {shares!r}.") from error
    train, test = (load(data, split, root=data_root, download=download) for split in ("train", "test"))
    built = build(
        model, input_shape=train.sample_shape, classes=len(train.classes), steps=steps, encoder=encoder, channels=channels,
        domain=train.domain, max_count=train.max_count,
    )  # fmt: skip
    config = TrainConfig(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    plan = PropertyPlan(
        recipe=Recipe(built.architecture, config), label=label, shares=(low, high), samples=samples, known=shadows, asked=targets,
        workers=(os.cpu_count() or 1) if workers is None else workers,
    )  # fmt: skip
    told = (lambda line: None) if quiet else (lambda line: typer.echo(line, err=True))
    done = properties(train, test, out, plan, seed=seed, told=told)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
