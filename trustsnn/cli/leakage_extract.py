"""`trustsnn leakage extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key


@takes_key
def extract(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a NIR file, or package.module:callable. It is only asked.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for extraction.json and extraction.html.")],
    queries: Annotated[
        str | None,
        typer.Option(
            help="A data-set name, a folder or an .npz whose training split is asked; noise; by default that of --data."
        ),
    ] = None,
    budgets: Annotated[str, typer.Option(help="Numbers of queries, with commas; each has a copy of its own.")] = "100,300,1000",
    answers: Annotated[
        str, typer.Option(help="What the model tells: labels, or soft for the softmax over all classes.")
    ] = "soft",
    copy: Annotated[str, typer.Option("--copy", help="Architecture of the copy; see `trustsnn list models`.")] = "conv",
    copy_steps: Annotated[int | None, typer.Option(help="Time steps of the copy; those of the model by default.")] = None,
    neuron: Annotated[str, typer.Option(help="Of the copy: lif, or relu for a copy without spikes.")] = "lif",
    channels: options.ChannelsOption = 1.0,
    train_steps: Annotated[int, typer.Option(help="Steps of the copy's optimizer.")] = 1000,
    batch_size: options.BatchOption = 64,
    learning_rate: options.RateOption = 2e-3,
    eps: Annotated[float, typer.Option(help="L-inf, of PGD on the copy; 0 leaves transfer out.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Of PGD.")] = 20,
    samples: Annotated[int, typer.Option(help="Test samples of every figure; 0 for all.")] = 500,
    seed: options.SeedOption = 0,
    weights: options.WeightsOption = None,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Extraction: copies from a model's answers to a number of queries, how near they come, and whether attacks transfer from them."""
    options.prepare(threads)
    from trustsnn.attacks.leakage.extraction import Extraction, noise_queries
    from trustsnn.errors import ConfigError
    from trustsnn.reports.extraction import sentences
    from trustsnn.runners.extraction import Plan, extraction
    from trustsnn.runners.resolve import fit, resolve_data, resolve_model

    try:
        numbers = tuple(int(each) for each in budgets.split(","))
    except ValueError as error:
        raise ConfigError(f"Expected --budgets as whole numbers with commas, got {budgets!r}.") from error
    settings = {"name": copy, "channels": channels, "neuron": neuron} | ({} if copy_steps is None else {"steps": copy_steps})
    attack = Extraction(answers=answers, steps=train_steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    plan = Plan(attack=attack, budgets=numbers, copy=settings, eps=eps, steps=steps)
    found = resolve_model(opened(model, key, weights), weights)
    test = resolve_data(data, found.spec, root=data_root, download=download)  # type: ignore[arg-type]
    spec = fit(found, test)
    if queries == "noise":
        asked = noise_queries(spec, max(numbers), seed)
    else:
        asked = resolve_data(queries or data, spec, split="train", root=data_root, download=download)
    done = extraction(
        found, asked, test.take(samples, seed) if samples else test, out, plan,
        told=(lambda line: None) if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    for line in sentences(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
