"""What an audit looked at, and what it did not: said in every report, so that silence is not read as safety."""

from __future__ import annotations

import itertools
import re

from trustsnn.reports.record import Json, Record, is_attack, kind
from trustsnn.reports.wording import attack_text, ball_text, count_text, estimator_text, joined, norm_text

_GRADIENT = {"fgsm", "r-fgsm", "mi-fgsm", "pgd", "pgd0", "apgd", "sapgd", "cw", "deepfool"}
_GRADIENT |= {"sda", "spikefool", "insertion", "deletion", "retiming"}
_STEPS = re.compile(r"(APGD-CE)-([0-9]+)( through .*)")  # a member's label, as attacks/autoattack.py gives it


def checked(record: Record) -> list[str]:
    """One sentence for each thing that the plan looks at."""
    data = record.head["data"]
    split = f", split {data['split']}" if data.get("split") else ""
    texts = [
        f"Accuracy without an attack, on {count_text(data.get('count', 0), 'sample')} of {data.get('name', 'the data')}{split}."
    ]
    attacks = _attacks(record)
    for norm in dict.fromkeys(cell["threat"]["norm"] for cell in attacks):
        here = [cell for cell in attacks if cell["threat"]["norm"] == norm]
        names = list(dict.fromkeys(attack_text(cell["threat"]) for cell in here))
        sizes = sorted({cell["threat"]["eps"] for cell in here})
        texts.append(f"{joined(names)} within {ball_text(norm, *sizes)}{'' if _events(record) else ', in input units'}.")
    estimators = list(dict.fromkeys(estimator_text(each) for cell in attacks for each in _estimators(cell)))
    if estimators:
        texts.append(f"Gradients through the spikes by {joined(estimators)}.")
    return texts + _shift(record)


def _shift(record: Record) -> list[str]:
    corruptions = [cell["threat"] for cell in record.plan.values() if kind(cell) == "corruption"]
    sources = [str(cell["threat"].get("source")) for cell in record.plan.values() if kind(cell) == "ood"]
    texts = []
    if corruptions:
        names, severities = (sorted({each.get(name) for each in corruptions}) for name in ("corruption", "severity"))
        at = joined([str(each) for each in severities])
        texts.append(f"Accuracy under {count_text(len(names), 'natural corruption')}, severity {at}.")
    if sources:
        texts.append(f"Whether the model's own signals tell the samples from others ({joined(sources)}).")
    twins = list(dict.fromkeys(cell["twin"]["line"] for cell in record.plan.values() if kind(cell) == "chips"))
    if twins:
        texts.append(f"The network on twins of hardware ({joined(twins)}), which are models of chips and no chips.")
    return texts


def unchecked(record: Record) -> list[str]:
    """One sentence for each limit of the plan."""
    attacks = _attacks(record)
    texts = []
    if attacks:
        texts.append(
            "Attacks other than those planned. A robust accuracy found by attacks is an upper bound, not a certificate: "
            "a stronger or better adapted attack can only lower it."
        )
    else:
        texts.append("Any attack: none was planned, so nothing is known about robustness.")
    if attacks:
        texts += _larger(record, {cell["threat"]["norm"] for cell in attacks}) + _more_steps(record)
    if attacks and {cell["threat"]["attack"] for cell in attacks} <= _GRADIENT:
        texts.append("Attacks that need no gradient. Where gradients mislead, such an attack can succeed although these failed.")
    if len({str(each) for cell in attacks for each in _estimators(cell)}) == 1:
        texts.append("Other ways to differentiate a spike: only one gradient estimator was used, and attacks depend on it.")
    if record.head["model"].get("spec", {}).get("stochastic") and all(cell["threat"].get("eot", 1) == 1 for cell in attacks):
        texts.append("Averaging over the model's own randomness (EOT): the model is stochastic, each gradient saw one draw.")
    if not any(cell.get("twin") for cell in record.plan.values()):
        texts.append("The behaviour on neuromorphic hardware (limited precision, noise, faults).")
    kinds = {kind(cell) for cell in record.plan.values()}
    if "corruption" not in kinds:
        texts.append("Natural corruptions of the data.")
    if "ood" not in kinds:
        texts.append("What the model makes of samples that are of no class of its own.")
    texts.append("Privacy of the training data, backdoors, tampering with the weights, and data of another origin.")
    return texts


def _more_steps(record: Record) -> list[str]:
    """How many steps an attack or a member of an ensemble took, and what the longest member broke of what fewer steps of the same had left."""
    most, told = 0, []
    for key, cell in record.plan.items():
        if not is_attack(cell) or _events(record):
            continue
        most = max(most, int(cell["threat"].get("steps", 0)))
        found = [_STEPS.fullmatch(str(label)) for label in cell["threat"].get("members", ())]
        most = max([most, *(int(each[2]) for each in found if each)])
        rows = record.lines.get(key, {}).get("diagnostics", {}).get("members", [])
        for before, row in itertools.pairwise(rows):
            fewer, more = (_STEPS.fullmatch(each["member"]) for each in (before, row))
            if fewer and more and fewer.group(1, 3) == more.group(1, 3) and row["broken"] and int(more[2]) == most:
                ball = ball_text(cell["threat"]["norm"], cell["threat"]["eps"])
                told.append(f"within {ball} {more[2]} steps broke {row['broken']} of {row['tried']} that {fewer[2]} had left")
    if not most:
        return []
    measured = f": {joined(told)}" if told else ""
    return [f"Attacks of more than {most} steps through one estimator. Spiking networks lose more to more steps{measured}."]


def _larger(record: Record, norms: set[str]) -> list[str]:
    """What lies outside the audited balls, for attacks of these norms."""
    if _events(record):
        unseen = [norm_text(norm) for norm in ("events", "moves") if norm not in norms]
        counted = f"Attacks bounded by their number of {unseen[0]}. " if unseen else ""
        return [
            f"{counted}Changes of more events than those listed, universal patches, and changes of the scene before the camera.",
            "Whether an attack would pass a filter of the sensor. One step against many and the ANN twin are checks for images.",
        ]
    unseen = [norm_text(norm) for norm in ("linf", "l2") if norm not in norms]
    if unseen:
        return [f"Perturbations bounded in {joined(unseen)}, larger ones than those listed, and changes that no norm bounds."]
    return ["Perturbations larger than those listed, and changes that no norm bounds (rotation, weather, patches)."]


def _events(record: Record) -> bool:
    return str(record.head["model"].get("spec", {}).get("domain", "image")).startswith("events")


def _estimators(cell: Json) -> list[Json | None]:
    """How an attack differentiates spikes: one way, or those of an ensemble; None (or nothing said) is the model's own."""
    of_an_ensemble = cell["threat"].get("estimators")
    return [each or None for each in of_an_ensemble.values()] if of_an_ensemble else [cell.get("estimator")]


def _attacks(record: Record) -> list[Json]:
    return [cell for cell in record.plan.values() if is_attack(cell)]
