"""`trustsnn convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from trustsnn.cli.train import splits


def convert(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder; see `trustsnn train qcfs` and `trustsnn train ann`.")],
    data: Annotated[str, typer.Option("--data", help="Where the two are compared: a data-set name, a folder, or an .npz.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder of the spiking network.")],
    method: Annotated[
        str, typer.Option(help="bit-serial, rate, shift or folded; of a ReLU network balance, calibrate or calibrate-advanced.")
    ] = "bit-serial",
    steps: Annotated[int | None, typer.Option(help="Time steps T; bit-serial has log2(L + 1).")] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples of the comparison; all by default.")] = None,
    double: Annotated[bool, typer.Option("--double", help="Compare both in float64, where no sum is rounded.")] = False,
    calibration: Annotated[int, typer.Option(help="Training samples that a ReLU network is converted by.")] = 1024,
    percentile: Annotated[float, typer.Option(help="balance: V of a layer among its activations; 100 is the largest.")] = 100.0,
    initial: Annotated[float, typer.Option(help="ReLU: V0 as a fraction of V, such as 0.5.")] = 0.0,
    iterations: Annotated[int, typer.Option(help="calibrate-advanced: of Adam, a layer; 5000 are published.")] = 500,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Where data files lie; else TRUSTSNN_DATA.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a missing data set, with its checksum.")] = False,
) -> None:
    """Turn a trained ANN into a spiking network, and say layer by layer where the two differ on the test samples."""
    from trustsnn.process import keep_freed_memory, sleep_while_waiting

    keep_freed_memory()
    sleep_while_waiting()
    import copy

    import trustsnn
    from trustsnn.checkpoint import load_network, model_hash
    from trustsnn.conversion import CALIBRATIONS, Calibration, compare, table
    from trustsnn.conversion import convert as convert_network
    from trustsnn.data import load
    from trustsnn.runners.environment import set_threads
    from trustsnn.runners.resolve import fit

    set_threads(threads)
    ann = load_network(model)
    if method in CALIBRATIONS:
        sets = splits(data, data_root, download)
        test = sets["test"]
        given = Calibration(sets["train"].take(calibration), percentile, initial=initial, iterations=iterations)
    else:
        test, given = load(data, "test", root=data_root, download=download), None
    fit(ann, test)
    converted = convert_network(ann, method, steps=steps, calibration=given)
    test = test if samples is None else test.take(samples)
    trustsnn.save(converted, out, training={"recipe": "convert", "method": method, "ann": model_hash(ann)})
    if double:
        ann = copy.deepcopy(ann).double()
        converted = convert_network(ann, method, steps=steps, calibration=given)
    found = compare(ann, converted, test)
    shown = Table(title=f"{method}, T = {converted.spec.steps}, against its ANN", title_justify="left", box=None)
    for place, column in enumerate(table.COLUMNS):
        shown.add_column(column, justify="right" if place else "left")
    for row in table.rows(found):
        shown.add_row(*row)
    Console(highlight=False).print(shown)
    levels = "" if given is None else "nearest spike count to the "
    typer.echo(
        f"Activations that differ from the {levels}ANN's, in the network and in each layer alone, given the ANN's input to it."
    )
    for line in table.sentences(found):
        typer.echo(line)
    typer.echo(str(out))
