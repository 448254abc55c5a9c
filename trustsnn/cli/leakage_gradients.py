"""`trustsnn leakage gradients`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, takes_key


@takes_key
def gradients(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder: the model that the clients begin their step from.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for gradients.json, gradients.html and images.npz.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Samples of simulated clients: a data-set name, a folder, or an .npz.")
    ] = None,
    update: Annotated[
        Path | None, typer.Option("--update", help="A saved update, a safetensors file, in place of --data.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Of the data's test split.")] = 8,
    batch: Annotated[int, typer.Option(help="Samples of an update.")] = 1,
    attack: Annotated[str, typer.Option(help="Of analytic, dlg, idlg and inverting, with commas.")] = "analytic,idlg,inverting",
    defence: Annotated[
        str,
        typer.Option(
            help="With commas, each tried by itself, parts of one joined by +: none, clip=NORM, noise=DEVIATION, topk=SHARE, bits=N, "
            "poisson or poisson=STEPS."
        ),
    ] = "none,clip=1,noise=0.01,topk=0.1,bits=8,poisson",
    iterations: Annotated[int, typer.Option(help="Of a search.")] = 300,
    restarts: Annotated[int, typer.Option(help="Of a search, from other noise.")] = 1,
    step: Annotated[float, typer.Option(help="Of 'inverting', in pixel values.")] = 0.1,
    tv: Annotated[float, typer.Option(help="Weight of the total variation of 'inverting'.")] = 0.2,
    surrogate: Annotated[
        str | None, typer.Option(help="Of a search: sigmoid, atan, triangular, ..., by default each layer's own.")
    ] = None,
    width: options.WidthOption = 1.0,
    statistics: Annotated[str, typer.Option(help="Of the clients' batch normalisation: frozen or batch.")] = "frozen",
    threshold: Annotated[float, typer.Option(help="PSNR from which an image counts as recovered, dB.")] = 20.0,
    keep: Annotated[bool, typer.Option("--keep-updates", help="Write the undefended updates into OUT/updates.")] = False,
    seed: Annotated[int, typer.Option(help="Of samples, noise and draws.")] = 0,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Gradient inversion: images from the gradients that clients of federated training send, against defences."""
    options.prepare(threads)
    from trustsnn.attacks.leakage.gradient_inversion import GradientInversion
    from trustsnn.attacks.leakage.update_defences import Defence
    from trustsnn.checkpoint import load_network
    from trustsnn.data import load
    from trustsnn.errors import ConfigError
    from trustsnn.neurons import Surrogate
    from trustsnn.reports.gradients import sentences
    from trustsnn.runners.gradients import Plan, gradient_leakage, saved_update

    if (data is None) == (update is None):
        raise ConfigError("Expected either --data D, for simulated clients, or --update FILE, for one that was saved.")
    plan = Plan(
        attacks=tuple(each.strip() for each in attack.split(",")),
        defences=tuple(Defence.parse(each) for each in defence.split(",")) if update is None else (),
        search=GradientInversion(
            iterations=iterations, restarts=restarts, step=step, tv=tv, statistics=statistics, seed=seed,
            surrogate=None if surrogate is None else Surrogate(surrogate, width),
        ),
        batch=batch, threshold=threshold, keep=keep,
    )  # fmt: skip
    told = (lambda line: None) if quiet else lambda line: typer.echo(line, err=True)
    network = load_network(model, key=key)
    if update is not None:
        done = saved_update(network, update, out, plan, seed=seed, told=told)
    else:
        test = load(str(data), "test", root=data_root, download=download)
        done = gradient_leakage(network, test.take(samples, seed), out, plan, seed=seed, told=told)
    for line in sentences(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
