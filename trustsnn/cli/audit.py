"""`trustsnn audit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key


@takes_key
def audit(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or package.module:callable of your own.")],
    data: Annotated[str, typer.Option("--data", help="A data-set name, a folder, an .npz, or package.module:callable.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder. The same command on it resumes.")],
    profile: Annotated[
        str | None, typer.Option(help="quick, standard or full; see `trustsnn list profiles`. [default: quick]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with the keys of the audit; options override it.")] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="Radii, with commas: 0.1,0.2 or 2/255,8/255; for events budgets. [default: 2/255,4/255,8/255; 10,30,100]"
        ),
    ] = None,
    norms: Annotated[
        str | None, typer.Option("--norm", help="Such as linf,l2; for events events,moves. [default: linf; events,moves]")
    ] = None,
    attacks: Annotated[str | None, typer.Option(help="Attacks with commas instead of the profile's, or none.")] = None,
    corruptions: Annotated[
        str | None, typer.Option(help="Natural corruptions with commas, or all; see `trustsnn list corruptions`.")
    ] = None,
    severities: Annotated[
        str | None, typer.Option(help="Of the corruptions, from 1 to 5, with commas. [default: 1,2,3,4,5]")
    ] = None,
    ood: Annotated[
        str | None, typer.Option(help="What else to tell from the samples, with commas: noise, shuffled, data sets.")
    ] = None,
    twins: Annotated[
        str | None,
        typer.Option("--twin", help="Hardware to run on, with commas, such as pcm@1month,loihi; see `trustsnn list twins`."),
    ] = None,
    chips: Annotated[int | None, typer.Option(help="Specimens of each kind of chip. [default: 20]")] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples, drawn by the seed; 0 for all. [default: 1000]")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="'clean_accuracy >= 0.95', 'robust_accuracy[linf,8/255] >= 0.3'. Repeat it."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample choice and of every draw. [default: 0]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples at a time. No figure depends on it. [default: 256]")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of a bundled model's activations, such as 2GB; batches are cut to fit. Changes no figure.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    weights: Annotated[Path | None, typer.Option(help="A safetensors file for package.module:callable.")] = None,
    key: KeyOption = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Where data files lie; else TRUSTSNN_DATA.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set, with its checksum. Off by default.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Attack a model, write RUN/report.html and its other views, and return the verdict as the exit code."""
    from trustsnn.runners.config import make_config, read_config

    settings: dict[str, Any] = read_config(config) if config is not None else {}
    given = {
        "profile": profile,
        "eps": listed(eps),
        "norms": listed(norms),
        "attacks": _attacks(attacks),
        "corruptions": listed(corruptions),
        "severities": listed(severities),
        "ood": listed(ood),
        "twins": listed(twins),
        "chips": chips,
        "gates": gate,
        "seed": seed,
        "batch_size": batch_size,
        "memory": memory,
    }
    if profile is not None:
        settings.pop("attacks", None)  # of the file: the profile's take their place
    settings.update({key: value for key, value in given.items() if value is not None})
    if samples is not None:
        settings["samples"] = samples or None
    make_config(settings, str(config) if config is not None else "the options")

    options.prepare(threads)
    from trustsnn.runners.audit import audit as run_audit

    run = run_audit(
        opened(model, key, weights), data, out=out, weights=weights, split=split, data_root=data_root, download=download, quiet=quiet,
        command=_command(model, data, split, config, given, samples, weights, sealed=key is not None), **settings,
    )  # fmt: skip
    typer.echo(f"{run.verdict}: {run.summary['sentence']}")
    typer.echo(str(run.report))
    raise typer.Exit(run.exit_code)


def listed(text: str | None) -> list[str] | None:
    """What an option has with commas; None where it was not given."""
    return None if text is None else [each.strip() for each in text.split(",")]


def _attacks(text: str | None) -> list[dict[str, str]] | None:
    if text is None:
        return None
    return [] if text == "none" else [{"attack": name.strip()} for name in text.split(",")]


def _command(
    model: str, data: str, split: str, config: Path | None, given: dict[str, Any], samples: int | None, weights: Path | None,
    sealed: bool,
) -> str:  # fmt: skip
    """The command that makes this run again; where it writes and where a key lies are left to whoever repeats it."""
    words = ["trustsnn", "audit", model, "--data", data]
    if split != "test":
        words += ["--split", split]
    if config is not None:
        words += ["--config", str(config)]
    same = ("profile", "eps", "corruptions", "severities", "ood", "chips", "seed")
    named = {"--norm": "norms", "--twin": "twins", **{f"--{key}": key for key in same}}
    for option, key in named.items():
        value = given[key]
        if value is not None:
            words += [option, ",".join(value) if isinstance(value, list) else str(value)]
    if given["attacks"] is not None:
        words += ["--attacks", ",".join(item["attack"] for item in given["attacks"]) or "none"]
    if samples is not None:
        words += ["--samples", str(samples)]
    for text in given["gates"] or []:
        words += ["--gate", text]
    if weights is not None:
        words += ["--weights", str(weights)]
    if sealed:
        words += ["--key-file", "KEY"]
    return shlex.join([*words, "--out", "RUN"])
