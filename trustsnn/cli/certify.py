"""`trustsnn certify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.seal import KeyOption, opened, takes_key
from trustsnn.errors import ConfigError

if TYPE_CHECKING:
    from trustsnn.data import Dataset
    from trustsnn.defenses.certify.method import Method

SETTINGS = {
    "smoothing": ("sigma", "draws", "selection", "alpha", "seed"),
    "rate": ("draws", "selection", "alpha", "seed"),
    "ibp": ("largest", "rounds", "refine"),
    "crown": ("largest", "rounds", "refine"),
}


@takes_key
def certify(
    model: Annotated[
        str | None, typer.Argument(help="A checkpoint folder, or package.module:callable. Not needed with --check FILE alone.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A data-set name, a folder, an .npz, or package.module:callable.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="smoothing (L2), rate (L1, Poisson-coded networks), ibp or crown (L-inf, mlp, conv, vgg). [default: crown]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of certificates.json, certificates.csv and certified.svg.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Check a certificates.json instead. With MODEL and --data draws and bounds are done again."),
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="smoothing: standard deviation of the noise. [default: 0.25]")] = None,
    draws: Annotated[int | None, typer.Option(help="smoothing, rate: of the estimate, a sample. [default: 1000]")] = None,
    selection: Annotated[int | None, typer.Option(help="smoothing, rate: draws that choose the class. [default: 100]")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="smoothing, rate: chance that a sample's certificate is wrong. [default: 0.001]")
    ] = None,
    largest: Annotated[
        str | None, typer.Option(help="ibp, crown: where the bisection begins, such as 8/255. [default: 0.1]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="ibp, crown: of bisection; 0 asks at --largest alone. [default: 6]")] = None,
    refine: Annotated[
        int | None, typer.Option(help="crown: linear bounds on the membranes of layers up to so many neurons. [default: 512]")
    ] = None,
    radii: Annotated[str | None, typer.Option(help="Where the curve is read, with commas; nine places by default.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Test samples, drawn by the seed; 0 for all. With --check the first of the file. [default: 100]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample choice and of every draw.")] = 0,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    weights: options.WeightsOption = None,
    key: KeyOption = None,
    threads: options.ThreadsOption = None,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Radii around test samples within which no input changes the class, as a file that can be checked again; or such a check."""
    settings = {
        "sigma": sigma, "draws": draws, "selection": selection, "alpha": alpha, "largest": largest, "rounds": rounds, "refine": refine,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    if check is not None:
        stray = [name for name, value in {**given, "method": method, "out": out, "radii": radii}.items() if value is not None]
        if stray:
            raise ConfigError(f"--check takes its settings from the file. Leave out --{stray[0]}.")
        if (model is None) != (data is None):
            raise ConfigError("MODEL and --data go together: with both, --check repeats what the file cannot decide alone.")
    elif model is None or data is None or out is None:
        raise ConfigError("Expected MODEL, --data and --out, or --check FILE.")

    def sources() -> tuple[Any, Dataset]:
        options.prepare(threads)
        from trustsnn.runners.resolve import fit, resolve_data, resolve_model

        found: Any = resolve_model(opened(str(model), key, weights), weights)
        taken = resolve_data(data, found.spec, split=split, root=data_root, download=download)
        fit(found, taken)
        return found, taken

    if check is not None:
        _check(check, sources if model is not None else None, samples)
        return
    chosen = method_of(method or "crown", given, seed)
    at = None if radii is None else [options.eps_of("radii", each) for each in radii.split(",")]
    _certify(chosen, sources, 100 if samples is None else samples, seed, at, Path(str(out)), quiet)


def method_of(name: str, given: dict[str, Any], seed: int) -> Method:
    """The method of that name with the settings that were given; ConfigError for one that it does not have."""
    if name not in SETTINGS:
        raise ConfigError(f"Unknown method {name!r}. Known: {', '.join(SETTINGS)}.")
    stray = [setting for setting in given if setting not in SETTINGS[name]]
    if stray:
        raise ConfigError(f"The method {name!r} has no --{stray[0]}. It has: {', '.join(SETTINGS[name])}.")
    if "largest" in given:
        given = {**given, "largest": options.eps_of("largest", given["largest"])}
    from trustsnn.defenses.certify import Rate, Smoothing, Verified

    if name in ("smoothing", "rate"):
        return (Smoothing if name == "smoothing" else Rate)(**given, seed=seed)
    return Verified(method=name, **given)


def _certify(chosen: Method, sources: Any, samples: int, seed: int, radii: list[float] | None, out: Path, quiet: bool) -> None:
    from trustsnn.defenses.certify import certify as certify_data
    from trustsnn.defenses.certify import write
    from trustsnn.reports.wording import interval, norm_text, percent

    found, taken = sources()
    taken = taken.take(samples, seed) if samples else taken
    begun, done = time.perf_counter(), 0

    def say(entry: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if not quiet and (done % 10 == 0 or done == len(taken)):
            typer.echo(f"{done} of {len(taken)} samples, {time.perf_counter() - begun:.0f} s", err=True)

    content = certify_data(found, taken, chosen, radii=radii, on_sample=say)
    path = write(content, out)
    count = content["correct"]["count"]
    typer.echo(
        f"correct: {percent(content['correct']['value'], count)} of {count} (95 % interval {interval(content['correct'])})"
    )
    for point in content["curve"]:
        typer.echo(
            f"certified within {norm_text(content['norm'])} {point['radius']:.4g}: {percent(point['value'], count)} "
            f"({point['successes']} of {count}; 95 % interval {interval(point)})"
        )
    typer.echo(str(path))


def _check(path: Path, sources: Any, samples: int | None) -> None:
    from trustsnn.defenses.certify.checker import check, read

    content = read(path)
    count = check(content, str(path))
    typer.echo(f"{path}: the evidence carries the radii of {count} of {len(content['samples'])} samples.")
    if sources is None:
        open_ = "votes are" if content["norm"] != "linf" else "bounds are"
        typer.echo(f"The {open_} taken as the file states them; with MODEL and --data they are done again.")
        return
    from trustsnn.defenses.certify import check_again

    found, taken = sources()
    again = check_again(content, found, taken, samples=samples or None, where=str(path))
    typer.echo(f"{again} samples were done again with the model and came out the same.")
