"""`trustsnn energy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key


@takes_key
def energy(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable.")],
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for energy.json and energy.html.")],
    samples: Annotated[int, typer.Option(help="Test samples, drawn by the seed; 0 for all.")] = 200,
    attack: Annotated[bool, typer.Option("--attack", help="Also search inputs that raise energy and latency.")] = False,
    eps: Annotated[str, typer.Option(help="Radius of these, such as 8/255.")] = "8/255",
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 20,
    estimator: Annotated[
        str | None, typer.Option(help="How they differentiate spikes; by default as the model does. See `list estimators`.")
    ] = None,
    keep_label: Annotated[bool, typer.Option("--keep-label", help="Only inputs that leave the prediction as it was.")] = False,
    fail_over: Annotated[
        float | None,
        typer.Option("--fail-over-energy-ratio", help="Exit with 1 if an attack raises the energy by more than this factor."),
    ] = None,
    seed: options.SeedOption = 0,
    weights: options.WeightsOption = None,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Count synaptic operations on real data, price them by several conventions, and search inputs that raise them."""
    options.prepare(threads)
    from trustsnn.attacks.estimators import estimator as find_estimator
    from trustsnn.attacks.integrity import Sponge
    from trustsnn.reports.energy import lines
    from trustsnn.runners.energy import energy as run_energy
    from trustsnn.runners.resolve import resolve_data, resolve_model

    found: Any = resolve_model(opened(model, key, weights), weights)
    taken = resolve_data(data, found.spec, root=data_root, download=download)
    settings: dict[str, Any] = {
        "eps": options.eps_of("eps", eps),
        "norm": norm,
        "steps": steps,
        "keep_label": keep_label,
        "seed": seed,
    }
    settings["estimator"] = find_estimator(estimator) if estimator else None
    attacks = [Sponge(aim=aim, **settings) for aim in ("energy", "latency")] if attack or fail_over is not None else []
    done = run_energy(
        found, taken.take(samples, seed) if samples else taken, out, attacks, fail_over=fail_over, seed=seed,
        told=(lambda line: None) if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)
