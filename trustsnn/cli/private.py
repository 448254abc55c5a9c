"""`trustsnn convert --method private`: a spiking network from an ANN alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from trustsnn.cli import train as options
from trustsnn.errors import ConfigError

_DATA = ("data", "data_root", "download")  # no data set is read
OPTIONS = ("pixel_rate", "encoder", "scale", "epochs", "batch_size", "learning_rate", "temperature", "weight", "seed")
_TRAINING = ("batch_size", "learning_rate", "temperature", "weight")


def _check(given: Mapping[str, Any]) -> None:
    """ConfigError for options of `trustsnn convert` that have no meaning here."""
    real = [options.flag(name) for name in _DATA if given[name] not in (None, False)]
    if real:
        raise ConfigError(
            f"The private conversion makes its images from the ANN and reads no data set, got {', '.join(real)}. Leave it out."
        )
    if given["double"]:
        raise ConfigError("The private conversion does not take --double: nothing is compared. Leave it out.")
    idle = [name for name in _TRAINING if given[name] is not None]
    if given["epochs"] == 0 and idle:
        flags = ", ".join(map(options.flag, idle))
        raise ConfigError(f"--epochs 0 leaves the training out, and {flags} with it. Leave out one or the other.")
    if given["key"] is not None:
        raise ConfigError(
            "The private conversion keeps images and the state of its training in the clear, and so takes a plain ANN: see `trustsnn unseal`."
        )
    if given["steps"] is None:
        raise ConfigError("The private conversion needs --steps, the number of time steps T.")


def convert_privately(given: Mapping[str, Any]) -> None:
    """Convert with the arguments of `trustsnn convert`, and say how well the network agrees with the ANN on the synthetic images."""
    _check(given)
    options.prepare(given["threads"])
    from dataclasses import asdict

    import trustsnn
    from trustsnn.checkpoint import check_out, load_network, model_hash
    from trustsnn.defenses.private import PrivateConversion, Synthesis, convert_privately
    from trustsnn.defenses.private.conversion import IMAGES, Told, agreement
    from trustsnn.runners.progress import Reporter
    from trustsnn.training import TrainConfig

    def told(**names: str) -> dict[str, Any]:
        return {setting: given[name] for setting, name in names.items() if given[name] is not None}

    out: Path = given["out"]
    training = None
    if given["epochs"] != 0:
        named = told(epochs="epochs", batch_size="batch_size", learning_rate="learning_rate", seed="seed")
        training = TrainConfig(**{"epochs": 10, "learning_rate": 1e-3, **named})
    how = PrivateConversion(
        given["steps"],
        Synthesis(**told(samples="samples", iterations="iterations", learning_rate="pixel_rate", seed="seed")),
        1024 if given["calibration"] is None else given["calibration"],
        training=training,
        **told(encoder="encoder", scale="scale", temperature="temperature", weight="weight"),
    )
    ann = load_network(given["model"])
    quiet, epochs = given["quiet"], training.epochs if training else 0
    settings = {name: value for name, value in asdict(how).items() if name != "steps"}
    said = {"recipe": "convert", "method": "private", "ann": model_hash(ann), **settings}
    check_out(out, said)
    with Reporter(quiet) as reporter:
        network, made = convert_privately(
            ann, how, out,
            Told(
                lambda done, total: reporter.bar("synthetic images", done, total),
                lambda done, total: reporter.line(f"[{done}/{total}] synthetic images"),
                lambda p: reporter.bar(f"epoch {p.epoch + 1}/{epochs}  loss {p.loss:.4f}", p.step, p.steps),
                lambda row: reporter.line(f"[{row['epoch']}/{epochs}] loss {row['loss']:.4f}"),
            ),
        )  # fmt: skip
    trustsnn.save(network, out, training=said)
    same = agreement(network, ann, made)
    typer.echo(
        f"{out}: the ANN's class for {same['value']:.2%} of {same['count']} synthetic images "
        f"(95 % interval {same['low']:.2%} to {same['high']:.2%}), {'which it was trained on' if training else 'untrained'}. "
        "No data set was read, so its accuracy is not known."
    )
    typer.echo(f"{out / IMAGES} shows what the ANN takes for its classes: keep it to yourself, or delete it.")
