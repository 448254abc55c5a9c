"""`trustsnn export`: a model as a NIR file, or an imported one as a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli.seal import KeyOption, opened, takes_key
from trustsnn.errors import ConfigError


@takes_key
def export(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable that makes a network of layers.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, FILE.nir, or the checkpoint's folder.")],
    dt: Annotated[
        float | None, typer.Option(help="Of nir: the time step in seconds, which the graph's time constants follow from.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="nir, or checkpoint.")] = "nir",
    weights: Annotated[Path | None, typer.Option(help="A safetensors file for package.module:callable.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Of nir: a data set; then the file is read again and held against the model.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples of the data set.")] = 100,
    key: KeyOption = None,
) -> None:
    """Write a model as a NIR file, and say what of it NIR does not say; or a model from a NIR file as a checkpoint, which can be
    hardened and sealed. The checkpoint of a sealed model is sealed with the same key."""
    from trustsnn import checkpoint
    from trustsnn.interop import nir
    from trustsnn.interop.conformance import compare
    from trustsnn.runners.resolve import first_batch, fit, resolve_data, resolve_model

    if format_ not in ("nir", "checkpoint") or (format_ == "nir") != nir.is_nir(str(out)):
        raise ConfigError(
            f"Expected the format nir and a file that ends in .nir, or checkpoint and a folder, got {format_!r} and {out}."
        )
    if (format_ == "nir") != (dt is not None) or (format_ != "nir" and data is not None):
        raise ConfigError("--dt belongs to the format nir, which needs it, and --data to no other.")
    if samples < 1:
        raise ConfigError(f"Expected at least 1 sample, got {samples}.")
    if key is not None and format_ == "nir":
        raise ConfigError("A NIR file holds its weights in the clear: export what `trustsnn unseal` writes.")
    network = resolve_model(opened(model, key, weights), weights)
    if dt is None:
        checkpoint.check_out(out, {})
        typer.echo(str(checkpoint.save(network, out, key=key)))
        return
    found = None
    if data is not None:
        found = resolve_data(data, network.spec).take(samples)  # type: ignore[arg-type]
        fit(network, found)
    for line in nir.write(network, out, dt=dt).warnings:  # type: ignore[arg-type]
        typer.echo(f"warning: {line}", err=True)
    if found is not None:
        import torch

        for line in compare(network, nir.read(out), first_batch(found, samples), torch.tensor(found.labels)).lines():
            typer.echo(line)
    typer.echo(str(out))
