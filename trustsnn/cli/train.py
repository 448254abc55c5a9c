"""`trustsnn train`: one sub-command a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustsnn.data import splits
from trustsnn.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from trustsnn.data import Dataset
    from trustsnn.models import SpikingNetwork
    from trustsnn.training import Recipe

train_app = typer.Typer(help="Train a bundled model. One sub-command a recipe.", no_args_is_help=True, rich_markup_mode=None)


@train_app.callback()
def _recipes() -> None:
    pass


DataOption = Annotated[str, typer.Option("--data", help="A data-set name (see `trustsnn list datasets`), a folder, or an .npz.")]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="Where data files lie; else TRUSTSNN_DATA.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch a missing data set, with its checksum. Off by default.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]
ModelOption = Annotated[str, typer.Option("--model", help="See `trustsnn list models`.")]
EpochsOption = Annotated[int | None, typer.Option(help="By default as many as make about 2,000 steps, from 4 to 30.")]
BatchOption = Annotated[int, typer.Option(help="Samples a step.")]
OptimizerOption = Annotated[str, typer.Option(help="adamw or sgd.")]
RateOption = Annotated[float, typer.Option("--lr", help="At the start; it falls to 0 along a cosine.")]
DecayOption = Annotated[float, typer.Option(help="Of the optimizer.")]
SmoothingOption = Annotated[float, typer.Option(help="In [0, 1).")]
AugmentOption = Annotated[str, typer.Option(help="none, shift or shift-flip.")]
ChannelsOption = Annotated[float, typer.Option(help="Multiplies channels and hidden units.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, order and draws.")]
WeightsOption = Annotated[Path | None, typer.Option(help="A safetensors file for package.module:callable.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; all by default.")]


SurrogateOption = Annotated[str, typer.Option(help="triangular, rectangular, atan, sigmoid, exponential or ste.")]
WidthOption = Annotated[float, typer.Option(help="Width of the surrogate.")]

EncoderOption = Annotated[
    str | None, typer.Option(help="direct, poisson, latency, single-spike or rank-order; events have frames.")
]


@train_app.command("bptt")
def bptt(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/bptt-MODEL-DATA-TSTEPS by default.")] = None,
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 128,
    optimizer: OptimizerOption = "adamw",
    learning_rate: RateOption = 2e-3,
    weight_decay: DecayOption = 1e-4,
    label_smoothing: SmoothingOption = 0.0,
    augment: AugmentOption = "none",
    encoder: EncoderOption = None,
    readout: Annotated[str, typer.Option(help="membrane or spike-count.")] = "membrane",
    leak: Annotated[float, typer.Option(help="Leak factor of the membrane, 1 for integrate-and-fire.")] = 0.5,
    threshold: Annotated[float, typer.Option(help="Firing threshold.")] = 1.0,
    reset: Annotated[str, typer.Option(help="hard or soft.")] = "hard",
    detach_reset: Annotated[bool, typer.Option(help="Keep the gradient out of the reset.")] = False,
    surrogate: SurrogateOption = "triangular",
    width: WidthOption = 1.0,
    learn: Annotated[bool, typer.Option(help="Learn leak and threshold of each layer.")] = False,
    sparsity: Annotated[float | None, typer.Option(help="Share of the synapses that is to be gone; none by default.")] = None,
    sparse: Annotated[str | None, typer.Option(help="How they go: gradr, magnitude or random; gradr by default.")] = None,
    norm: Annotated[str, typer.Option(help="batch, td, bntt, group or none.")] = "batch",
    merge: Annotated[str | None, typer.Option(help="Of a SEW-ResNet: add, and or iand.")] = None,
    heads: Annotated[int | None, typer.Option(help="Of a Spikformer's or Spikingformer's attention.")] = None,
    channels: ChannelsOption = 1.0,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    quiet: QuietOption = False,
) -> None:
    """Backpropagation through time with a surrogate gradient. The same command goes on where a killed run stopped."""
    settings = training_settings(locals())
    _train(
        "bptt", model, data, out or folder("bptt", model, data, f"T{steps}"),
        {
            "steps": steps, "encoder": encoder, "readout": readout, "leak": leak, "threshold": threshold, "reset": reset,
            "detach_reset": detach_reset, "surrogate": surrogate, "width": width, "learn": learn, "channels": channels,
            "norm": norm, "merge": merge, "heads": heads,
        },
        settings,
        seed, threads, data_root, download, quiet, _sparse(sparsity, sparse),
    )  # fmt: skip


@train_app.command("qcfs")
def qcfs(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/qcfs-MODEL-DATA-LLEVELS by default.")] = None,
    levels: Annotated[int, typer.Option(help="L, levels of an activation above 0; 2^T - 1 for bit-serial in T steps.")] = 15,
    threshold: Annotated[float, typer.Option(help="The largest activation of each layer, at the start; it is learnt.")] = 8.0,
    bit_l1: Annotated[float, typer.Option(help="Weight of the bit-level L1 penalty, a sum over the batch; try 1e-7.")] = 0.0,
    channels: ChannelsOption = 1.0,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 128,
    optimizer: OptimizerOption = "adamw",
    learning_rate: RateOption = 2e-3,
    weight_decay: DecayOption = 1e-4,
    augment: AugmentOption = "none",
    label_smoothing: SmoothingOption = 0.0,
    threads: ThreadsOption = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    quiet: QuietOption = False,
) -> None:
    """An ANN with quantised activations, for `trustsnn convert`. The same command goes on where a killed run stopped."""
    settings = training_settings(locals())
    _train(
        "qcfs", model, data, out or folder("qcfs", model, data, f"L{levels}"),
        {"neuron": "qcfs", "levels": levels, "threshold": threshold, "sparsity": bit_l1, "channels": channels},
        settings,
        seed, threads, data_root, download, quiet,
    )  # fmt: skip


@train_app.command("ann")
def ann(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/ann-MODEL-DATA by default.")] = None,
    channels: ChannelsOption = 1.0,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 128,
    optimizer: OptimizerOption = "adamw",
    learning_rate: RateOption = 2e-3,
    weight_decay: DecayOption = 1e-4,
    augment: AugmentOption = "none",
    label_smoothing: SmoothingOption = 0.0,
    threads: ThreadsOption = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    quiet: QuietOption = False,
) -> None:
    """An ANN with ReLU, for `trustsnn convert` by calibration and `trustsnn train hybrid`. The same command goes on where a killed run
    stopped."""
    settings = training_settings(locals())
    _train(
        "ann", model, data, out or folder("ann", model, data),
        {"neuron": "relu", "channels": channels},
        settings,
        seed, threads, data_root, download, quiet,
    )  # fmt: skip


@train_app.command("hybrid")
def hybrid(
    ann: Annotated[Path, typer.Option("--ann", help="Checkpoint folder; see `trustsnn train ann` and `trustsnn train qcfs`.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    diet: Annotated[bool, typer.Option("--diet", help="DIET-SNN: learn leak and threshold of each layer.")] = False,
    scale: Annotated[float | None, typer.Option(help="Of the balanced thresholds; 0.7, with --diet 0.25.")] = None,
    percentile: Annotated[
        float | None, typer.Option(help="Threshold of a layer among its activations; 100, the largest.")
    ] = None,
    calibration: Annotated[int | None, typer.Option(help="Training samples that balance the thresholds; 1,024.")] = None,
    stdb: Annotated[bool, typer.Option("--stdb", help="Differentiate a spike by the time since the last one.")] = False,
    surrogate: SurrogateOption = "triangular",
    width: WidthOption = 1.0,
    seed: SeedOption = 0,
    epochs: Annotated[int, typer.Option(help="Of training through time.")] = 3,
    batch_size: BatchOption = 128,
    optimizer: OptimizerOption = "adamw",
    learning_rate: RateOption = 5e-4,
    weight_decay: DecayOption = 1e-4,
    augment: AugmentOption = "none",
    label_smoothing: SmoothingOption = 0.0,
    threads: ThreadsOption = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert an ANN and train it on through time, for few steps. One with ReLU has its thresholds balanced, one with QCFS has learnt
    them. Synapses that are 0 stay 0. The same command goes on where a killed run stopped."""
    prepare(threads)
    from contextlib import nullcontext

    from trustsnn.checkpoint import load_network, model_hash
    from trustsnn.conversion import Calibration, hybrid_start
    from trustsnn.conversion.hybrid import DIET_SCALE, SCALE
    from trustsnn.conversion.segments import rectified
    from trustsnn.neurons.stdb import STDB
    from trustsnn.runners.resolve import fit

    sets = splits(data, data_root, download)
    network = load_network(ann)
    fit(network, sets["test"])
    start = {"ann": model_hash(network), "estimator": STDB().describe() if stdb else None}
    given = None
    if rectified(network) or (scale, percentile, calibration) != (None, None, None):
        scale = (DIET_SCALE if diet else SCALE) if scale is None else scale
        percentile = 100.0 if percentile is None else percentile
        given = Calibration(sets["train"].take(1024 if calibration is None else calibration), percentile=percentile, scale=scale)
    network = hybrid_start(network, steps, given, learn=diet, surrogate=surrogate, width=width)
    start["weights"] = model_hash(network)
    settings = training_settings(locals())
    with STDB().applied(network) if stdb else nullcontext():
        train_and_save("hybrid", network, sets, out, settings, seed, quiet, start, keep_zeros=True)


def _sparse(sparsity: float | None, how: str | None) -> dict[str, Any] | None:
    """The settings of `train_sparse`, None for all synapses."""
    if sparsity is None and how is not None:
        raise ConfigError(f"--sparse {how} says how synapses go: give --sparsity, the share that is to.")
    return None if sparsity is None else {"sparsity": sparsity, "how": how or "gradr"}


def training_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that are settings of the training, by their names in `TrainConfig`."""
    names = ("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "label_smoothing")
    return {**{name: given[name] for name in names}, "augmentation": given["augment"]}


def flag(name: str) -> str:
    """The option of an argument, as it is written on the command line."""
    return "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"


def folder(*parts: str) -> Path:
    """The checkpoint folder of a recipe by default, from its name and what it trains on what."""
    return Path("models") / "-".join(part.replace("/", "-").replace(":", "-") for part in parts)


def eps_of(option: str, text: str) -> float:
    """The radius that an option holds, a number or a fraction."""
    from trustsnn.runners.config import parse_eps

    try:
        return parse_eps(text)
    except ValueError as error:
        raise ConfigError(f"--{option}: {error}") from error


def prepare(threads: int | None) -> None:
    """Settings of the process, before torch is imported and after."""
    from trustsnn.process import keep_freed_memory, sleep_while_waiting

    keep_freed_memory()
    sleep_while_waiting()
    from trustsnn.runners.environment import set_threads

    set_threads(threads)


def _train(
    recipe: str, model: str, data: str, out: Path, network_arguments: dict[str, Any], settings: dict[str, Any],
    seed: int, threads: int | None, data_root: Path | None, download: bool, quiet: bool, sparse: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Build a network and `train_and_save` it."""
    prepare(threads)
    from trustsnn.models import build

    sets = splits(data, data_root, download, network_arguments.get("steps", 1))
    train_set = sets["train"]
    network = build(
        model, input_shape=train_set.sample_shape, classes=len(train_set.classes), domain=train_set.domain,
        max_count=train_set.max_count, seed=seed, **network_arguments,
    )  # fmt: skip
    train_and_save(recipe, network, sets, out, settings, seed, quiet, sparse=sparse)


def train_and_save(
    recipe: str, network: SpikingNetwork, sets: dict[str, Dataset], out: Path, settings: dict[str, Any], seed: int, quiet: bool,
    start: dict[str, Any] | None = None, sparse: dict[str, Any] | None = None, losses: Recipe | None = None, keep_zeros: bool = False,
) -> None:  # fmt: skip
    """Train a network on the training split, save it, and say its accuracy on the test split.

    `sparse` is for `train_sparse`, `losses` what a step minimises if not cross-entropy. `keep_zeros`: synapses that are 0 stay so.
    """
    import trustsnn
    from trustsnn.checkpoint import check_out
    from trustsnn.runners.progress import TrainingReporter
    from trustsnn.training import TrainConfig, masked, train
    from trustsnn.training.compress import train_sparse, zero_masks

    if settings["epochs"] is None:
        settings["epochs"] = enough_epochs(sets["train"], settings["batch_size"])
    config = TrainConfig(**settings, seed=seed)
    said = {"recipe": recipe, "data": sets["train"].sha256, "seed": seed, **(start or {})}
    check_out(out, {"recipe": recipe} if (out / "training").exists() else said)  # the state there says itself how it came about
    begun = time.perf_counter()
    zeros = zero_masks(network) if keep_zeros else {}
    with TrainingReporter(quiet) as reporter, masked(network, zeros):
        log = (train_sparse if sparse else train)(
            network, sets["train"], config, test=sets["test"], folder=out / "training", start=start, recipe=losses, **(sparse or {}),
            on_step=lambda p: reporter.step(p.epoch, config.epochs, p.step, p.steps, p.loss),
            on_epoch=lambda row: reporter.epoch(row, config.epochs),
        )  # fmt: skip
    said["epochs"] = len(log)
    if sparse:
        said["sparse"] = sparse
    if losses:
        said["losses"] = losses.describe()
    trustsnn.save(network, out, training=said)
    conclude(network, sets["test"], out, seed, begun)
    if sparse or zeros:
        _say_synapses(network)


def enough_epochs(data: Dataset, batch_size: int) -> int:
    """As many as make about 2,000 steps, from 4 to 30."""
    return min(30, max(4, round(2000 / max(1, len(data) // max(1, batch_size)))))


def conclude(network: nn.Module, test: Dataset, out: Path, seed: int, begun: float) -> None:
    """Say the accuracy of a saved network on the test split, and the seconds since `begun`."""
    from trustsnn.training import accuracy

    figure = accuracy(network, test, seed=seed)
    typer.echo(
        f"{out}: {figure['value']:.2%} of {figure['count']} test samples correct "
        f"(95 % interval {figure['low']:.2%} to {figure['high']:.2%}), {time.perf_counter() - begun:.0f} s"
    )


def _say_synapses(network: SpikingNetwork) -> None:
    from trustsnn.training import count_synapses

    counts = count_synapses(network)
    every, active = sum(row.synapses for row in counts), sum(row.active for row in counts)
    layers = ", ".join(f"{row.layer} {row.active:,} of {row.synapses:,}" for row in counts)
    typer.echo(f"{1 - active / every:.2%} of {every:,} synapses are gone. Left: {layers}")
