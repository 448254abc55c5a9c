"""No attack breaks a sample inside its certified radius."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.blocks import frozen, predict
from trustsnn.defenses.certify.votes import votes


class Noisy(nn.Module):
    """The base classifier with its noise: what an attack on a smoothed classifier averages over."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma = model, sigma
        self.spec = replace(model.spec, stochastic=True)

    def forward(self, x, generator):
        return self.model((x + self.sigma * generator.normal(tuple(x.shape[1:]))).clamp(0, 1))


def samples(content, data):
    """Images, labels and names of the certified samples that are right, with their radii."""
    kept = [
        (row, e["radius"])
        for row, e in enumerate(content["samples"])
        if e["radius"] is not None and e["prediction"] == e["label"]
    ]
    assert len(kept) >= 3
    x, y = (torch.from_numpy(each) for each in data.batch([row for row, _ in kept]))
    return x, y, [data.ids[row] for row, _ in kept], [radius for _, radius in kept]


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_the_ensemble_breaks_no_verified_sample(method, contents, models, few):
    model = models[method]
    broken_outside = 0
    for x, y, name, radius in zip(*samples(contents[method], few), strict=True):
        for factor in (1, 4):
            found = SNNAutoAttack(eps=factor * radius, profile="quick")(model, x[None], y[None], [name])
            with frozen(model):
                right = bool(predict(model, found).argmax(1) == y)
            assert right or factor > 1
            broken_outside += not right
    assert broken_outside > 0  # the attack can break what is not certified


def test_the_ensemble_turns_no_vote_of_the_smoothed_classifier(contents, models, few):
    model, settings = models["smoothing"], contents["smoothing"]["settings"]
    noisy, turned = Noisy(model, settings["sigma"]), 0
    for x, y, name, radius in zip(*samples(contents["smoothing"], few), strict=True):
        for factor in (0.999, 20):
            found = SNNAutoAttack(eps=factor * radius, norm="l2", profile="quick", eot=4)(noisy, x[None], y[None], [name])[0]
            with frozen(model):
                counts = votes(model, found, name, 300, seed=7, task="attack", sigma=settings["sigma"])
            right = int(counts.argmax()) == int(y)
            assert right or factor > 1
            turned += not right
    assert turned > 0


def test_the_ensemble_turns_no_vote_within_the_rate_radius(contents, models, few):
    model, turned = models["rate"], 0
    for x, y, name, radius in zip(*samples(contents["rate"], few), strict=True):
        for factor in (0.999, 200):
            found = SNNAutoAttack(eps=factor * radius, norm="l1", profile="quick", eot=4)(model, x[None], y[None], [name])[0]
            with frozen(model):
                right = int(votes(model, found, name, 300, seed=7, task="attack").argmax()) == int(y)
            assert right or factor > 1
            turned += not right
    assert turned > 0
