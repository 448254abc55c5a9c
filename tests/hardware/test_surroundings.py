"""What every twin of what lies around the weights has in common, in whole networks: draws, batches, sizes, gradients, attacks."""

from __future__ import annotations

import pytest
import torch

from trustsnn.attacks import PGD
from trustsnn.attacks.losses import raised
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, input_gradient, observe, predict
from trustsnn.errors import ConfigError
from trustsnn.hardware.choose import twin
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip
from trustsnn.models import build

STRONG = {
    "adc": {"noise": 0.5, "input_bits": 3, "output_bits": 5},
    "ir-drop": {"wire": 2.0},
    "in-sensor": {"bits": 3, "noise": 0.2},
    "sensor-noise": {"full_well": 50.0},
    "spike-loss": {"probability": 0.3},
    "jitter": {},
    "dvs-noise": {"shot": 2.0, "leak": 2.0},
    "dvs-noisy": {"shot": 20.0},
}
DETERMINISTIC = {"ir-drop"}


@pytest.fixture(params=STRONG)
def case(request, image_network, event_network):
    """A network, what it runs on, and a twin of it with its settings far from nothing."""
    network, x = event_network if request.param.startswith("dvs") else image_network
    return network, x, twin(request.param, **STRONG[request.param])


def test_each_sample_has_the_same_result_in_whatever_batch_it_comes(case, draws_of):
    network, x, chosen = case
    chip, draws = deploy(network, [chosen]), draws_of(len(x))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    with frozen(chip):
        logits = predict(chip, x, draws)
        parts = [predict(chip, x[i : i + 5], draws.select(range(i, min(i + 5, len(x))))) for i in range(0, len(x), 5)]
        shuffled = predict(chip, x[order], draws.select(order.tolist()))
        observed = observe(chip, x, draws).logits
    assert torch.equal(torch.cat(parts), logits)
    assert torch.equal(shuffled, logits[order])
    assert torch.equal(observed, logits)
    assert logits.shape == (len(x), 10)


def test_the_same_seed_is_the_same_result_and_another_one_another(case, draws_of):
    network, x, chosen = case
    assert chosen.name in DETERMINISTIC or deploy(network, [chosen]).spec.stochastic
    results = []
    for seed in (0, 0, 1):
        chip = deploy(network, [chosen], Chip(3))
        with frozen(chip):
            results.append(predict(chip, x, draws_of(len(x), seed)))
    with frozen(network):
        results.append(predict(network, x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2]) == (chosen.name in DETERMINISTIC)
    assert not torch.equal(results[0], results[3])
    assert all(torch.isfinite(each).all() for each in results)


def test_chips_differ_where_the_twin_says_so(case, draws_of):
    network, x, chosen = case
    logits = []
    for number in (0, 1):
        chip = deploy(network, [chosen], Chip(number))
        with frozen(chip):
            logits.append(predict(chip, x, draws_of(len(x))))
    assert torch.equal(*logits) != chosen.stochastic


def test_gradients_come_through(case, draws_of):
    network, x, chosen = case
    chip, y = deploy(network, [chosen]), torch.zeros(len(x), dtype=torch.int64)
    with frozen(chip):
        found = input_gradient(chip, x, y, lambda logits, labels: raised("ce", logits, labels), draws_of(len(x)))
    assert torch.isfinite(found.direction).all()
    assert (found.direction != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("name", [name for name in STRONG if not name.startswith("dvs")])
def test_a_projected_gradient_attack_with_draws_runs_on_it(name, image_network):
    network, x = image_network
    chip, y = deploy(network, [twin(name, **STRONG[name])]), torch.arange(4)
    result = PGD(eps=0.1, steps=3, eot=2).run(chip, x[:4], y)
    assert not result.zero_gradient.any()
    assert not result.nonfinite_gradient.any()
    assert 0 < float((result.adversarial - x[:4]).abs().max()) <= 0.1 + 1e-6


def test_twins_make_one_chip_together(image_network, draws_of):
    network, x = image_network
    names = ["ir-drop", "adc", "in-sensor", "sensor-noise", "spike-loss", "jitter"]
    chip = deploy(network, [twin(name) for name in names])
    with frozen(chip):
        logits = predict(chip, x, draws_of(len(x)))
        deep = chip.unroll(x, draws_of(len(x)))
        still = ann_twin(chip)(x)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(still).all()
    assert deep.logits.shape == (network.spec.steps, len(x), 10)
    assert [twin(name).describe()["name"] for name in names] == names


@pytest.mark.parametrize("name", ["adc", "ir-drop", "spike-loss", "jitter"])
def test_networks_with_branches_run_too(name, draws_of):
    network = build("sew-resnet-small", input_shape=(1, 8, 8), classes=4, channels=0.25).eval()
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    chip = deploy(network, [twin(name)])
    with frozen(chip):
        assert predict(chip, x, draws_of(3)).shape == (3, 4)


def test_a_setting_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="input_bits"):
        twin("adc", bits=8)
