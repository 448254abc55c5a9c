"""Gates: bounds on the figures of an audit, such as `lower(robust_accuracy[linf,8/255]) >= 0.3`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trustsnn.errors import ConfigError

TOLERANCE = 1e-9
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?"
_VALUE = rf"(?:{_NUMBER})(?:\s*/\s*(?:{_NUMBER}))?"
_FIGURE = rf"clean_accuracy|mean_corruption_error|robust_accuracy\s*\[\s*(?P<norm>[a-z][a-z0-9]*)\s*,\s*(?P<eps>{_VALUE})\s*\]"
_GATE = re.compile(
    rf"\s*(?:(?P<end>lower|upper)\s*\(\s*)?(?P<figure>{_FIGURE})\s*(?(end)\)\s*)(?P<operator>>=|<=|>|<)\s*(?P<bound>{_VALUE})\s*",
    re.ASCII,
)
_LONGEST = 200


@dataclass(frozen=True)
class Gate:
    """One bound on a `figure`: "clean_accuracy", "mean_corruption_error", or "robust_accuracy", which has a `norm` and an `eps`.
    `end` is what is held against it: "value", or the "low" or "high" end of the 95 % interval."""

    text: str
    figure: str
    norm: str | None
    eps: float | None
    end: str
    operator: str
    bound: float

    def check(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Hold the gate against a summary: `{"gate", "value", "bound", "holds", "decided"}`. A figure without a value does not hold.

        "decided" is false where the answer rests on a doubtful figure that may turn it. A robust accuracy can only fall: doubt
        leaves open what asks for much of it and holds, and what asks for little and does not.

        Raises:
            ConfigError: the summary has no such figure.
        """
        figure = self._found(summary)
        value = figure[self.end]
        holds = value is not None and _COMPARE[self.operator](value, self.bound)
        stays = value is not None and self.figure == "robust_accuracy" and holds == (self.operator in ("<", "<="))
        decided = figure["status"] == "ok" or stays
        return {"gate": self.text, "value": value, "bound": self.bound, "holds": holds, "decided": decided}

    def _found(self, summary: dict[str, Any]) -> dict[str, Any]:
        if self.figure == "mean_corruption_error":
            if summary["natural_shift"] is None:
                raise _not_planned(self, [])
            return dict(summary["natural_shift"]["mean_corruption_error"])
        if self.norm is None or self.eps is None:
            return dict(summary["clean_accuracy"])
        figures: list[dict[str, Any]] = summary["robust_accuracy"]
        for figure in figures:
            if figure["norm"] == self.norm and abs(figure["eps"] - self.eps) <= TOLERANCE:
                return figure
        raise _not_planned(self, [(figure["norm"], figure["eps"]) for figure in figures])


def parse(text: str) -> Gate:
    """Read one gate.

    `clean_accuracy` or `robust_accuracy[norm,eps]`, alone or within `lower(...)` (the lower end of its 95 % interval), or
    `mean_corruption_error`, alone or within `upper(...)`; then one of `>= > <= <`, then a bound in [0, 1]. Numbers may be
    fractions.

    >>> gate = parse("lower(robust_accuracy[linf,8/255]) >= 0.3")
    >>> gate.norm, gate.end, gate.bound
    ('linf', 'low', 0.3)

    Raises:
        ConfigError: the text is no such gate.
    """
    match = _GATE.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    figure = "" if match is None else match["figure"].partition("[")[0].strip()
    if match is None or match["end"] == ("lower" if figure == "mean_corruption_error" else "upper"):
        raise ConfigError(
            "Expected a gate such as 'clean_accuracy >= 0.95', 'lower(robust_accuracy[linf,8/255]) >= 0.3' or "
            f"'upper(mean_corruption_error) <= 0.3', got {str(text)[:80]!r}."
        )
    bound = _number(match["bound"], text)
    if not 0 <= bound <= 1:
        raise ConfigError(
            f"Expected a bound between 0 and 1 in the gate {text!r}, got {bound:g}. Accuracies are fractions, not per cent."
        )
    eps = None if match["eps"] is None else _number(match["eps"], text)
    end = {"lower": "low", "upper": "high"}.get(match["end"], "value")
    return Gate(" ".join(text.split()), figure, match["norm"], eps, end, match["operator"], bound)


def check_planned(gates: Iterable[Gate], planned: Sequence[tuple[str, float]], *, corruptions: bool = False) -> None:
    """Refuse a gate on a (norm, eps) that is not planned, or on corruptions where there are none: it could never be measured.

    Raises:
        ConfigError: naming the gate and what is planned.
    """
    for gate in gates:
        if gate.figure == "mean_corruption_error" and not corruptions:
            raise _not_planned(gate, planned)
        if gate.norm is None or gate.eps is None:
            continue
        if not any(norm == gate.norm and abs(eps - gate.eps) <= TOLERANCE for norm, eps in planned):
            raise _not_planned(gate, planned)


def _not_planned(gate: Gate, planned: Sequence[tuple[str, float]]) -> ConfigError:
    if gate.norm is None or gate.eps is None:
        return ConfigError(
            f"The gate {gate.text!r} asks for corruptions, and none is audited. Add --corruptions all to the audit."
        )
    listed = ", ".join(f"[{norm},{eps:.10g}]" for norm, eps in planned) or "no attack"
    return ConfigError(
        f"The gate {gate.text!r} asks for robust_accuracy[{gate.norm},{gate.eps:.10g}], which is not audited. "
        f"Expected one of: {listed}. Change the gate, or add that attack to the audit."
    )


def _number(text: str, gate: str) -> float:
    try:
        parts = [Fraction(part.strip()) for part in text.split("/")]
        return float(parts[0] / parts[1] if len(parts) == 2 else parts[0])
    except (ArithmeticError, ValueError) as error:
        raise ConfigError(f"Expected a number or a fraction in the gate {gate!r}, got {text!r}.") from error
