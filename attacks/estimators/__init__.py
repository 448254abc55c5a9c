"""Gradient estimators: how an attack differentiates a spike. Light: no torch before an estimator is built.

Each turns dLoss/dspikes of a layer into dLoss/dcurrent. Where the current enters the membrane with a gain (1 - leak), every
estimator applies the chain rule to that: it estimates the gradient of the driven current, gain * x, and multiplies by the gain.

`BPTR`, `RGA`, `HART` and `CBA` know rates and no times: the first two take the gradient of each step as it comes, the last two
give every step the same. Behind a readout that averages over time all steps are the same to them, so they have no gradient
through a code that holds the input in spike times ("latency", "rank-order").
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from trustsnn.errors import ConfigError
from trustsnn.lazy import lazy_names
from trustsnn.plugins import Catalogue, Entry

if TYPE_CHECKING:
    from trustsnn.attacks.estimators.adaptive import ASSG, PDSG
    from trustsnn.attacks.estimators.mixture import Mixture
    from trustsnn.attacks.estimators.rate import BPTR, HART, RGA
    from trustsnn.attacks.estimators.twin import CBA
    from trustsnn.neurons import GradientEstimator

__all__ = ["ASSG", "BPTR", "CBA", "ESTIMATORS", "HART", "Mixture", "PDSG", "RGA", "estimator"]

_HERE = "trustsnn.attacks.estimators"

ESTIMATORS = Catalogue(
    "gradient estimator",
    "trustsnn.estimators",
    {
        "stbp": Entry(f"{_HERE}.surrogate:stbp", "through space and time with a surrogate of any shape and width"),
        "pdsg": Entry(f"{_HERE}.adaptive:PDSG", "the same with a surrogate as wide as the membrane's spread"),
        "assg": Entry(f"{_HERE}.adaptive:ASSG", "the same with a surrogate that adapts to each neuron over the attack"),
        "bptr": Entry(f"{_HERE}.rate:BPTR", "straight through neurons that fired at least once"),
        "rga": Entry(f"{_HERE}.rate:RGA", "the slope of the firing rate over the mean current"),
        "hart": Entry(f"{_HERE}.rate:HART", "surrogate gradients averaged over time, no recursion"),
        "cba": Entry(f"{_HERE}.twin:CBA", "the ANN twin's: same weights, ReLU for spikes"),
        "mixture": Entry(f"{_HERE}.mixture:mixture", "the weighted mean of several, layer by layer"),
    },
)

_lazy = lazy_names(
    __name__,
    {
        "ASSG": "adaptive",
        "BPTR": "rate",
        "CBA": "twin",
        "HART": "rate",
        "Mixture": "mixture",
        "PDSG": "adaptive",
        "RGA": "rate",
    },
)


def __getattr__(name: str) -> Any:
    return _lazy(name)


def estimator(name: str, **settings: Any) -> GradientEstimator:
    """The gradient estimator called `name` with its settings, the inverse of its `describe()`.

    >>> estimator("hart", gamma=0.5)
    HART(gamma=0.5)

    Raises:
        ConfigError: no estimator of that name, or a setting that it does not have or take.
    """
    from trustsnn.neurons import GradientEstimator

    kind = ESTIMATORS.load(name)
    known = inspect.signature(kind).parameters
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise ConfigError(
            f"The gradient estimator {name!r} has no setting {', '.join(unknown)}. Known: {', '.join(known) or 'none'}."
        )
    try:
        found = kind(**settings)
    except TypeError as error:
        raise ConfigError(f"The settings of the gradient estimator {name!r} do not fit: {error}.") from error
    if not isinstance(found, GradientEstimator):
        raise ConfigError(f"Expected {name!r} to give a GradientEstimator, got {type(found).__name__}.")
    return found
