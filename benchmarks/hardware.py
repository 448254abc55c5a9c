"""A network on all twins of hardware: without an attack, and under attacks made on the network and on a chip.

    python benchmarks/hardware.py
    python benchmarks/hardware.py --data cifar10 --channels 0.5 --samples 100

Each network is audited once (`trustsnn audit --twin ...`) into a run folder under --keep, so that a killed run goes on. `noise` is the
same network trained from the start with noise on its weights (the recipe of `trustsnn harden --with noise`), otherwise as the other.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from harness import begin, options
from model import RECIPES, trained
from outcomes import Outcomes
from report import Report

import trustsnn
from trustsnn.canonical import sha256_of
from trustsnn.checkpoint import model_hash
from trustsnn.data import load
from trustsnn.defenses.robust import parse
from trustsnn.errors import ConfigError
from trustsnn.models import SpikingNetwork, build, rebuild
from trustsnn.runners.chips import Chips
from trustsnn.runners.config import parse_eps
from trustsnn.training import train

EPS = {"mnist": "0.1", "cifar10": "2/255"}
TWINS = (
    *("pcm@25s", "pcm@1day", "pcm@1month", "pcm@1year", "rram:model=wan2022", "rram:model=milo", "rram:model=generic"),
    *("sram:bits=8:ber=0.0001", "sram:bits=8:ber=0.001", "sram:bits=4:ber=0.001", "stuck-at", "mismatch", "adc", "ir-drop"),
    *("in-sensor", "sensor-noise", "spike-loss", "jitter", "loihi", "spinnaker", "speck", "xylo"),
)


def main() -> None:
    """A table for each network."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    title = f"Twins of hardware: {RECIPES[given.data].network} on {given.data}, {given.samples} test images, {given.chips} chips of each kind"
    report = Report(title, given)
    for name, model in networks(given).items():
        table(report, given, name, model)


def networks(given: Namespace) -> dict[str, SpikingNetwork]:
    """The network, and the same trained from the start with noise on its weights; what is not there is trained and kept under --keep."""
    recipe, outcomes = RECIPES[given.data], Outcomes(given.keep)
    if given.model is not None or given.channels == 1:
        network = trained(given.model or recipe.folder)
    else:
        data = load(given.data, "train")
        fresh = build(recipe.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels)
        network, _ = outcomes.trained(fresh, data, recipe.config)
    assert isinstance(network, SpikingNetwork)
    if not given.noise:
        return {"standard": network}
    noise, fresh = parse("noise"), rebuild(network.architecture)
    noisy, _ = outcomes.trained(
        fresh, load(given.data, "train"), recipe.config, partial(train, recipe=noise), recipe=noise.describe()
    )
    return {"standard": network, "noise": noisy}


def table(report: Report, given: Namespace, name: str, model: SpikingNetwork) -> None:
    """A row for each twin: the network, the median and the worst chip, for each kind of samples."""
    refused = {line: reason for line in given.twins if (reason := why_not(model, line))}
    twins = [line for line in given.twins if line not in refused]
    attacks = [
        {"attack": "pgd", "settings": {"steps": 10, "eot": given.eot}},
        {"attack": "snn-autoattack", "settings": {"profile": "quick", "eot": given.eot}},
    ]
    settings = {
        "attacks": attacks[: 2 if given.ensemble else 1], "twins": twins, "eps": [parse_eps(given.eps or EPS[given.data])],
        "samples": given.samples, "chips": given.chips,
    }  # fmt: skip
    out = given.keep / sha256_of({"model": model_hash(model), "data": given.data, "threads": given.threads, **settings})[:16]
    run = trustsnn.audit(model, given.data, out=out, **settings)
    rows: dict[str, list[str]] = {}
    columns = ["twin"]
    for row in run.hardware:
        cells = rows.setdefault(row["twin"], [])
        kind = {"none": "clean"}.get(row["threat"]["attack"], row["threat"]["attack"])
        made = f", made on the {row['maker']}" if row["maker"] else ""
        columns += [f"{kind}{made}"] if len(rows) == 1 else []
        cells.append(told(row))
    left_out = "".join(f" {line} does not run it: {reason}" for line, reason in refused.items())
    note = (
        "Median chip, in brackets the worst and the best of those tried. Made on a chip: the chip itself, then the median of the others; "
        "then the network on those samples; inconclusive where what was made on the network breaks more of that chip. On a chip that "
        f"draws at each use, gradients are means over {given.eot} draws. The network: {_all(run)}." + left_out
    )
    report.table(name, columns, [[twin, *cells] for twin, cells in rows.items()], note, run.hardware)


def why_not(model: SpikingNetwork, line: str) -> str | None:
    """Why the chips of a line cannot run the network, None where they can."""
    try:
        Chips.of(line, 1, 0).chip(model, 0)
    except ConfigError as error:
        return str(error)
    return None


def told(row: dict[str, Any]) -> str:
    """The figures of a kind of samples on the chips of one kind."""
    if row["network"] is None:
        return "not measured"
    parts = []
    if row["maker_accuracy"] is not None:
        parts.append(_share(row["maker_accuracy"]))
    if row["chips"]:
        spread = f" ({_share(row['chips'][0])} to {_share(row['chips'][-1])})" if len(row["chips"]) > 1 else ""
        parts.append(_share(row["median"]) + spread)
    if row["maker"] == "chip":
        parts.append(_share(row["network"]))
    return "; ".join(parts) + (" (inconclusive)" if row["status"] == "inconclusive" else "")


def _all(run: Any) -> str:
    clean = run.summary["clean_accuracy"]
    figures = [("clean", clean), *((f"eps {each['eps']:.4g}", each) for each in run.summary["robust_accuracy"])]
    return ", ".join(f"{name} {_share(each)} ({each['low']:.1%} to {each['high']:.1%})" for name, each in figures)


def _share(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.1%}"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", choices=list(RECIPES), default="mnist", help="and with it the network (default %(default)s)")
    parser.add_argument("--model", type=Path, help="take this checkpoint folder")
    parser.add_argument("--eps", help="of the attacks (default 0.1 on mnist, 2/255 on cifar10)")
    parser.add_argument("--samples", type=int, default=500, help="test images (default %(default)s)")
    parser.add_argument("--channels", type=float, default=1.0, help="factor on the network's channels (default %(default)s)")
    parser.add_argument("--eot", type=int, default=2, help="draws of a gradient on chips that draw (default %(default)s)")
    parser.add_argument("--chips", type=int, default=20, help="of each kind (default %(default)s)")
    parser.add_argument(
        "--twins", type=lambda text: text.split(","), default=list(TWINS), help="with commas (default: all for images)"
    )
    parser.add_argument("--no-noise", dest="noise", action="store_false", help="without the network trained with noise")
    parser.add_argument("--no-ensemble", dest="ensemble", action="store_false", help="PGD alone")
    parser.add_argument("--keep", type=Path, default=Path("runs/hardware/kept"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
