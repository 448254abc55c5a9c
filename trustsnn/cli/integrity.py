"""`trustsnn integrity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key


@takes_key
def integrity(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for integrity.json and integrity.html.")],
    samples: Annotated[int, typer.Option(help="Test samples that every figure is of; 0 for all.")] = 200,
    known: Annotated[int, typer.Option(help="Training samples that the search of bits may read.")] = 128,
    flips: Annotated[int, typer.Option(help="Bits that the search flips at most; 0 searches none.")] = 50,
    bits: Annotated[int, typer.Option(help="Of a weight.")] = 8,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="Whose gradients propose bits; repeat it. By default the model's own and a wider surrogate's."),
    ] = None,
    twin: Annotated[bool, typer.Option("--twin/--no-twin", help="Search the ANN with the same weights, too.")] = True,
    faults: Annotated[
        str, typer.Option(help="Kinds with commas; neuron, synapse or both stand for all of theirs, none for none.")
    ] = "neuron,synapse",
    counts: Annotated[
        str, typer.Option(help="Numbers of faults with commas; 1% stands for that share of the neurons or synapses.")
    ] = "0,0.1%,0.3%,1%,3%,10%,30%,100%",
    per_layer: Annotated[str, typer.Option(help="Faults in one layer at a time, such as 16 or 10%; 0 leaves that out.")] = "10%",
    seeds: Annotated[int, typer.Option(help="Draws of random faults and flips.")] = 5,
    tampering: Annotated[bool, typer.Option("--tampering/--no-tampering", help="Scale thresholds and leaks of layers.")] = True,
    fail_under: Annotated[
        int | None, typer.Option("--fail-under-flips", help="Exit with 1 if fewer flips make the model guess.")
    ] = None,
    seed: options.SeedOption = 0,
    weights: options.WeightsOption = None,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Flip bits of the weights by a search, break neurons and synapses, tamper with parameters, and report what accuracy is left."""
    options.prepare(threads)
    from trustsnn.attacks.estimators import estimator as find_estimator
    from trustsnn.attacks.integrity import BitFlipSearch
    from trustsnn.errors import ConfigError
    from trustsnn.reports.integrity import lines
    from trustsnn.runners.integrity import Plan, amounts, kinds
    from trustsnn.runners.integrity import integrity as run_integrity
    from trustsnn.runners.resolve import resolve_data, resolve_model

    in_one = amounts(per_layer)
    if len(in_one) != 1:
        raise ConfigError(f"Expected one number of faults as --per-layer, such as 16 or 10%, got {per_layer!r}.")
    estimators = tuple(find_estimator(name) for name in estimator) if estimator else None
    plan = Plan(
        search=BitFlipSearch(limit=flips, bits=bits, estimators=estimators, seed=seed) if flips else None, twin=twin,
        faults=kinds([each.strip() for each in faults.split(",")]), counts=amounts(counts), per_layer=in_one[0], seeds=seeds,
        tampering=tampering, fail_under=fail_under,
    )  # fmt: skip
    found: Any = resolve_model(opened(model, key, weights), weights)
    sets = [resolve_data(data, found.spec, split=split, root=data_root, download=download) for split in ("train", "test")]
    done = run_integrity(
        found, sets[0].take(known, seed), sets[1].take(samples, seed) if samples else sets[1], out, plan, seed=seed,
        told=(lambda line: None) if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)
