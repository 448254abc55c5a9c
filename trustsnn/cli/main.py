"""The command line. Torch is imported by the commands that need it, never by --help or list."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import click
import typer
import typer.core
from rich.console import Console
from rich.table import Table

import trustsnn
from trustsnn.cli.audit import audit
from trustsnn.cli.backdoor import backdoor_app
from trustsnn.cli.certify import certify
from trustsnn.cli.convert import convert
from trustsnn.cli.dp import dp
from trustsnn.cli.energy import energy
from trustsnn.cli.export import export
from trustsnn.cli.federate import federate_app
from trustsnn.cli.harden import harden
from trustsnn.cli.integrity import integrity
from trustsnn.cli.language import generate, spikegpt
from trustsnn.cli.leakage import leakage_app
from trustsnn.cli.recipes import alpha, compress, onestep, s4nn
from trustsnn.cli.seal import KeyOption, keygen, opened, seal, takes_key, unseal, verify
from trustsnn.cli.train import train_app
from trustsnn.errors import ConfigError, TrustSNNError

typer.core.HAS_RICH = (
    False  # plain help would show the backslash that keeps "[default: 4]" from rich, which it does not go through
)
EXIT_CODES = (
    "Exit codes: 0 pass; 1 a gate failed; 2 usage or configuration; 3 inconclusive: the evaluation cannot be trusted or is "
    "incomplete; 4 unsafe or unreadable artefact."
)
app = typer.Typer(
    name="trustsnn",
    help=f"Attack, harden and report on spiking neural networks before they are deployed.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for recipe in (alpha, compress, dp, onestep, s4nn, spikegpt):
    train_app.command(recipe.__name__)(recipe)
app.add_typer(train_app, name="train")
app.add_typer(leakage_app, name="leakage")
app.add_typer(backdoor_app, name="backdoor")
app.add_typer(federate_app, name="federate")
app.command()(convert)
app.command()(export)
app.command()(certify)
app.command()(generate)
app.command()(audit)
app.command()(harden)
app.command()(energy)
app.command()(integrity)
for command in (keygen, seal, unseal, verify):
    app.command()(command)

RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `trustsnn audit --out` writes it.")]


@app.command("report")
def report_command(
    run: RunArgument,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="html, json, csv, junit or md; repeat it. All by default.")
    ] = None,
    gate: Annotated[list[str] | None, typer.Option("--gate", help="Hold these gates instead of the run's own.")] = None,
) -> None:
    """Write the views of a run again and return its verdict as the exit code."""
    from trustsnn import reports

    gates = tuple(gate) if gate else None
    paths = reports.write(run, tuple(formats) if formats else tuple(reports.FORMATS), gates)
    for path in paths.values():
        typer.echo(path)
    summary = reports.summarise(run, gates)
    typer.echo(f"{summary['verdict']}: {summary['sentence']}")
    raise typer.Exit(summary["exit_code"])


@app.command("compare")
def compare_command(run_a: RunArgument, run_b: RunArgument) -> None:
    """Set two runs side by side on the samples that they share."""
    from trustsnn.reports.compare import compare_text

    typer.echo(compare_text(run_a, run_b))


def _attacks() -> dict[str, str]:
    from trustsnn.attacks import ATTACKS

    return ATTACKS.describe()


def _corruptions() -> dict[str, str]:
    from trustsnn.attacks.corruptions import CORRUPTIONS

    return CORRUPTIONS.describe()


def _estimators() -> dict[str, str]:
    from trustsnn.attacks.estimators import ESTIMATORS

    return ESTIMATORS.describe()


def _models() -> dict[str, str]:
    from trustsnn.models.catalogue import MODELS

    return MODELS


def _datasets() -> dict[str, str]:
    from trustsnn.data import names

    return names()


def _profiles() -> dict[str, str]:
    from trustsnn.runners.profiles import PROFILES

    return {name: profile.description for name, profile in PROFILES.items()}


def _recipes() -> dict[str, str]:
    from trustsnn.defenses.robust.catalogue import RECIPES

    return {name: f"{entry.description} ({entry.paper})" for name, entry in RECIPES.items()}


def _twins() -> dict[str, str]:
    from trustsnn.hardware.catalogue import TWINS

    return {name: f"{entry.description} ({entry.source})" for name, entry in TWINS.items()}


def _triggers() -> dict[str, str]:
    from trustsnn.attacks.integrity.catalogue import TRIGGERS

    return TRIGGERS.describe()


def _strategies() -> dict[str, str]:
    from trustsnn.federated.catalogue import STRATEGIES

    return {name: entry.description for name, entry in STRATEGIES.items()}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "attacks": _attacks,
    "corruptions": _corruptions,
    "estimators": _estimators,
    "models": _models,
    "datasets": _datasets,
    "profiles": _profiles,
    "recipes": _recipes,
    "twins": _twins,
    "triggers": _triggers,
    "strategies": _strategies,
}


@app.command("list")
def list_command(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(CATALOGUES)}. All by default.")] = None,
) -> None:
    """List what there is by name, bundled and from plug-ins."""
    if kind is not None and kind not in CATALOGUES:
        raise ConfigError(f"Expected one of {', '.join(CATALOGUES)}, got {kind!r}.")
    for name in [kind] if kind else CATALOGUES:
        table = Table(title=name, title_justify="left", box=None, show_header=False, title_style="bold")
        table.add_column(no_wrap=True)
        table.add_column()
        for entry, line in CATALOGUES[name]().items():
            table.add_row(f"  {entry}", line)
        Console(highlight=False).print(table)


@app.command("inspect")
@takes_key
def inspect_command(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a NIR file, or package.module:callable.")],
    weights: Annotated[Path | None, typer.Option(help="A safetensors file for package.module:callable.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set: then also the spike rate of each layer.")] = None,
    samples: Annotated[int, typer.Option(help="Samples of the data set.")] = 100,
    key: KeyOption = None,
) -> None:
    """Say what a model is: its input, its time steps, its layers and their parameters, and which of them take more than spikes."""
    from trustsnn import language
    from trustsnn.runners.inspect import describe_model

    found = language.load(model, key=key) if language.is_language_model(model) else opened(model, key, weights)
    for line in describe_model(found, weights, data, samples):
        typer.echo(line)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"trustsnn {trustsnn.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code. An error is one message on standard error, never a traceback, unless
    TRUSTSNN_TRACEBACK is set. An unexpected error exits 3 (incomplete): 1 means a failed gate and nothing else."""
    sys.path.append(str(Path.cwd()))  # package.module:callable of the folder that the user is in
    try:
        code = app(args=arguments, prog_name="trustsnn", standalone_mode=False)
    except TrustSNNError as error:
        _leave(f"error: {error}", error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if os.environ.get("TRUSTSNN_TRACEBACK"):
            raise
        _leave(
            f"unexpected {type(error).__name__}: {error}\nThis is a fault of trustsnn or of the code that it was given. Set "
            "TRUSTSNN_TRACEBACK=1 to see where. Finished work is kept.",
            3,
        )
    if code == _INTERRUPTED:
        _leave("Interrupted. Finished work is kept: run the same command again to go on.", 3)
    sys.exit(code or 0)


_INTERRUPTED = 130  # what typer makes of Ctrl-C


def _leave(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)
