"""`trustsnn leakage`: what models give away, one sub-command an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli import train as options
from trustsnn.cli.leakage_extract import extract
from trustsnn.cli.leakage_gradients import gradients
from trustsnn.cli.leakage_inference import attribute, property_
from trustsnn.cli.leakage_membership import compare, membership
from trustsnn.cli.leakage_report import report
from trustsnn.cli.seal import KeyOption, takes_key

leakage_app = typer.Typer(
    help="Measure what models give away. One sub-command an attack, and `report` joins their runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


leakage_app.command("membership")(membership)
leakage_app.command("compare")(compare)
leakage_app.command("attribute")(attribute)
leakage_app.command("property")(property_)
leakage_app.command("extract")(extract)
leakage_app.command("gradients")(gradients)
leakage_app.command("report")(report)


@leakage_app.command("class")
@takes_key
def class_(
    models: Annotated[list[Path], typer.Argument(help="Checkpoint folders; the report sets them side by side.")],
    data: Annotated[str, typer.Option("--data", help="Real samples for the judge: a data-set name, a folder, or an .npz.")],
    judge: Annotated[
        Path, typer.Option("--judge", help="Checkpoint folder of an independent classifier: another architecture and seed.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for leakage.json, leakage.html and images.npz.")],
    ways: Annotated[
        str, typer.Option("--attacks", help="With commas: ann, snn, and of spike trains brainleaks-v1 and brainleaks-v2.")
    ] = "ann,snn",
    images: Annotated[int, typer.Option(help="A class and attack.")] = 10,
    iterations: Annotated[int, typer.Option(help="Of gradient ascent through ann and snn.")] = 100,
    step: Annotated[float, typer.Option(help="There the largest change of a pixel in an iteration.")] = 0.05,
    blur_every: Annotated[int, typer.Option(help="There iterations from one blur to the next; 0 never blurs.")] = 10,
    sigma: Annotated[float, typer.Option(help="Of that Gaussian blur, in pixels.")] = 0.5,
    eot: Annotated[int, typer.Option(help="Draws that a gradient of a stochastic model is averaged over.")] = 1,
    estimator: Annotated[
        str | None,
        typer.Option(help="How the spikes are differentiated; by default as the model does. See `trustsnn list estimators`."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples for the judge; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of starts and draws.")] = 0,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Class leakage: images of the classes by gradient ascent on the weights, scored by an independent classifier."""
    options.prepare(threads)
    from trustsnn.attacks.estimators import estimator as find_estimator
    from trustsnn.attacks.leakage import ClassAttack, ClassRepresentation
    from trustsnn.attacks.leakage.brainleaks import BRAINLEAKS
    from trustsnn.checkpoint import load_network
    from trustsnn.data import load
    from trustsnn.errors import ConfigError
    from trustsnn.runners.leakage import class_leakage
    from trustsnn.sealed import is_sealed

    names = [str(each) for each in models]
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected each model once, got {', '.join(names)}.")
    if key is not None and not any(map(is_sealed, (*models, judge))):
        raise ConfigError(f"Expected a sealed model for that key, got {', '.join(names)}. Leave the key out.")
    found = find_estimator(estimator) if estimator else None
    attacks: list[ClassAttack] = []
    for way in (each.strip() for each in ways.split(",")):
        through = found if way != "ann" else None
        if way in BRAINLEAKS:
            attacks.append(BRAINLEAKS[way](estimator=through, seed=seed))
        else:
            attacks.append(
                ClassRepresentation(
                    through=way, iterations=iterations, step=step, blur_every=blur_every, sigma=sigma, eot=eot, seed=seed,
                    estimator=through,
                )
            )  # fmt: skip
    test = load(data, "test", root=data_root, download=download)
    *loaded, by = (load_network(folder, key=key if is_sealed(folder) else None) for folder in (*models, judge))
    class_leakage(
        dict(zip(names, loaded, strict=True)), by, test if samples is None else test.take(samples),
        out, attacks, images=images, seed=seed, told=None if quiet else lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    typer.echo(str(out / "leakage.html"))
