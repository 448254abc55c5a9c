"""`trustsnn leakage`: what models give away, one sub-command an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli import train as options

leakage_app = typer.Typer(
    help="Measure what models give away. One sub-command an attack.", no_args_is_help=True, rich_markup_mode=None
)


@leakage_app.callback()
def _attacks() -> None:
    pass


@leakage_app.command("class")
def class_(
    models: Annotated[list[Path], typer.Argument(help="Checkpoint folders; the report sets them side by side.")],
    data: Annotated[str, typer.Option("--data", help="Real samples for the judge: a data-set name, a folder, or an .npz.")],
    judge: Annotated[
        Path, typer.Option("--judge", help="Checkpoint folder of an independent classifier: another architecture and seed.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for leakage.json, leakage.html and images.npz.")],
    images: Annotated[int, typer.Option(help="A class and attack.")] = 10,
    iterations: Annotated[int, typer.Option(help="Of gradient ascent.")] = 100,
    step: Annotated[float, typer.Option(help="The largest change of a pixel in an iteration.")] = 0.05,
    blur_every: Annotated[int, typer.Option(help="Iterations from one blur to the next; 0 never blurs.")] = 10,
    sigma: Annotated[float, typer.Option(help="Of the Gaussian blur, in pixels.")] = 0.5,
    eot: Annotated[int, typer.Option(help="Draws that a gradient of a stochastic model is averaged over.")] = 1,
    estimator: Annotated[
        str | None,
        typer.Option(help="How the spikes are differentiated; by default as the model does. See `trustsnn list estimators`."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples for the judge; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of starts and draws.")] = 0,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Class leakage: images of the classes by gradient ascent on the weights, scored by an independent classifier."""
    options.prepare(threads)
    from trustsnn.attacks.estimators import estimator as find_estimator
    from trustsnn.attacks.leakage import ClassRepresentation
    from trustsnn.checkpoint import load_network
    from trustsnn.data import load
    from trustsnn.errors import ConfigError
    from trustsnn.runners.leakage import class_leakage

    names = [str(each) for each in models]
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected each model once, got {', '.join(names)}.")
    found = find_estimator(estimator) if estimator else None
    attacks = [
        ClassRepresentation(
            through=through, iterations=iterations, step=step, blur_every=blur_every, sigma=sigma, eot=eot, seed=seed,
            estimator=found if through == "snn" else None,
        )
        for through in ("ann", "snn")
    ]  # fmt: skip
    test = load(data, "test", root=data_root, download=download)
    class_leakage(
        {name: load_network(Path(name)) for name in names}, load_network(judge), test if samples is None else test.take(samples),
        out, attacks, images=images, seed=seed, told=None if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    typer.echo(str(out / "leakage.html"))
