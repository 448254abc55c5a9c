"""`trustsnn train s4nn`, `onestep`, `alpha` and `compress`: networks that `trustsnn.models.build` does not make, or that need another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.data import splits
from trustsnn.errors import ConfigError


def s4nn(
    data: options.DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/s4nn-DATA-HIDDEN by default.")] = None,
    hidden: Annotated[int, typer.Option(help="Neurons of the hidden layer.")] = 400,
    last: Annotated[int, typer.Option(help="Time steps of the latency code.")] = 256,
    threshold: Annotated[float, typer.Option(help="Of every neuron.")] = 100.0,
    spread: Annotated[str, typer.Option(help="Weights start between 0 and these: hidden layer, output layer.")] = "5,48",
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 20,
    learning_rate: options.RateOption = 2.0,
    gamma: Annotated[int, typer.Option(help="Steps by which a wrong class should come later.")] = 3,
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """One spike a neuron, the first output to spike is the class. The same command goes on where a killed run stopped."""
    options.prepare(threads)
    import trustsnn
    from trustsnn.checkpoint import check_out
    from trustsnn.runners.progress import TrainingReporter
    from trustsnn.temporal import S4NN, S4NNConfig, train_s4nn

    try:
        low, high = (float(each) for each in spread.split(","))
    except ValueError as error:
        raise ConfigError(f"Expected --spread as two numbers with a comma, such as 5,48, got {spread!r}.") from error
    sets = splits(data, data_root, download, 1)
    train_set, out = sets["train"], out or options.folder("s4nn", data, str(hidden))
    model = S4NN(
        train_set.sample_shape,
        len(train_set.classes),
        hidden=hidden,
        last=last,
        threshold=threshold,
        spread=(low, high),
        seed=seed,
    )
    said = {"recipe": "s4nn", "data": train_set.sha256, "seed": seed}
    check_out(out, said)
    begun = time.perf_counter()
    with TrainingReporter(quiet) as reporter:
        train_s4nn(
            model, train_set, S4NNConfig(epochs, learning_rate, gamma, seed=seed), test=sets["test"], folder=out / "training",
            on_step=lambda p: reporter.step(p.epoch, epochs, p.step, p.steps, p.loss),
            on_epoch=lambda row: reporter.epoch(row, epochs),
        )  # fmt: skip
    trustsnn.save(model, out, training={**said, "epochs": epochs})
    options.conclude(model, sets["test"], out, seed, begun)


def onestep(
    data: options.DataOption,
    model: Annotated[str, typer.Option("--model", help="onestep or onestep-rnn.")] = "onestep",
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/MODEL-DATA-WINDOWS by default.")] = None,
    windows: Annotated[str, typer.Option(help="alternating, plain, or none: the same cell over time steps.")] = "alternating",
    projection: Annotated[str | None, typer.Option(help="coded, intended or mean; coded by default.")] = None,
    steps: Annotated[int, typer.Option(help="Time steps; more than 1 with --windows none alone.")] = 1,
    depth: Annotated[int, typer.Option(help="Cells in a stage.")] = 1,
    channels: options.ChannelsOption = 1.0,
    epochs: options.EpochsOption = None,
    batch_size: options.BatchOption = 128,
    optimizer: options.OptimizerOption = "adamw",
    learning_rate: options.RateOption = 2e-3,
    weight_decay: options.DecayOption = 1e-4,
    augment: options.AugmentOption = "none",
    label_smoothing: options.SmoothingOption = 0.0,
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Windows of a feature map in place of time steps. The same command goes on where a killed run stopped."""
    options.prepare(threads)
    from trustsnn.models.onestep import build_onestep

    sets = splits(data, data_root, download, steps)
    if windows == "none" and projection is not None:
        raise ConfigError(f"--projection {projection} is of windows, of which --windows none has none. Leave one of them out.")
    network = build_onestep(
        model, input_shape=sets["train"].sample_shape, classes=len(sets["train"].classes), steps=steps, windows=windows,
        projection=projection or "coded", channels=channels, depth=depth, seed=seed,
    )  # fmt: skip
    options.train_and_save(
        "onestep", network, sets, out or options.folder(model, data, windows), options.training_settings(locals()), seed, quiet
    )


def alpha(
    data: options.DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/alpha-DATA-HIDDEN by default.")] = None,
    hidden: Annotated[int, typer.Option(help="Neurons of the hidden layer.")] = 340,
    pulses: Annotated[int, typer.Option(help="Spikes of each layer whose times are learnt: its bias.")] = 10,
    epochs: options.EpochsOption = None,
    batch_size: options.BatchOption = 32,
    learning_rate: options.RateOption = 3e-3,
    augment: options.AugmentOption = "none",
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Alpha synapses and spike times in closed form; the first output to spike is the class. The same command goes on where a killed
    run stopped."""
    options.prepare(threads)
    from trustsnn.temporal import AlphaNetwork

    sets = splits(data, data_root, download, 1)
    network: Any = AlphaNetwork(sets["train"].sample_shape, len(sets["train"].classes), hidden=hidden, pulses=pulses, seed=seed)
    still = {"optimizer": "adamw", "weight_decay": 0.0, "label_smoothing": 0.0}  # Adam, as the authors'
    settings = options.training_settings({**locals(), **still})
    options.train_and_save("alpha", network, sets, out or options.folder("alpha", data, str(hidden)), settings, seed, quiet)


def compress(
    ann: Annotated[Path, typer.Option("--ann", help="Checkpoint folder of the dense teacher; see `trustsnn train ann`.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    sparsity: Annotated[float, typer.Option(help="Share of the synapses that is to be gone.")] = 0.9,
    sparse: Annotated[str, typer.Option(help="How they go: gradr, magnitude or random.")] = "gradr",
    alpha: Annotated[float, typer.Option(help="Weight of the distance of the attention maps; 0 is plain sparse training.")] = 0.1,
    layers: Annotated[
        str | None, typer.Option(help="Layers with maps, with commas; all by default. See `trustsnn inspect`.")
    ] = None,
    epochs: options.EpochsOption = None,
    batch_size: options.BatchOption = 128,
    optimizer: options.OptimizerOption = "adamw",
    learning_rate: options.RateOption = 2e-3,
    weight_decay: options.DecayOption = 1e-4,
    augment: options.AugmentOption = "none",
    label_smoothing: options.SmoothingOption = 0.0,
    seed: options.SeedOption = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Attention-guided compression: a sparse network of the teacher's architecture learns from its attention maps, for `trustsnn train
    hybrid`, which keeps its sparsity. The same command goes on where a killed run stopped."""
    options.prepare(threads)
    from trustsnn.checkpoint import load_network
    from trustsnn.models.zoo import rebuild
    from trustsnn.runners.resolve import fit
    from trustsnn.training.attention import AttentionGuided

    sets = splits(data, data_root, download)
    teacher = load_network(ann)
    fit(teacher, sets["test"])
    guided = AttentionGuided(teacher, alpha, None if layers is None else layers.split(","), label_smoothing)
    student: Any = rebuild({**teacher.architecture, "arguments": {**teacher.architecture["arguments"], "seed": seed}})
    settings = options.training_settings({**locals(), "label_smoothing": 0.0})  # the recipe has it
    options.train_and_save(
        "compress", student, sets, out, settings, seed, quiet,
        sparse={"sparsity": sparsity, "how": sparse}, losses=guided,
    )  # fmt: skip
