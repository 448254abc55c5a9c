"""Many chips in one pass: the same bits as one after the other, whatever the twin, the architecture and the number of samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.hardware import batched
from trustsnn.hardware.batched import predict_chips, stacked
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip
from trustsnn.kernels import backend
from trustsnn.models import build
from trustsnn.rng import Draws

IMAGES = torch.rand(35, 1, 8, 8, generator=torch.Generator().manual_seed(1))
native = pytest.mark.skipif(backend() != "native", reason="chips run side by side with the native kernels alone")


def firing(name, scale=4.0, **options):
    network = build(name, input_shape=(1, 8, 8), classes=10, seed=0, **options)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.mul_(scale)
    return network.eval()


def one_by_one(chips, x, draws):
    found = []
    for chip in chips:
        with frozen(chip):
            found.append(predict(chip, x, draws if is_stochastic(chip) else None))
    return torch.stack(found)


def chips_of(network, line, count=3):
    return [deploy(network, parse(line), Chip(number)) for number in range(count)]


@native
@pytest.mark.parametrize(
    "line",
    ["pcm@1month", "mismatch:synapses=true", "sram+adc", "rram+spike-loss+jitter", "in-sensor+mismatch", "ir-drop+stuck-at"],
)
@pytest.mark.parametrize("name", ["conv", "mlp", "sew-resnet-small"])
def test_chips_side_by_side_are_the_same_bits_as_one_after_the_other(name, line, monkeypatch):
    channels = {} if name == "mlp" else {"channels": 0.25}
    if name == "sew-resnet-small":
        monkeypatch.setattr(
            batched.Synapses, "forward_method", lambda layer, spikes: "sum"
        )  # its blocks are wide enough for Winograd's
    chips, draws = chips_of(firing(name, **channels), line), Draws(0, "predict", tuple(map(str, range(len(IMAGES)))))
    assert stacked(chips) is not None
    found = predict_chips(chips, IMAGES, draws)
    assert torch.equal(found, one_by_one(chips, IMAGES, draws))
    assert len({tuple(each.flatten().tolist()) for each in found}) == 3


@native
def test_as_many_chips_go_together_as_a_pass_holds(monkeypatch):
    chips, made = chips_of(firing("conv", channels=0.25), "pcm", 5), []
    monkeypatch.setattr(batched, "stacked", lambda some: made.append(len(some)) or stacked(some))
    whole = predict_chips(chips, IMAGES)
    monkeypatch.setattr(batched, "PASS", 2 * 4 * 8 * 64 * 4 * batched.BLOCK)  # two chips of 8 channels on 8x8, 4 steps
    assert torch.equal(predict_chips(chips, IMAGES), whole)
    monkeypatch.setattr(batched, "PASS", 1)
    assert torch.equal(predict_chips(chips, IMAGES), whole)
    assert [count for count in made if count > 1] == [5, 2, 2]


@native
@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"channels": 1.0}, "pcm"),
        ({"channels": 0.25, "norm": "group"}, "pcm"),
        ({"channels": 0.25}, "sensor-noise+pcm"),
        ({"channels": 0.25}, "loihi+sram"),
    ],
    ids=["Winograd's convolution", "another normalisation", "a sensor", "integers"],
)
def test_what_would_not_be_the_same_bits_runs_one_after_the_other(options, line):
    chips, draws = chips_of(firing("conv", **options), line, 2), Draws(0, "predict", tuple(map(str, range(len(IMAGES)))))
    assert stacked(chips) is None
    assert torch.equal(predict_chips(chips, IMAGES, draws), one_by_one(chips, IMAGES, draws))


def test_one_chip_and_the_network_itself_have_their_own_logits():
    network = firing("mlp")
    assert torch.equal(predict_chips([network], IMAGES), one_by_one([network], IMAGES, None))
