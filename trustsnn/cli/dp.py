"""`trustsnn train dp`: differentially private training."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.data import splits

if TYPE_CHECKING:
    from trustsnn.data import Dataset
    from trustsnn.models import SpikingNetwork

_SAID = {"operating system": "", "seed": " Batches and noise come from the seed: nothing is guaranteed against whoever knows it."}


def dp(
    model: Annotated[str, typer.Option("--model", help="See `trustsnn list models`; also onestep and onestep-rnn.")],
    data: options.DataOption,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/dp-MODEL-DATA by default.")] = None,
    eps: Annotated[float | None, typer.Option(help="The most that the whole run spends; 8 unless --sigma is given.")] = None,
    sigma: Annotated[float | None, typer.Option(help="The noise multiplier itself, in place of --eps.")] = None,
    delta: Annotated[float, typer.Option(help="Below 1 / training samples.")] = 1e-5,
    clip: Annotated[float, typer.Option(help="L2 norm that each sample's gradient is clipped to.")] = 1.0,
    accountant: Annotated[str, typer.Option(help="prv or rdp, Opacus's.")] = "prv",
    seed_noise: Annotated[
        bool, typer.Option("--seed-noise", help="Batches and noise from --seed: repeatable, without a guarantee.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Time steps T; 4 by default, and 1 of onestep.")] = None,
    norm: Annotated[str, typer.Option(help="group or none.")] = "group",
    encoder: options.EncoderOption = None,
    learn: Annotated[bool, typer.Option(help="Learn leak and threshold of each layer.")] = False,
    channels: options.ChannelsOption = 1.0,
    epochs: Annotated[int, typer.Option(help="Each sample is drawn that often in the mean.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Samples a step in the mean; the batch itself is drawn.")] = 256,
    optimizer: options.OptimizerOption = "adamw",
    learning_rate: options.RateOption = 2e-3,
    weight_decay: options.DecayOption = 0.0,
    label_smoothing: options.SmoothingOption = 0.0,
    augment: options.AugmentOption = "none",
    seed: Annotated[int, typer.Option(help="Of weights and encoders; of batches and noise with --seed-noise alone.")] = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Differentially private training: batches drawn by chance, gradients clipped per sample over all time steps, noise. The same
    command goes on where a killed run stopped."""
    options.prepare(threads)
    import trustsnn
    from trustsnn.checkpoint import check_out
    from trustsnn.defenses.dp import PrivacyConfig, train_private
    from trustsnn.runners.progress import Reporter
    from trustsnn.training import TrainConfig

    asked = 8.0 if eps is None and sigma is None else eps
    privacy = PrivacyConfig(eps=asked, sigma=sigma, delta=delta, clip=clip, accountant=accountant, seeded=seed_noise)
    config = TrainConfig(**options.training_settings(locals()), seed=seed)
    given = {"norm": norm, "learn": learn, "channels": channels, "seed": seed}
    network, sets = _network(model, data, data_root, download, steps, encoder, given)
    out = out or options.folder("dp", model, data)
    check_out(out, {"recipe": "dp", "samples": len(sets["train"]), "config": asdict(config)})
    begun = time.perf_counter()
    with Reporter(quiet) as reporter:
        _, guarantee = train_private(
            network, sets["train"], config, privacy, test=sets["test"], folder=out / "training",
            on_step=lambda epoch, step, total: reporter.bar(f"epoch {epoch + 1}/{epochs}", step, total),
            on_epoch=lambda row: reporter.line(
                f"[{row['epoch']}/{epochs}] eps {row['eps']:.3f}  test accuracy {row['test_accuracy']:.4f}"
            ),
        )  # fmt: skip
    told = {
        "recipe": "dp",
        "samples": len(sets["train"]),  # no hash of the data: whoever has a guess could test it
        "epochs": epochs,
        "privacy": guarantee.to_dict(),
        "config": asdict(config),
    }
    trustsnn.save(network, out, training=told)
    options.conclude(network, sets["test"], out, seed, begun)
    typer.echo(
        f"eps {guarantee.eps:.4f} at delta {guarantee.delta:g} ({guarantee.accountant} accountant; sigma {guarantee.sigma:.4f}, clip "
        f"{guarantee.clip:g}, q {guarantee.rate:.4f}, {guarantee.steps} steps).{_SAID[guarantee.randomness]}"
    )


def _network(
    name: str, data: str, root: Path | None, download: bool, steps: int | None, encoder: str | None, given: dict[str, Any]
) -> tuple[SpikingNetwork, dict[str, Dataset]]:
    """The network with fresh weights, and the data sets."""
    from trustsnn.errors import ConfigError
    from trustsnn.models import build
    from trustsnn.models.onestep import ONE_STEP, build_onestep

    steps = steps if steps is not None else 1 if name in ONE_STEP else 4
    sets = splits(data, root, download, steps)
    first = sets["train"]
    shared = {"input_shape": first.sample_shape, "classes": len(first.classes), "steps": steps, **given}
    if name not in ONE_STEP:
        return build(name, domain=first.domain, max_count=first.max_count, encoder=encoder, **shared), sets
    if encoder not in (None, "direct"):
        raise ConfigError(f"The model {name!r} takes images as they are (--encoder direct), got the encoder {encoder!r}.")
    return build_onestep(name, **shared), sets
