"""Property inference: something of the training data as a whole, from what models say of probes (Ganju 2018, black box)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError

Floats = NDArray[np.float64]


def property_scores(known: Floats, has: NDArray[np.bool_], asked: Floats) -> Floats:
    """How much likelier it is that the training data of the models `asked` [M, D] has the property, as log-odds [M]: a linear classifier on what
    models `known` [S, D], of which `has` [S] says whether theirs has it, say of the same probes.

    Raises:
        ConfigError: all known models are of one kind, or the probes differ.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if has.all() or not has.any() or known.shape[1] != asked.shape[1]:
        raise ConfigError(
            f"Expected shadow models with and without the property and the same probes, got {int(has.sum())} of {len(has)} with it, and "
            f"{known.shape[1]} and {asked.shape[1]} answers."
        )
    parts = max(1, min(len(known) // 4, known.shape[1]))  # far fewer than models, or any two groups could be told apart
    classifier = make_pipeline(StandardScaler(), PCA(parts, svd_solver="full"), LogisticRegression(max_iter=2000))
    return np.asarray(classifier.fit(known, has).decision_function(asked))


def share_of(members: NDArray[np.bool_], count: int, share: float, draws: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows drawn without replacement, of which that share is among `members` [N]."""
    inside, outside = np.flatnonzero(members), np.flatnonzero(~members)
    wanted = round(share * count)
    if wanted > len(inside) or count - wanted > len(outside):
        raise ConfigError(
            f"Expected {wanted} samples with the property and {count - wanted} without it, got {len(inside)} and {len(outside)}. "
            "Use fewer samples a model."
        )
    return np.sort(
        np.concatenate([draws.choice(inside, wanted, replace=False), draws.choice(outside, count - wanted, replace=False)])
    )
