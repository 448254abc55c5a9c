"""The gradient estimators of an attack in the neurons of other frameworks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.estimators import PDSG, estimator
from trustsnn.blocks import frozen, input_gradient
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.neurons import STBP, Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.rng import Draws
from trustsnn.runners.config import make_config
from trustsnn.runners.plan import make_plan

STEPS = 4


def test_an_estimator_replaces_the_gradient_and_nothing_else(case, wrapped, gradient):
    model = wrapped()
    before = [dict(vars(neuron.layer)) for neuron in model.foreign_neurons]
    assert before
    logits, own = gradient(model, case.x)
    assert own.abs().max() > 0
    with STBP(Surrogate("triangular", 1.0)).applied(model):
        same = gradient(model, case.x)
    with STBP(Surrogate("sigmoid", 0.7)).applied(model):
        other = gradient(model, case.x)
    assert torch.equal(same[0], logits)
    assert torch.equal(other[0], logits)
    torch.testing.assert_close(same[1], own)
    assert (other[1] - own).abs().max() > 0.01 * own.abs().max()
    after = [dict(vars(neuron.layer)) for neuron in model.foreign_neurons]
    assert [[*one] for one in after] == [[*one] for one in before]
    torch.testing.assert_close(gradient(model, case.x)[1], own)


def test_a_surrogate_without_a_gradient_leaves_none(case, wrapped, gradient):
    model = wrapped()
    with STBP(Surrogate("rectangular", 1e-6)).applied(model):
        assert gradient(model, case.x)[1].abs().max() == 0


@pytest.mark.parametrize("name", ["pdsg", "assg"])
def test_estimators_that_look_at_a_whole_sequence(case, name, wrapped):
    model = wrapped()
    y = torch.zeros(len(case.x), dtype=torch.long)

    def direction(rows):
        draws = Draws(0, "test", tuple(map(str, rows)))
        loss = partial(nn.functional.cross_entropy, reduction="none")
        with frozen(model), estimator(name).applied(model):
            return input_gradient(model, case.x[rows], y[rows], loss, draws).direction

    found = direction([0, 1, 2, 3])
    assert found.abs().amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(direction([3, 2, 1, 0]).flip(0), found)


class Ours(nn.Module):
    """The network of trustsnn's neurons that computes what `fakes.StatefulLayer` does."""

    def __init__(self, module):
        super().__init__()
        dynamics = Dynamics(leak=0.8, threshold=1.0, reset="soft", comparator=">", detach_reset=False)
        first, second = (layer for layer in module if isinstance(layer, nn.Linear))
        self.layers = nn.ModuleList([first, SpikingNeuron(dynamics), second, SpikingNeuron(dynamics)])

    def forward(self, x):
        x = x.flatten(1).expand(STEPS, -1, -1)
        for layer in self.layers:
            x = layer(x)
        return mean_over_time(x)


@pytest.mark.parametrize("through", [{"name": "stbp", "surrogate": "atan", "width": 0.5}, {"name": "pdsg"}, {"name": "assg"}])
def test_the_gradient_is_that_of_trustsnns_own_neurons(through, fakes):
    torch.manual_seed(3)
    neurons = fakes.StatefulLayer(), fakes.StatefulLayer()
    module = nn.Sequential(nn.Flatten(2), nn.Linear(16, 12), neurons[0], nn.Linear(12, 3), neurons[1])
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def direction(model, step):
        loss = partial(nn.functional.cross_entropy, reduction="none")
        return input_gradient(model, x + 0.05 * step, y, loss, Draws(0, "test", tuple("abcdef"))).direction

    found = []
    for model in (trustsnn.wrap(module, time_steps=STEPS), Ours(module)):
        with frozen(model):
            own = direction(model, 0)
            with estimator(**through).applied(model):
                found += [direction(model, step) for step in range(3)]  # ASSG's statistics follow the samples through the steps
        assert (found[-3] - own).abs().max() > 0.01 * own.abs().max()
    for theirs, ours in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)


def test_rate_estimators_are_refused_in_one_line(case, wrapped):
    model = wrapped()
    with pytest.raises(
        ConfigError, match=r"'hart' needs trustsnn's own neurons, and those of this model are .* 'stbp', 'pdsg', 'assg'"
    ):
        PGD(eps=0.1, estimator=estimator("hart"))(model, case.x, torch.zeros(len(case.x), dtype=torch.long))
    config = make_config({"profile": "quick", "attacks": [{"attack": "pgd", "estimator": {"name": "rga"}}]})
    with pytest.raises(ConfigError, match=r"'pgd' asks for the estimator 'rga', but 'rga' needs"):
        make_plan(model, {"model": "m", "data": "d"}, config)


def test_the_ensemble_runs_every_surrogate_on_foreign_neurons(case, wrapped):
    labels = [member.label for member in SNNAutoAttack(eps=0.1, profile="full").members(wrapped())]
    through = {label.partition(" through ")[2] for label in labels}
    surrogates = {"own", "wide triangular", "wide atan", "rectangular", "exponential", "sigmoid", "STE", "PDSG", "ASSG"}
    assert through - {""} == surrogates
    plain = trustsnn.wrap(nn.Linear(16, 3), time_steps=1)
    assert {m.label.partition(" through ")[2] for m in SNNAutoAttack(eps=0.1).members(plain)} == {"own", ""}


def test_the_plan_leaves_out_what_cannot_be_done_and_no_more(case, wrapped):
    model = wrapped(domain="events-binary")
    plan = make_plan(model, {"model": "m", "data": "d"}, make_config({"profile": "full", "eps": ["10"]}))
    used = {cell.cell["estimator"]["name"] for cell in plan if cell.cell["estimator"]}
    assert used == {"stbp", "pdsg", "assg"}


def test_one_neuron_for_layers_of_two_shapes_takes_surrogates_alone(gradient, fakes):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.cell = nn.Linear(16, 12), nn.Linear(12, 3), fakes.SNNCell()

        def forward(self, x):
            for fc in (self.first, self.second):
                x, _ = self.cell(fc(x.flatten(1)))
            return x

    model, x = trustsnn.wrap(Shared(), time_steps=1, takes="sample"), torch.rand(6, 1, 4, 4)
    with STBP(Surrogate("ste")).applied(model):
        assert gradient(model, x)[1].abs().max() > 0
    with PDSG().applied(model), pytest.raises(ModelContractError, match="Give each layer a neuron of its own"):
        gradient(model, x)


def test_several_spikes_of_a_step_are_differentiated_at_the_nearest_multiple(fakes):
    currents = torch.tensor([[0.2, 0.95, 1.05, 2.05, 3.5, 3.95]])

    class Net(nn.Module):
        def __init__(self, *spike_fn):
            super().__init__()
            self.neurons = fakes.StatefulLayer(*spike_fn)

        def forward(self, x):
            return self.neurons(x.unsqueeze(1)).transpose(0, 1)

    slopes = {}
    for name, spike_fn in (("one", ()), ("several", (fakes.MultiSpike,))):
        model = trustsnn.wrap(Net(*spike_fn), time_steps=1, classes=6, takes="sample")
        leaf = currents.clone().requires_grad_()
        with STBP(Surrogate("rectangular", 0.1)).applied(model):
            slopes[name] = torch.autograd.grad(model(leaf).sum(), leaf)[0].flatten().tolist()
    assert slopes["one"] == [0, 5, 5, 0, 0, 0]
    assert slopes["several"] == [0, 5, 5, 5, 0, 5]
