"""How figures, threats and verdicts are put into words, the same in every view."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_NAMES = {
    "none": "No attack",
    "fgsm": "FGSM",
    "r-fgsm": "R+FGSM",
    "mi-fgsm": "MI-FGSM",
    "pgd": "PGD",
    "pgd0": "PGD-0",
    "apgd": "APGD",
    "sapgd": "SA-PGD",
    "cw": "C&W",
    "deepfool": "DeepFool",
    "square": "Square",
    "snn-autoattack": "SNN-AutoAttack",
    "bisection": "Bisection",
    "sda": "SDA",
    "spikefool": "SpikeFool",
    "insertion": "Insertion",
    "deletion": "Deletion",
    "retiming": "Retiming",
    "frame": "Frame",
    "corner": "Corner",
    "dash": "Dash",
    "filter-aware-dash": "Filter-aware dash",
}
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
_EVENTS = {"events": "changed event", "moves": "moved event"}


def percent(value: float | None, count: int = 0) -> str:
    """`value` in [0, 1] in per cent: one decimal, two from 1000 samples on. Only an exact 0 or 1 reads as 0 or 100 %."""
    if value is None or not math.isfinite(value):
        return "not measured"
    digits = 2 if count >= 1000 else 1
    text = f"{100 * value:.{digits}f}"
    if 0 < value < 1 and float(text) in (0.0, 100.0):
        step = 10.0**-digits
        return f"< {step:.{digits}f} %" if value < 0.5 else f"> {100 - step:.{digits}f} %"
    return f"{text} %"


def interval(figure: dict[str, Any]) -> str:
    """The 95 % interval of a figure, `94.3 % to 98.9 %`."""
    if figure["value"] is None:
        return "not measured"
    digits = 2 if figure["count"] >= 1000 else 1
    return f"{100 * figure['low']:.{digits}f} % to {100 * figure['high']:.{digits}f} %"


def range_text(figure: dict[str, Any]) -> str:
    """The same in a narrow cell of a table of per cents, `94.3–98.9`."""
    return "–" if figure["value"] is None else f"{100 * figure['low']:.1f}–{100 * figure['high']:.1f}"


def chips_text(ends: dict[str, Any] | None) -> str:
    """The interval of a median over chips in a narrow cell of a table of per cents."""
    return "–" if ends is None else f"{100 * ends['low']:.1f}–{100 * ends['high']:.1f}"


def measured(value: float | None, bound: float) -> str:
    """`value` in per cent with as many decimals as it takes to tell it from `bound`."""
    if value is None:
        return "not measured"
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f} %"
        if value == bound or text != f"{100 * bound:.{digits}f} %":
            return text
    return f"{100 * value:.6g} %"


def bound_text(bound: float) -> str:
    """A gate's bound in per cent, without needless zeros."""
    return f"{100 * bound:.6g} %"


def eps_text(eps: float) -> str:
    """`eps` as people write it: `0.1`, or `8/255` where that is exact and shorter."""
    if abs(round(eps, 4) - eps) <= 1e-12:
        return f"{eps:g}"
    fraction = Fraction(eps).limit_denominator(255)
    if abs(float(fraction) - eps) <= 1e-12 and 255 % fraction.denominator == 0:
        return f"{fraction * 255}/255"
    return f"{eps:.4g}"


def norm_text(norm: str | None) -> str:
    """A norm's symbol, `L∞` for linf; for events what a budget counts, `changed events`."""
    return f"{_EVENTS[norm]}s" if norm in _EVENTS else _NORMS.get(norm or "", norm or "–")


def ball_text(norm: str | None, *sizes: float) -> str:
    """A norm and its sizes: `L∞ 0.1`, `L∞ 0.1 and 0.2`, `10 and 30 changed events`."""
    listed = joined([eps_text(eps) for eps in sizes])
    if norm in _EVENTS:
        return f"{listed} {_EVENTS[norm]}" + ("" if listed == "1" else "s")
    return f"{norm_text(norm)} {listed}"


def median_text(curve: dict[str, Any]) -> str:
    """The median of the smallest eps in a sentence."""
    largest = f"more than {eps_text(curve['largest'])}"
    value, low, high = (
        largest if curve["median"][name] is None else f"{curve['median'][name]:.4g}" for name in ("value", "low", "high")
    )
    return (
        f"Half of the {count_text(curve['median']['count'], 'sample')} fall to a perturbation of {norm_text(curve['norm'])} {value} or less "
        f"(95 % interval of the median: {low} to {high})."
    )


def axis_text(norm: str) -> str:
    """What the axis of a curve over eps counts."""
    return norm_text(norm) if norm in _EVENTS else f"{norm_text(norm)} size of the perturbation (eps)"


def attack_text(threat: dict[str, Any]) -> str:
    """An attack's name as the papers write it."""
    name = str(threat["attack"])
    return _NAMES.get(name, name)


def threat_text(threat: dict[str, Any]) -> str:
    """An attack with its ball, `PGD, L∞ 0.1`."""
    if threat["attack"] == "none":
        return "No attack"
    if threat["attack"] == "corruption":
        return f"{threat.get('corruption')}, severity {threat.get('severity')}"
    if threat["attack"] == "ood":
        return f"out of distribution: {threat.get('source')}"
    return f"{attack_text(threat)}, {ball_text(threat['norm'], threat['eps'])}"


def parameters_text(threat: dict[str, Any]) -> str:
    """The attack's own settings, `40 steps of 0.01, 2 restarts, ce loss`."""
    parts = []
    if "steps" in threat:
        size = threat.get("step_size")
        parts.append(count_text(threat["steps"], "step") + ("" if size is None else f" of {eps_text(size)}"))
    if "restarts" in threat:
        parts.append(count_text(threat["restarts"], "restart"))
    if "loss" in threat:
        parts.append(f"{threat['loss']} loss")
    if threat.get("eot", 1) != 1:
        parts.append(f"{threat['eot']} draws averaged")
    if threat.get("targeted"):
        parts.append("targeted")
    if "members" in threat:
        parts = [f"profile {threat['profile']}", count_text(len(threat["members"]), "attack")]
        parts += [count_text(threat["rounds"], "round")] if "rounds" in threat else []
        return ", ".join(parts + ([f"{threat['eot']} draws averaged"] if threat.get("eot", 1) != 1 else []))
    known = {"attack", "norm", "eps", "steps", "step_size", "restarts", "loss", "eot", "targeted"}
    parts += [setting_text(name, threat[name]) for name in sorted(set(threat) - known) if threat[name] is not None]
    return ", ".join(parts) or "–"


def setting_text(name: str, value: object) -> str:
    """One setting, `loss ce`, `no early stop`."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value}"


def estimator_text(estimator: dict[str, Any] | None) -> str:
    """The gradient estimator with its settings, `stbp (surrogate triangular, width 1.0)`; None is the model's own."""
    if not estimator:
        return "the model's own surrogate"
    rest = ", ".join(f"{name} {value}" for name, value in sorted(estimator.items()) if name != "name")
    return f"{estimator.get('name', 'unnamed')}" + (f" ({rest})" if rest else "")


def count_text(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def joined(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
