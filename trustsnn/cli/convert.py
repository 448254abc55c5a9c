"""`trustsnn convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def convert(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder with QCFS activations; see `trustsnn train qcfs`.")],
    data: Annotated[str, typer.Option("--data", help="Where the two are compared: a data-set name, a folder, or an .npz.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder of the spiking network.")],
    method: Annotated[str, typer.Option(help="bit-serial, rate, shift or folded.")] = "bit-serial",
    steps: Annotated[int | None, typer.Option(help="Time steps T; bit-serial has log2(L + 1).")] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples of the comparison; all by default.")] = None,
    double: Annotated[bool, typer.Option("--double", help="Compare both in float64, where no sum is rounded.")] = False,
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
    from trustsnn.checkpoint import model_hash
    from trustsnn.conversion import compare, table
    from trustsnn.conversion import convert as convert_network
    from trustsnn.data import load
    from trustsnn.runners.environment import set_threads
    from trustsnn.runners.resolve import fit

    set_threads(threads)
    ann = trustsnn.load(model)
    converted = convert_network(ann, method, steps=steps)
    test = load(data, "test", root=data_root, download=download)
    fit(ann, test)
    test = test if samples is None else test.take(samples)
    trustsnn.save(converted, out, training={"recipe": "convert", "method": method, "ann": model_hash(ann)})
    if double:
        ann = copy.deepcopy(ann).double()
        converted = convert_network(ann, method, steps=steps)
    found = compare(ann, converted, test)
    shown = Table(title=f"{method}, T = {converted.spec.steps}, against its ANN", title_justify="left", box=None)
    for place, column in enumerate(table.COLUMNS):
        shown.add_column(column, justify="right" if place else "left")
    for row in table.rows(found):
        shown.add_row(*row)
    Console(highlight=False).print(shown)
    typer.echo("Activations that differ from the ANN's, in the network and in each layer alone, given the ANN's input to it.")
    for line in table.sentences(found):
        typer.echo(line)
    typer.echo(str(out))
