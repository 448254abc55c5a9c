"""One-sided exact bounds on a probability from a count (Clopper and Pearson 1934), in float64."""

from __future__ import annotations

from scipy.stats import beta


def lower(successes: int, count: int, alpha: float) -> float:
    """The largest p at which `successes` or more of `count` have a chance of at most `alpha`; the true p is at least that with
    confidence 1 - alpha."""
    return 0.0 if successes == 0 else float(beta.ppf(alpha, successes, count - successes + 1))


def upper(successes: int, count: int, alpha: float) -> float:
    """The smallest p at which `successes` or fewer of `count` have a chance of at most `alpha`; the true p is at most that with
    confidence 1 - alpha."""
    return 1.0 if successes == count else float(beta.ppf(1 - alpha, successes + 1, count - successes))
