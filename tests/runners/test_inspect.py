"""What `trustsnn inspect` says of a model: its layers, their spike rates, and which are fed with more than spikes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.branches import Branches
from trustsnn.models.onestep import build_onestep
from trustsnn.runners.inspect import describe_model
from trustsnn.temporal import S4NN, AlphaNetwork


def said(model, **options):
    """The verdict on spikes, and each layer that is named below it with what it takes."""
    lines = describe_model(model, **options)
    start = next(i for i, line in enumerate(lines) if line.startswith("spike-only"))
    return lines[start], dict(line.removeprefix("  input of ").split(": ", 1) for line in lines[start + 1 :])


def small(name, **options):
    return build(name, **{"input_shape": (1, 8, 8), "classes": 10, "channels": 0.25, **options}).eval()


@pytest.mark.parametrize(
    ("name", "options", "only", "named"),
    [
        ("resnet-small", {}, True, {"layers.11": "averages of spikes"}),
        ("sew-resnet-small", {"merge": "add"}, False, {"layers.4.0.0": "sums of spikes (layers.3, add)"}),
        ("sew-resnet-small", {"merge": "and"}, True, {"layers.8": "averages of spikes"}),
        ("sew-resnet-small", {"merge": "iand"}, True, {}),
        ("ms-resnet-small", {}, False, {"layers.3.1.0": "currents (layers.2, add)"}),
        ("spikformer-small", {}, False, {"layers.15.0.0": "products of attention", "layers.16.0.0": "sums of spikes"}),
        ("spikingformer-small", {}, False, {"layers.16.0.1": "products of attention", "layers.20": "what AvgPool2d gives"}),
        ("sdt-small", {}, True, {"layers.19": "averages of spikes"}),
        ("conv", {}, True, {"layers.4": "averages of spikes (layers.3)"}),
        ("conv", {"neuron": "qcfs"}, False, {"layers.12": "activations of layers.11 (QCFS)"}),
        ("mlp", {"encoder": "poisson"}, True, {}),
    ],
)
def test_layers_that_take_more_than_spikes_are_named(name, options, only, named):
    verdict, layers = said(small(name, **options))
    assert verdict == f"spike-only, by its structure: {'yes' if only else 'no'}"
    assert all(layers[layer].startswith(what) for layer, what in named.items())
    if options.get("encoder") == "poisson":
        assert layers == {}
    else:
        first = next(name for name in layers if "encoder's layer" in layers[name])
        assert first in ("layers.0", "layers.1")
    if only:
        assert all("share of a weight" in what or "encoder's layer" in what for what in layers.values())


def test_a_planted_residual_sum_is_found():
    model = small("conv", norm="none")
    assert said(model)[0].endswith("yes")
    layers = list(model.layers.children())
    planted = Branches([nn.Conv2d(8, 8, 1)], [])
    model.layers = nn.Sequential(*layers[:2], planted, *layers[2:])
    verdict, named = said(model)
    assert named["layers.4"].startswith("what AvgPool2d gives (layers.3)")
    assert verdict.endswith("no")


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.gelu, self.hidden, self.last = nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10), nn.Linear(10, 10)

    def forward(self, x):
        return self.last((self.hidden(self.gelu(self.first(x.flatten(1)))) > 0).float())


def test_a_wrapped_module_is_judged_by_what_flows():
    model = trustsnn.wrap(Foreign(), time_steps=1)
    assert said(model)[0].startswith("spike-only: not known")
    verdict, layers = said(model, data="digits", samples=12)
    assert verdict == "spike-only, by what its modules get on 12 samples: no"
    assert layers == {
        "module.gelu": "an activation, GELU",
        "module.hidden": "values other than 0 and 1",
        "module.first": "the input: the encoder's layer",
    }
    assert not model.module.last._forward_pre_hooks


class Pooled(nn.Module):
    """Normalises its input, adds up its frames in place or not, and averages spikes before its classifier."""

    def __init__(self, mixes):
        super().__init__()
        self.mixes = mixes
        self.first, self.pool, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2), nn.Linear(64, 10)

    def forward(self, x):
        spikes = (self.first((x - 0.13) / 0.3) > 0).float()
        pooled = self.pool(spikes)
        if self.mixes:
            pooled += 0.1 * torch.rand_like(pooled)
        return self.last(pooled.flatten(1))


def test_averages_and_the_scaled_input_are_known_in_a_wrapped_module():
    verdict, layers = said(trustsnn.wrap(Pooled(False), time_steps=1), data="digits", samples=12)
    assert verdict.endswith(": yes")
    assert layers == {
        "module.first": "the input: the encoder's layer",
        "module.last": "averages of spikes (module.pool): each spike adds a fixed share of a weight",
    }
    verdict, layers = said(trustsnn.wrap(Pooled(True), time_steps=1), data="digits", samples=12)
    assert verdict.endswith(": no")
    assert layers["module.last"] == "values other than 0 and 1"


@pytest.mark.parametrize("kind", [S4NN, AlphaNetwork])
def test_networks_of_spike_times_say_what_they_are(kind, digits_test):
    model = kind(input_shape=(1, 8, 8), classes=10, hidden=12)
    for data in (None, digits_test.take(20)):
        lines = describe_model(model, data=data)
        assert any(line.endswith("spiking layers: 2") for line in lines)
        assert "spike-only, by its structure: yes" in lines
        (hidden,) = (line for line in lines if line.startswith("  hidden: ["))
        assert f"{model.hidden.numel():,} parameters" in hidden
        assert ("spike rate" in hidden) == (data is not None)


def test_spike_rates_are_those_of_the_trace(digits_model, digits_test):
    lines = describe_model(digits_model, data=digits_test, samples=40)
    x = torch.from_numpy(digits_test.batch(range(len(digits_test)))[0])
    rates = [line for line in lines if "spike rate" in line]
    assert len(rates) == 3
    whole = describe_model(digits_model, data=digits_test, samples=len(digits_test))
    for name, counts in digits_model.unroll(x).spike_counts.items():
        (line,) = (line for line in whole if line.startswith(f"  {name}: "))
        assert float(line.split("spike rate ")[1].split()[0]) == pytest.approx(float(counts.mean()) / 4, abs=2e-4)
        assert f"of {len(x)} samples (95 % interval" in line
    assert all("of 40 samples" in line for line in rates)
    assert describe_model(digits_model)[0] == "domain: image"


def test_no_samples_are_refused(digits_model):
    with pytest.raises(ConfigError, match="at least 1 sample, got 0"):
        describe_model(digits_model, data="digits", samples=0)


def test_neurons_that_are_no_module_have_their_rates_too(digits_test):
    lines = describe_model(S4NN(input_shape=(1, 8, 8), classes=10, hidden=12), data=digits_test.take(20))
    assert any(line.startswith("  hidden: [64, 12], 768 parameters, spike rate") for line in lines)


class Functional(nn.Module):
    """A layer that no module stands for, attention between spikes, and neurons whose leak is a sigmoid."""

    def __init__(self):
        super().__init__()
        self.weight, self.leak = nn.Parameter(torch.randn(10, 64)), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        spikes = (x.flatten(1) > 0.5).float() + 0 * torch.sigmoid(self.leak)
        current = spikes @ self.weight.T
        attended = spikes @ (spikes.T @ spikes)
        return nn.functional.linear(attended, self.weight) + nn.functional.gelu(current)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.norm, self.last = nn.LSTM(8, 6, batch_first=True), nn.LayerNorm(6), nn.Linear(6, 10)

    def forward(self, x):
        return self.last((self.norm(self.lstm(x[:, 0])[0][:, -1]) > 0).float())


def seen(module, digits_test):
    return said(trustsnn.wrap(module, domain="image", time_steps=1, input_shape=(1, 8, 8), classes=10), data=digits_test.take(20))


def test_calls_that_are_no_module_are_watched_too(digits_test):
    verdict, named = seen(Functional(), digits_test)
    assert verdict.endswith("no")
    assert named == {
        "module, gelu": "an activation, gelu",
        "module, matmul": "products of two signals",
        "module, linear": "values other than 0 and 1",
    }


def test_gates_and_norms_of_each_sample_are_named(digits_test):
    verdict, named = seen(Recurrent(), digits_test)
    assert verdict.endswith("no")
    assert named == {
        "module.lstm": "gates and states of real values, LSTM",
        "module.norm": "currents that are divided by their spread in each sample, LayerNorm",
    }


class Calls(nn.Module):
    """Operands by keyword, in place, and cells of one step."""

    def __init__(self):
        super().__init__()
        self.weight, self.cell, self.scale, self.act = (
            nn.Parameter(torch.randn(8, 64)),
            nn.LSTMCell(8, 8),
            nn.RMSNorm(8),
            nn.PReLU(),
        )
        self.spiking, self.last = nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x):
        current = nn.functional.linear(input=x.flatten(1) - 0.5, weight=self.weight)
        current = self.scale(self.cell(self.act(current))[0]).tanh_()
        return self.last(self.spiking((current > 0).float()))  # of spikes ReLU gives spikes


def test_calls_by_keyword_in_place_and_of_one_step_are_watched_too(digits_test):
    verdict, named = seen(Calls(), digits_test)
    assert verdict.endswith("no")
    assert named == {
        "module, linear": "the input: the encoder's layer",
        "module.act": "an activation, PReLU",
        "module.cell": "gates and states of real values, LSTMCell",
        "module.scale": "currents that are divided by their spread in each sample, RMSNorm",
        "module, tanh": "an activation, tanh",
    }


@pytest.mark.parametrize(("name", "named"), [("onestep", "membranes of"), ("onestep-rnn", "gates of an LSTM")])
def test_what_a_one_step_cell_hands_on_is_named(name, named):
    verdict, layers = said(build_onestep(name, input_shape=(1, 8, 8), classes=10, channels=0.25))
    assert verdict.endswith("no")
    assert any(named in what for what in layers.values())
    assert all("Cell" not in what for what in layers.values())


class Own(torch.autograd.Function):
    """A computation of another package."""

    @staticmethod
    def forward(ctx, x):
        return x.flatten(1)[:, :10].clone()


class Elsewhere(nn.Module):
    def forward(self, x):
        return Own.apply(x)


def test_what_cannot_be_watched_is_not_called_spikes(digits_test):
    model = trustsnn.wrap(Elsewhere(), domain="image", time_steps=1, input_shape=(1, 8, 8), classes=10)
    assert describe_model(model, data=digits_test.take(20))[-1].startswith("spike-only: not known")
