"""`trustsnn convert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trustsnn.cli import private
from trustsnn.cli.seal import KeyOption, takes_key
from trustsnn.cli.train import flag, prepare
from trustsnn.data import splits
from trustsnn.errors import ConfigError

_RELU = ("balance", "calibrate", "calibrate-advanced")
_OWN = {
    **dict.fromkeys(private.OPTIONS, ("private",)),
    "calibration": (*_RELU, "private"),
    "percentile": ("balance",),
    "initial": _RELU,
    "iterations": ("calibrate-advanced", "private"),
}
"""The options that some methods alone have, and which."""

_WIDTH = 160  # of the table, so that no name of a layer and no interval is cut off


@takes_key
def convert(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder; see `trustsnn train qcfs` and `trustsnn train ann`.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder of the spiking network.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Where the two are compared: a data-set name, a folder, or an .npz. Not for private."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="bit-serial, rate, shift or folded; of a ReLU network balance, calibrate, calibrate-advanced or private."
        ),
    ] = "bit-serial",
    steps: Annotated[int | None, typer.Option(help="Time steps T; bit-serial has log2(L + 1).")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Test samples of the comparison, all by default; private: synthetic images, 5000.")
    ] = None,
    double: Annotated[bool, typer.Option("--double", help="Compare both in float64, where no sum is rounded.")] = False,
    calibration: Annotated[
        int | None, typer.Option(help="Samples that a ReLU network is balanced or calibrated by, 1024 by default.")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="balance: V of a layer among its activations; 100, the largest, by default.")
    ] = None,
    initial: Annotated[
        float | None, typer.Option(help="balance, calibrate: V0 as a fraction of V, such as 0.5; 0 by default.")
    ] = None,
    key: KeyOption = None,
    iterations: Annotated[
        int | None, typer.Option(help="Of Adam. calibrate-advanced: a layer, 500 (5000 are published). private: an image, 2500.")
    ] = None,
    pixel_rate: Annotated[float | None, typer.Option(help="private: learning rate of the pixels, 0.001 by default.")] = None,
    encoder: Annotated[str | None, typer.Option(help="private: of the spiking network, poisson by default.")] = None,
    scale: Annotated[float | None, typer.Option(help="private: of the balanced thresholds, 0.5 by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="private: of training through time, 10 by default; 0 leaves it out.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="private: images a step of training, 128 by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="private: of training, 0.001 by default.")] = None,
    temperature: Annotated[float | None, typer.Option(help="private: of the distillation, 4 by default.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="private: of the distillation beside labels, in [0, 1]; 1 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="private: of images, order and draws; 0 by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Where data files lie; else TRUSTSNN_DATA.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a missing data set, with its checksum.")] = False,
) -> None:
    """Turn a trained ANN into a spiking network, and say layer by layer where the two differ on the test samples. The method private
    makes its own images from the ANN and takes no data set. What comes of a sealed ANN is sealed with the same key."""
    _check(locals())
    if method == "private":
        private.convert_privately(locals())
        return
    if data is None:
        raise ConfigError(f"The conversion {method!r} needs --data: where the network and the ANN are compared.")
    prepare(threads)
    import copy

    import trustsnn
    from trustsnn.checkpoint import check_out, load_network, model_hash
    from trustsnn.conversion import CALIBRATIONS, Calibration, compare, table
    from trustsnn.conversion import convert as convert_network
    from trustsnn.data import load
    from trustsnn.runners.resolve import fit

    ann = load_network(model, key=key)
    if method in CALIBRATIONS:
        sets = splits(data, data_root, download)
        test = sets["test"]
        told = {"percentile": percentile, "initial": initial, "iterations": iterations}
        known = {name: value for name, value in told.items() if value is not None}
        given = Calibration(sets["train"].take(1024 if calibration is None else calibration), **known)  # type: ignore[arg-type]
    else:
        test, given = load(data, "test", root=data_root, download=download), None
    fit(ann, test)
    how = {"recipe": "convert", "method": method, "ann": model_hash(ann)}
    check_out(out, how)
    converted = convert_network(ann, method, steps=steps, calibration=given)
    test = test if samples is None else test.take(samples)
    trustsnn.save(converted, out, training=how, key=key)
    if double:
        ann = copy.deepcopy(ann).double()
        converted = convert_network(ann, method, steps=steps, calibration=given)
    found = compare(ann, converted, test)
    shown = Table(title=f"{method}, T = {converted.spec.steps}, against its ANN", title_justify="left", box=None)
    for place, column in enumerate(table.COLUMNS):
        shown.add_column(column, justify="right" if place else "left")
    for row in table.rows(found):
        shown.add_row(*row)
    Console(highlight=False, width=_WIDTH).print(shown)
    levels = "" if given is None else "nearest spike count to the "
    typer.echo(
        f"Activations that differ from the {levels}ANN's, in the network and in each layer alone, given the ANN's input to it."
    )
    for line in table.sentences(found):
        typer.echo(line)
    typer.echo(str(out))


def _check(given: Mapping[str, Any]) -> None:
    """ConfigError for an option that the method does not have."""
    method = given["method"]
    for name, methods in _OWN.items():
        if given[name] is not None and method not in methods:
            raise ConfigError(f"{flag(name)} goes with --method {' or '.join(methods)}, got --method {method}.")
