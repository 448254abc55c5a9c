"""The checker of a certificate file, from the file alone: it shares no formula with what wrote it, and needs no torch.

A bound on a probability is checked by the binomial tail that it claims, a radius by the probability at that distance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import binom, norm

from trustsnn.canonical import sha256_of
from trustsnn.errors import ConfigError, UnsafeArtifactError

FORMAT = "trustsnn-certificates/1"
_SLACK = 1e-9  # relative, for the last bits of quantiles
_NORMS = {"smoothing": "l2", "rate": "l1", "ibp": "linf", "crown": "linf"}
Entry = dict[str, Any]
Content = dict[str, Any]


def read(path: Path) -> Content:
    """The content of a certificate file that its own SHA-256 fits.

    Raises:
        ConfigError: it cannot be read.
        UnsafeArtifactError: it is no certificate file, or was altered or cut short.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Could not read the certificates {path}: {error}.") from error
    try:
        content = json.loads(text, parse_constant=_refuse)
        stated, expected = content.pop("sha256"), sha256_of(content)
        kind = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeArtifactError(
            f"{path} is no certificate file: expected JSON with a format and a sha256, got {error!r}."
        ) from error
    if stated != expected or kind != FORMAT:
        raise UnsafeArtifactError(
            f"{path} was altered or cut short, or is not of the format {FORMAT!r}. Certify again, or copy it again."
        )
    return {**content, "sha256": stated}


def check(content: Content, where: str = "the certificates") -> int:
    """Check every statement of a file that its own evidence decides; the number of samples with a radius.

    For smoothing and rate that is all but the counts themselves. The bounds of ibp and crown need the model: see `check_again`.

    Raises UnsafeArtifactError that names the first sample whose evidence does not carry its radius.
    """
    try:
        return _checked(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise UnsafeArtifactError(f"{where}: a field is missing or of another kind: {error!r}. Certify again.") from error
    except _Wrong as error:
        raise UnsafeArtifactError(f"{where}: {error}. The certificate does not hold: certify again.") from error


class _Wrong(Exception):
    """What a file states and its evidence does not carry."""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of a certificate")


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise _Wrong(what)


def _checked(content: Content) -> int:
    method, entries, data = content["method"], content["samples"], content["data"]
    _need(_NORMS.get(method) == content["norm"], f"unknown method {method!r} in {content['norm']!r}")
    names = [entry["sample"] for entry in entries]
    _need(
        len(set(names)) == len(names) == data["count"] > 0,
        f"expected {data['count']} samples with different names, got {len(names)}",
    )
    named = {
        "domain": data["domain"],
        "max_count": data["max_count"],
        "samples": sorted([e["sample"], e["label"]] for e in entries),
    }
    _need(sha256_of(named) == data["samples_sha256"], "names and labels are not those of samples_sha256")
    classes = content["model"]["classes"]
    _need(_whole(classes, 2), f"no number of classes: {classes!r}")
    for name, fits in _SETTINGS[method].items():
        value = content["settings"][name]
        _need(fits(value), f"no {name} of the method {method!r}: {value!r}")
    if method == "rate":
        _need(_whole(content["model"]["steps"], 1), f"no number of time steps: {content['model']['steps']!r}")
    for entry in entries:
        prediction, radius = entry["prediction"], entry["radius"]
        known = prediction is None or (type(prediction) is int and 0 <= prediction < classes)
        _need(known, f"sample {entry['sample']}: no class {prediction!r}")
        _need(radius is None or (math.isfinite(radius) and radius > 0), f"sample {entry['sample']}: radius {radius!r}")
        _need(radius is None or prediction is not None, f"sample {entry['sample']}: a radius without a class")
        reason = _RULES[method](entry, content)
        _need(reason is None, f"sample {entry['sample']}: {reason}")
    right = [entry for entry in entries if entry["prediction"] == entry["label"]]
    _figure(content["correct"], len(right), len(entries), "correct")
    closed, certified = content["norm"] == "linf", [entry["radius"] for entry in right if entry["radius"] is not None]
    for point in content["curve"]:
        wanted = point["radius"]
        count = sum(radius > wanted or (closed and radius == wanted) for radius in certified)
        _figure(point, count, len(entries), f"the curve at {wanted}")
    return sum(entry["radius"] is not None for entry in entries)


def _figure(stated: Content, successes: int, count: int, what: str) -> None:
    """Whether a proportion is that of its counts, and each end of its interval where Wilson's test just rejects: (p - q)^2 = z^2
    q (1 - q) / n."""
    _need((stated["successes"], stated["count"]) == (successes, count), f"{what}: {successes} of {count} hold")
    value, z = successes / count, float(norm.isf(0.025))
    _need(abs(stated["value"] - value) <= _SLACK, f"{what}: {successes} of {count} is not {stated['value']}")
    for end, outermost, beyond in ((stated["low"], 0.0, value), (stated["high"], 1.0, 1 - value)):
        distance, spread = (value - end) ** 2, z * z * end * (1 - end) / count
        inside = 0 <= end <= 1 and (end <= value if outermost == 0 else end >= value)
        _need(
            inside and (abs(distance - spread) <= _SLACK or (beyond == 0 and end == outermost)),
            f"{what}: the interval of {successes} of {count} does not end at {end}",
        )


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and low < value < high


def _low_fits(successes: int, draws: int, low: float, alpha: float) -> bool:
    """Whether `successes` or more of `draws` have a chance of at most `alpha` at probability `low`."""
    return 0 <= successes <= draws and 0 <= low < 1 and float(binom.sf(successes - 1, draws, low)) <= alpha * (1 + _SLACK)


def _smoothing(entry: Entry, content: Content) -> str | None:
    settings, low = content["settings"], entry["low"]
    if not _low_fits(entry["successes"], settings["draws"], low, settings["alpha"]):
        return f"{entry['successes']} of {settings['draws']} votes do not bound the probability by {low}"
    if (entry["prediction"] is None) != (low <= 0.5) or entry["prediction"] not in (None, entry["selected"]):
        return "it answers where it has to abstain, or the other way round"
    if entry["radius"] is not None and float(norm.cdf(entry["radius"] / settings["sigma"])) > low * (1 + _SLACK):
        return f"the radius {entry['radius']} needs a probability above {low}"
    return None


def _rate(entry: Entry, content: Content) -> str | None:
    settings, low, high, counts = content["settings"], entry["low"], entry["high"], entry["counts"]
    draws, alpha, chosen, steps = settings["draws"], settings["alpha"], entry["selected"], content["model"]["steps"]
    others = [count for place, count in enumerate(counts) if place != chosen]
    level = alpha / (2 * len(others))
    if sum(counts) != draws or len(counts) != content["model"]["classes"] or min(counts) < 0:
        return f"the votes {counts} are not {draws}"
    if not _low_fits(counts[chosen], draws, low, alpha / 2):
        return f"{counts[chosen]} of {draws} votes do not bound the probability by {low}"
    bounded = all(float(binom.cdf(count, draws, high)) <= level * (1 + _SLACK) for count in others)
    if not (bounded or high >= (1 - low) * (1 - _SLACK)):
        return f"the votes {counts} do not bound the others by {high}"
    if (entry["prediction"] is None) != (low <= high) or entry["prediction"] not in (None, chosen):
        return "it answers where it has to abstain, or the other way round"
    if entry["radius"] is None:
        return None
    distance = -math.expm1(steps * math.log1p(-entry["radius"])) if entry["radius"] < 1 else math.inf
    if 2 * distance > (low - high) * (1 + _SLACK):
        return f"at the radius {entry['radius']} the distributions can differ by {distance}, more than half of {low} - {high}"
    return None if entry["union_radius"] <= entry["radius"] * (1 + _SLACK) else "the union bound gives less than that"


def _bounded(entry: Entry, content: Content) -> str | None:
    radius, margin, largest = entry["radius"], entry["margin"], content["settings"]["largest"]
    if entry["prediction"] is None or (radius is None) != (margin is None):
        return "expected a class, and a margin where there is a radius"
    if radius is not None and not (margin > 0 and math.isfinite(margin) and radius <= largest):
        return f"the margin {margin} at {radius} verifies nothing"
    return None


_DRAWN: dict[str, Callable[[Any], bool]] = {"alpha": _between(0, 0.5), "draws": lambda value: _whole(value, 1)}
_SETTINGS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "smoothing": {**_DRAWN, "sigma": _between(0, math.inf)},
    "rate": _DRAWN,
    "ibp": {"largest": _between(0, math.inf)},
    "crown": {"largest": _between(0, math.inf)},
}
_RULES: dict[str, Callable[[Entry, Content], str | None]] = {
    "smoothing": _smoothing,
    "rate": _rate,
    "ibp": _bounded,
    "crown": _bounded,
}
