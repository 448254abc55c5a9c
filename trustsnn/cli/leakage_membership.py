"""`trustsnn leakage membership` and `trustsnn leakage compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, takes_key


@takes_key
def membership(
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for membership.json, membership.html and the shadow models.")],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="Checkpoint folder of a model trained on the data's train split. By default one is trained for this."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="What to train where no target is given. See `trustsnn list models`.")
    ] = "conv",
    neuron: Annotated[str, typer.Option(help="lif, or relu for an ANN.")] = "lif",
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    encoder: options.EncoderOption = None,
    surrogate: options.SurrogateOption = "triangular",
    channels: options.ChannelsOption = 1.0,
    samples: Annotated[int, typer.Option(help="Of the pool: members and others together, half of each.")] = 2000,
    population: Annotated[int, typer.Option(help="Further samples that the attacker has.")] = 500,
    shadows: Annotated[int, typer.Option(help="Shadow models; 0 leaves out the attacks that need them.")] = 16,
    epochs: Annotated[int, typer.Option(help="Of target and shadow models, at most.")] = 20,
    batch_size: options.BatchOption = 64,
    learning_rate: options.RateOption = 2e-3,
    stop_at: Annotated[
        float | None, typer.Option(help="Training accuracy at which a training ends, for models that are compared.")
    ] = None,
    dp_eps: Annotated[
        float | None, typer.Option(help="Train privately, spending that eps (delta 1e-5), with group normalisation.")
    ] = None,
    label_noise: Annotated[float, typer.Option(help="Share of samples whose label is drawn anew.")] = 0.0,
    spread: Annotated[str, typer.Option(help="Of LiRA: pooled, or per-sample from some 64 shadow models on.")] = "pooled",
    queries: Annotated[int, typer.Option(help="Forward passes that the signals of a stochastic model are the mean of.")] = 4,
    twin: Annotated[str | None, typer.Option(help="Ask chips of this twin as well; see `trustsnn list twins`.")] = None,
    chips: Annotated[int, typer.Option(help="How many of them.")] = 5,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over", help="Exit with 1 if an attack finds more than this share of the members at 1 % false alarms."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train; all cores by default, 0 for this process.")] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder of trained models that several runs share; one in --out by default.")
    ] = None,
    seed: options.SeedOption = 0,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Who was in the training data: every membership attack against a model, with shadow models trained like it."""
    options.prepare(threads)
    from trustsnn.checkpoint import load_network
    from trustsnn.data import load
    from trustsnn.defenses.dp import PrivacyConfig
    from trustsnn.hardware.choose import parse
    from trustsnn.models import build
    from trustsnn.reports.membership import lines
    from trustsnn.runners import membership as run
    from trustsnn.runners.shadows import Recipe
    from trustsnn.training import TrainConfig

    train, test = (load(data, split, root=data_root, download=download) for split in ("train", "test"))
    train, test = (run.noisy_labels(each, label_noise, seed) for each in (train, test))
    config = TrainConfig(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    found: Any = load_network(target, key=key) if target is not None else None
    architecture = (
        found.architecture
        if found is not None
        else build(
            model, input_shape=train.sample_shape, classes=len(train.classes), steps=1 if neuron == "relu" else steps, neuron=neuron,
            encoder=encoder, surrogate=surrogate, channels=channels, domain=train.domain, max_count=train.max_count,
            norm="batch" if dp_eps is None else "group",
        ).architecture
    )  # fmt: skip
    privacy = None if dp_eps is None else PrivacyConfig(eps=dp_eps)
    plan = run.Plan(
        recipe=Recipe(architecture, config, stop_at, privacy), shadows=shadows, queries=queries, spread=spread, most=fail_over,
        models=models, workers=(os.cpu_count() or 1) if workers is None else workers,
    )  # fmt: skip
    rest: dict[str, Any] = {
        "seed": seed, "told": (lambda line: None) if quiet else lambda line: typer.echo(line, err=True),
        "chips": (parse(twin), chips) if twin else None,
    }  # fmt: skip
    if found is None:
        done = run.game(run.part(train, samples, seed, "pool"), run.part(test, population, seed, "population"), out, plan, **rest)
    else:
        both = run.part(test, samples // 2 + population, seed, "non-members and population")
        others, apart = both.select(range(samples // 2)), both.select(range(samples // 2, len(both)))
        done = run.given(found, run.part(train, samples // 2, seed, "members"), others, apart, out, plan, **rest)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)


def compare(
    one: Annotated[Path, typer.Argument(help="membership.json of one model, or its folder.")],
    other: Annotated[Path, typer.Argument(help="Of the other.")],
    tolerance: Annotated[float, typer.Option(help="Points by which the training accuracies may differ.")] = 1.0,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="Compare although the training accuracies differ.")] = False,
) -> None:
    """Two membership runs side by side, refused where the models' training accuracies are not alike."""
    from trustsnn.reports.membership_compare import compared, read

    for line in compared(read(one), read(other), tolerance / 100, unmatched=unmatched):
        typer.echo(line)
