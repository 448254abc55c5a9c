"""The command line. Torch is imported by the commands that need it, never by --help or list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import trustsnn
from trustsnn.cli.audit import audit
from trustsnn.cli.train import train_app
from trustsnn.errors import ConfigError, TrustSNNError

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
app.add_typer(train_app, name="train")
app.command()(audit)

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

    if gate:
        _regate(run, gate)
    paths = reports.write(run, tuple(formats) if formats else tuple(reports.FORMATS))
    for path in paths.values():
        typer.echo(path)
    summary = reports.summarise(run)
    typer.echo(f"{summary['verdict']}: {summary['sentence']}")
    raise typer.Exit(summary["exit_code"])


def _regate(run: Path, texts: list[str]) -> None:
    """Write other gates into run.json, once they are known to fit the plan."""
    import json

    from trustsnn.files import write_text
    from trustsnn.reports import gates
    from trustsnn.reports.record import read

    record = read(run)
    parsed = [gates.parse(text) for text in texts]
    threats = [cell["threat"] for cell in record.plan.values() if cell["threat"]["norm"] is not None]
    gates.check_planned(parsed, [(threat["norm"], threat["eps"]) for threat in threats])
    head = {**record.head, "gates": [each.text for each in parsed]}
    write_text(run / "run.json", json.dumps(head, indent=1, sort_keys=True, allow_nan=False) + "\n")


@app.command("compare")
def compare_command(run_a: RunArgument, run_b: RunArgument) -> None:
    """Set two runs side by side on the samples that they share."""
    from trustsnn.reports.compare import compare_text

    typer.echo(compare_text(run_a, run_b))


def _attacks() -> dict[str, str]:
    from trustsnn.attacks import ATTACKS

    return ATTACKS.describe()


def _models() -> dict[str, str]:
    from trustsnn.models.catalogue import MODELS

    return MODELS


def _datasets() -> dict[str, str]:
    from trustsnn.data import names

    return names()


def _profiles() -> dict[str, str]:
    from trustsnn.runners.profiles import PROFILES

    return {name: profile.description for name, profile in PROFILES.items()}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "attacks": _attacks,
    "models": _models,
    "datasets": _datasets,
    "profiles": _profiles,
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
def inspect_command(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable.")],
    weights: Annotated[Path | None, typer.Option(help="A safetensors file for package.module:callable.")] = None,
) -> None:
    """Say what a model is: its input, its time steps, its layers and their parameters."""
    from trustsnn.runners.inspect import describe_model

    for line in describe_model(model, weights):
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
    """Run the command line and exit with its code. An expected error is one message on standard error."""
    try:
        app(args=arguments, prog_name="trustsnn")
    except TrustSNNError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished work is kept: run the same command again to go on.", err=True)
        sys.exit(3)
