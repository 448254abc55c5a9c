"""Attribute inference: the value of a sensitive feature of a record, from the model and all else that is in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trustsnn.attacks.leakage.membership import logit_of
from trustsnn.errors import ConfigError

Floats = NDArray[np.float64]
Ask = Callable[
    [Floats, NDArray[np.int64]], Floats
]  # the probability of each record's label, [N], for records [N, F] and labels [N]

ATTACKS = {
    "prior": "the commoner value, whatever the record",
    "confidence": "the value under which the model is surest of the label, times how common it is (Yeom 2018)",
    "imputation": "what a classifier on other records says from the rest of the record: it never asks the model",
    "both": "the same classifier with what the model says under each value",
}


@dataclass(frozen=True)
class Attribute:
    """A feature of the records as a secret with two values: below `border`, or from there on; `stand_ins` are a typical value of each."""

    place: int
    border: float
    stand_ins: tuple[float, float]

    @classmethod
    def halved(cls, records: Floats, place: int) -> Attribute:
        """The feature at `place` of records [N, F], cut at its median."""
        if not 0 <= place < records.shape[1]:
            raise ConfigError(f"Expected a feature in 0..{records.shape[1] - 1}, got {place}.")
        column = records[:, place]
        border = float(np.median(column))
        low, high = column[column < border], column[column >= border]
        if not len(low) or not len(high):
            raise ConfigError(f"Expected a feature with values on both sides of its median, got {border:g} alone at {place}.")
        return cls(place, border, (float(np.median(low)), float(np.median(high))))

    def of(self, records: Floats) -> NDArray[np.int64]:
        """The secret of each record, 0 or 1 [N]."""
        return (records[:, self.place] >= self.border).astype(np.int64)

    def set(self, records: Floats, value: int) -> Floats:
        """The records with the secret at a stand-in."""
        changed = records.copy()
        changed[:, self.place] = self.stand_ins[value]
        return changed


@dataclass(frozen=True)
class AttributeInference:
    """The attacks, fitted on a population [P, F] with its labels [P], which has the secret and which nothing was trained on.

    A model that only knows how the features hang together leaks no one's secret: what the model adds to "imputation" does (Jayaraman &
    Evans 2022).
    """

    attribute: Attribute
    ask: Ask
    population: Floats
    labels: NDArray[np.int64]

    def guesses(self, records: Floats, labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The secret of each record [N] by each attack. The feature itself is not read."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        secret = self.attribute.of(self.population)
        prior = float(secret.mean())
        seen, of_population = self._confidences(records, labels), self._confidences(self.population, self.labels)
        weighted = seen + np.log(np.array([max(1 - prior, 1e-12), max(prior, 1e-12)]))
        found = {
            "prior": np.full(len(records), int(prior >= 0.5), dtype=np.int64),
            "confidence": weighted.argmax(1).astype(np.int64),
        }
        sides = {
            "imputation": (self._rest(self.population, self.labels), self._rest(records, labels)),
            "both": (
                np.concatenate([self._rest(self.population, self.labels), logit_of(np.exp(of_population))], 1),
                np.concatenate([self._rest(records, labels), logit_of(np.exp(seen))], 1),
            ),
        }
        for name, (known, asked) in sides.items():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            found[name] = np.asarray(classifier.fit(known, secret).predict(asked), dtype=np.int64)
        return found

    def _confidences(self, records: Floats, labels: NDArray[np.int64]) -> Floats:
        """log p of the label under either value [N, 2]."""
        asked = [self.ask(self.attribute.set(records, value), labels) for value in (0, 1)]
        return np.asarray(np.log(np.clip(np.stack(asked, 1), 1e-12, 1)))

    def _rest(self, records: Floats, labels: NDArray[np.int64]) -> Floats:
        return np.concatenate([np.delete(records, self.attribute.place, 1), labels[:, None]], 1)
