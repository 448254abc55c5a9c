"""What an audit looked at, and what it did not: said in every report, so that silence is not read as safety."""

from __future__ import annotations

from trustsnn.reports.record import Json, Record, is_clean
from trustsnn.reports.wording import attack_text, count_text, eps_text, estimator_text, joined, norm_text

_GRADIENT = {"fgsm", "r-fgsm", "mi-fgsm", "pgd", "pgd0", "apgd", "sapgd", "cw", "deepfool"}


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
        sizes = [eps_text(eps) for eps in sorted({cell["threat"]["eps"] for cell in here})]
        texts.append(f"{joined(names)} within {norm_text(norm)} {joined(sizes)}, in input units.")
    estimators = list(dict.fromkeys(estimator_text(each) for cell in attacks for each in _estimators(cell)))
    if estimators:
        texts.append(f"Gradients through the spikes by {joined(estimators)}.")
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
    norms = {cell["threat"]["norm"] for cell in attacks}
    unseen = [norm_text(norm) for norm in ("linf", "l2") if norm not in norms]
    if attacks and unseen:
        texts.append(
            f"Perturbations bounded in {joined(unseen)}, larger ones than those listed, and changes that no norm bounds."
        )
    elif attacks:
        texts.append("Perturbations larger than those listed, and changes that no norm bounds (rotation, weather, patches).")
    if attacks and {cell["threat"]["attack"] for cell in attacks} <= _GRADIENT:
        texts.append("Attacks that need no gradient. Where gradients mislead, such an attack can succeed although these failed.")
    if len({str(each) for cell in attacks for each in _estimators(cell)}) == 1:
        texts.append("Other ways to differentiate a spike: only one gradient estimator was used, and attacks depend on it.")
    if record.head["model"].get("spec", {}).get("stochastic") and all(cell["threat"].get("eot", 1) == 1 for cell in attacks):
        texts.append("Averaging over the model's own randomness (EOT): the model is stochastic, each gradient saw one draw.")
    if not any(cell.get("twin") for cell in record.plan.values()):
        texts.append("The behaviour on neuromorphic hardware (limited precision, noise, faults).")
    texts.append(
        "Privacy of the training data, backdoors, tampering with the weights, and data that differ from the audited ones."
    )
    return texts


def _estimators(cell: Json) -> list[Json | None]:
    """How an attack differentiates spikes: one way, or those of an ensemble; None (or nothing said) is the model's own."""
    of_an_ensemble = cell["threat"].get("estimators")
    return [each or None for each in of_an_ensemble.values()] if of_an_ensemble else [cell.get("estimator")]


def _attacks(record: Record) -> list[Json]:
    return [cell for cell in record.plan.values() if not is_clean(cell)]
