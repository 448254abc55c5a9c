"""Every kind of leakage run by the name of its command: its files, whether it found a leak, and the one figure that a gate can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from trustsnn.reports import backdoor, extraction, gradients, inference, leakage, membership
from trustsnn.reports.wording import percent

Json = dict[str, Any]

FOUND, NOTHING, UNCLEAR = "found", "nothing found", "inconclusive"
_CHANCE = 0.05


class Finding(NamedTuple):
    """What a run says: one of FOUND, NOTHING, UNCLEAR, and its figure with the ends of its 95 % interval; None where it was not measured,
    an equal end where it has no interval. Where the figure is `doubtful` it can break a gate and not hold one."""

    outcome: str
    value: float | None
    low: float | None
    high: float | None
    doubtful: bool = False


class Kind(NamedTuple):
    """A kind of run.

    title: as it is read.
    stem: its files are STEM.json and STEM.html.
    format: of STEM.json.
    gives: what a model gives away where it is found.
    figure: what is gated.
    judge: the finding of a record.
    sentences: what came of it, in words.
    """

    title: str
    stem: str
    format: str
    gives: str
    figure: str
    judge: Callable[[Json], Finding]
    sentences: Callable[[Json], list[str]]


def _membership(record: Json) -> Finding:
    """By the attack that is settled beforehand (LiRA, or the loss without shadow models), since the strongest of many is above chance by
    chance; the figure is the strongest one's, as in the gate of the command."""
    settled = next(row for row in record["attacks"] if row["name"] == record["exposed"]["attack"])
    best = membership.ranked(record)[0]["tpr"][-1]
    sure = best["status"] == "ok"
    leaks = settled["auc"]["low"] > 0.5 or (sure and settled["tpr"][-1]["low"] > best["fpr"])
    outcome = FOUND if leaks else NOTHING if sure else UNCLEAR
    return Finding(outcome, best["value"], best["low"], best["high"], not sure)


def _class(record: Json) -> Finding:
    attacks = [attack for model in record["models"] for attack in model["attacks"]]
    leaks = min(attack["above_chance"] for attack in attacks) * len(attacks) < _CHANCE
    best = max((attack["top1"] for attack in attacks), key=lambda figure: figure["value"])
    return Finding(FOUND if leaks else UNCLEAR if record["any_zero"] else NOTHING, best["value"], best["low"], best["high"])


def _gradients(record: Json) -> Finding:
    if record["data"] is None:  # of a saved update nobody knows the originals
        return Finding(UNCLEAR, None, None, None)
    bare = [cell for cell in record["cells"] if cell["defence"] == "none"]
    outcomes = {cell["outcome"] for cell in bare}
    best = max((cell["psnr"] for cell in bare), key=lambda figure: figure["value"])
    outcome = FOUND if "recovers" in outcomes else UNCLEAR if "undecided" in outcomes else NOTHING
    return Finding(outcome, best["value"], best["low"], best["high"])


def _extract(record: Json) -> Finding:
    figure = record["copies"][-1]["agreement"]
    leaks = figure["low"] > 1 / len(record["data"]["classes"])
    return Finding(FOUND if leaks else NOTHING, figure["value"], figure["low"], figure["high"])


def _attribute(record: Json) -> Finding:
    away = inference.leaking(record)
    share = len(away) / len(record["features"])
    return Finding(FOUND if away else NOTHING, share, share, share)


def _property(record: Json) -> Finding:
    figure = record["right"]
    return Finding(FOUND if figure["low"] > 0.5 else NOTHING, figure["value"], figure["low"], figure["high"])


def _backdoor(record: Json) -> Finding:
    outcome = {"backdoored": FOUND, "not found": NOTHING, "inconclusive": UNCLEAR}[record["verdict"]["outcome"]]
    value = None if outcome == UNCLEAR else float(outcome == FOUND)
    return Finding(outcome, value, value, value)


KINDS = {
    "membership": Kind(
        "Membership", "membership", membership.FORMAT, "who was in its training data", "members found at 1 % false alarms", _membership,
        membership.sentences,
    ),
    "class": Kind(
        "Class reconstruction", "leakage", leakage.FORMAT, "what its classes look like", "class images that are recognised", _class,
        leakage.sentences,
    ),
    "gradients": Kind(
        "Gradient inversion", "gradients", gradients.FORMAT, "training samples, through updates without a defence",
        "PSNR of images from updates without a defence", _gradients, gradients.sentences,
    ),
    "extract": Kind(
        "Extraction", "extraction", extraction.FORMAT, "its function, to whoever may ask it", "agreement of a copy", _extract,
        extraction.sentences,
    ),
    "attribute": Kind(
        "Attribute inference", "attributes", inference.FORMATS["attributes"], "secret features of records", "features given away",
        _attribute, inference.lines,
    ),
    "property": Kind(
        "Property inference", "properties", inference.FORMATS["properties"], "the make-up of its training data", "models told right",
        _property, inference.lines,
    ),
    "backdoor": Kind("Backdoor scan", "scan", backdoor.FORMAT, "a backdoor", "backdoors", _backdoor, backdoor.sentences),
}  # fmt: skip


def shown(kind: str, value: float | None) -> str:
    """A figure of that kind as it is read."""
    if value is None:
        return "not measured"
    if kind == "gradients":
        return f"{value:.1f} dB"
    return ("none", "one")[int(value)] if kind == "backdoor" else percent(value)
