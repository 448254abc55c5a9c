"""FedLEC and FedProx against slow references and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from trustsnn.errors import ConfigError
from trustsnn.federated.local_loss import fedlec_loss, proximal

COUNTS = torch.tensor([3, 0, 5, 0, 0, 1])


def sample(seed, counts=COUNTS, batch=4):
    draws = torch.Generator().manual_seed(seed)
    logits, told = torch.randn(2, batch, len(counts), generator=draws, dtype=torch.float64)
    present = counts.nonzero()[:, 0]
    return logits, present[torch.randint(len(present), (batch,), generator=draws)], told


def slow(z, y, told, counts, theta, weight):
    """The equation, one number after the other."""
    batch, classes, share = len(z), len(counts), [n / sum(counts) for n in counts]
    prior = [math.log(p + 1e-9) for p in share]
    first = -sum(
        z[i][y[i]] + prior[y[i]] - math.log(sum(math.exp(z[i][c] + prior[c]) for c in range(classes))) for i in range(batch)
    )
    second = 0.0
    for c in range(classes):
        terms = [1.0 if y[i] == c else math.exp(z[i][c] - prior[c] + math.log(1 / classes)) for i in range(batch)]
        second += share[c] * (math.log(sum(terms)) - math.log(batch))
    absent, third = [c for c in range(classes) if share[c] == 0], 0.0
    for i in range(batch):
        p = np.exp([told[i][c] for c in absent])
        q = np.exp([z[i][c] for c in absent])
        third += float(np.sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))))
    return first / batch + theta * second + weight * third / batch


@given(st.integers(0, 10**6), st.lists(st.integers(0, 9), min_size=2, max_size=7).filter(any), st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_fedlec_is_its_equation(seed, counts, theta, weight):
    z, y, told = sample(seed, torch.tensor(counts))
    found = fedlec_loss(z, y, told, torch.tensor(counts), theta=theta, distillation=weight)
    assert found.item() == pytest.approx(slow(z.tolist(), y.tolist(), told.tolist(), counts, theta, weight), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "counts", [[3, 0, 5, 0, 0, 1], [1, 1, 1], [0, 4, 2], [0, 0, 7]], ids=["some", "none absent", "one", "one left"]
)
def test_the_gradients_of_fedlec_are_those_of_finite_differences(counts):
    counts = torch.tensor(counts)
    z, y, told = sample(1, counts)
    assert torch.autograd.gradcheck(lambda z: fedlec_loss(z, y, told, counts, theta=0.7, distillation=0.9), z.requires_grad_())


def test_the_global_model_gets_no_gradient():
    z, y, told = sample(2)
    fedlec_loss(z.requires_grad_(), y, told.requires_grad_(), COUNTS).backward()
    assert told.grad is None
    assert z.grad is not None


def test_with_equal_shares_and_no_weights_it_is_cross_entropy():
    counts = torch.ones(5)
    z, y, told = sample(3, counts)
    torch.testing.assert_close(fedlec_loss(z, y, told, counts, theta=0.0), cross_entropy(z, y))


def test_the_belief_among_absent_classes_is_kept_and_present_ones_do_not_matter_to_it():
    z, y, told = sample(4)
    absent = COUNTS == 0

    def distilled(z):
        return fedlec_loss(z, y, told, COUNTS, distillation=1.0) - fedlec_loss(z, y, told, COUNTS, distillation=0.0)

    same = torch.where(absent, told + 3.0, z)
    assert distilled(same).item() == pytest.approx(0, abs=1e-12)
    assert distilled(z) > 0
    torch.testing.assert_close(distilled(torch.where(absent, z, z + 1.7)), distilled(z))


def test_float32_stays_finite_where_classes_are_absent():
    z, y, told = (t.float() if t.is_floating_point() else t for t in sample(5))
    loss = fedlec_loss((80 * z).requires_grad_(), y, 80 * told, COUNTS)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": torch.zeros(6)},
        {"counts": -COUNTS},
        {"counts": COUNTS[:3]},
        {"labels": torch.zeros(3).long()},
        {"global_logits": torch.zeros(4, 5)},
    ],
    ids=["no samples", "negative", "classes", "labels", "logits"],
)
def test_shapes_and_counts_that_do_not_fit_are_refused(changed):
    z, y, told = sample(6)
    with pytest.raises(ConfigError, match=r"Expected logits \[B, K\] of both models"):
        fedlec_loss(**{"logits": z, "labels": y, "global_logits": told, "counts": COUNTS, **changed})


def test_proximal_is_half_mu_the_squared_distance_and_its_gradient_mu_the_distance():
    w = {
        "a": torch.tensor([[1.0, 2.0]], dtype=torch.float64).requires_grad_(),
        "b": torch.tensor(3.0, dtype=torch.float64).requires_grad_(),
    }
    start = {
        "a": torch.tensor([[0.5, 4.0]], dtype=torch.float64),
        "b": torch.tensor(1.0, dtype=torch.float64),
        "more": torch.ones(2),
    }
    found = proximal(w, start, 0.3)
    assert found.item() == pytest.approx(0.15 * (0.25 + 4 + 4))
    found.backward()
    for name, parameter in w.items():
        torch.testing.assert_close(parameter.grad, 0.3 * (parameter.detach() - start[name]))
    assert torch.autograd.gradcheck(lambda a, b: proximal({"a": a, "b": b}, start, 0.3), (w["a"], w["b"]))
    assert proximal(w, {name: p.detach() for name, p in w.items()}, 9.0) == 0


def test_proximal_refuses_a_model_that_is_not_the_global_one_s():
    w = {"a": torch.ones(2)}
    for start in ({}, {"a": torch.ones(1)}):
        with pytest.raises(ConfigError, match="global model's a in the shape"):
            proximal(w, start, 1.0)
    with pytest.raises(ConfigError, match="mu of the proximal term"):
        proximal(w, w, -1.0)
