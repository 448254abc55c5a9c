"""What the server sees of one client's update under each setting."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr")

from trustsnn.federated.arrays import norm
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.view import looks_random, seen_by_server

UPDATE = {"w": np.linspace(-2, 2, 40_000, dtype=np.float32).reshape(200, 200), "b": np.float32([0.5, -0.25])}


def config(**settings):
    return FederatedConfig(architecture={}, start="", data="digits", clients=5, **settings)


def test_plainly_it_sees_everything():
    seen, vector = seen_by_server(config(), UPDATE)
    assert vector == b""
    assert all((seen[name] == UPDATE[name]).all() for name in UPDATE)


def test_clipping_keeps_the_direction():
    seen, _ = seen_by_server(config(privacy={"sigma": 1.0, "clip": 0.5}), UPDATE)
    assert norm(seen) <= 0.5
    np.testing.assert_allclose(seen["w"] / seen["b"][0], UPDATE["w"] / UPDATE["b"][0], rtol=1e-5)


def test_compression_leaves_the_largest():
    seen, _ = seen_by_server(config(compression="top-k:0.01"), UPDATE)
    assert np.count_nonzero(seen["w"]) + np.count_nonzero(seen["b"]) == 400
    assert seen["w"][0, 0] == UPDATE["w"][0, 0]


def test_a_masked_vector_says_nothing():
    ones = {name: np.ones_like(array) for name, array in UPDATE.items()}
    views = [seen_by_server(config(secure={}), update) for update in (UPDATE, UPDATE, ones)]
    assert len({vector for _, vector in views}) == 3  # equal updates give vectors of their own
    for seen, vector in views:
        assert looks_random(vector) > 1e-6
        assert abs(np.corrcoef(seen["w"].ravel(), UPDATE["w"].ravel())[0, 1]) < 0.03


def test_a_plain_vector_does_not_look_random():
    assert looks_random(np.arange(10_000, dtype="<u4").tobytes()) < 1e-6
