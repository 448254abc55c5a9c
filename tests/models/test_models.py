"""Bundled networks, their encoders, the contract, and any module behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.blocks import frozen, observe, predict
from trustsnn.encoders import ENCODERS, encoder
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import build, check_contract, rebuild
from trustsnn.neurons import SpikingNeuron, Surrogate, reference_forward
from trustsnn.rng import Draws, stream

IDS = ("a", "b", "c")
DRAWS = Draws(0, "test", IDS)


@pytest.mark.parametrize("name", ["mlp", "conv", "vgg9", "vgg11"])
@pytest.mark.parametrize(("domain", "shape"), [("image", (1, 8, 8)), ("image", (3, 32, 32)), ("events-binary", (4, 2, 12, 12))])
def test_bundled_models_keep_their_shapes(name, domain, shape):
    model = build(name, input_shape=shape, classes=5, domain=domain, channels=0.25).eval()
    x = torch.rand(3, *shape).round() if domain != "image" else torch.rand(3, *shape)
    logits, trace = model(x), model.unroll(x)
    assert logits.shape == (3, 5)
    assert trace.logits.shape == trace.membrane.shape == (4, 3, 5)
    torch.testing.assert_close(trace.logits.mean(0), logits)
    torch.testing.assert_close(trace.membrane[-1] / 4, logits)
    neurons = [m for m in model.modules() if isinstance(m, SpikingNeuron)]
    assert len(trace.spike_counts) == len(neurons)
    assert all(c.shape[0] == 3 and c.max() <= 4 and c.min() >= 0 for c in trace.spike_counts.values())
    assert check_contract(model, x, 5) == []


def test_network_equals_a_plain_loop_over_time():
    """The folded network with its first layers computed once, against layer by layer on every step with the reference."""
    torch.manual_seed(0)
    model = build("conv", input_shape=(1, 8, 8), classes=3, channels=0.25, steps=5, readout="spike-count").double()
    model.train()
    for _ in range(30):
        model(torch.rand(64, 1, 8, 8, dtype=torch.float64))  # batch statistics, so that neurons fire
    model.eval()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64).requires_grad_()
    h = x.unsqueeze(0).expand(5, *x.shape)
    spikes = []
    for layer in model.layers:
        if isinstance(layer, SpikingNeuron):
            h, _ = reference_forward(h, layer.leak, layer.threshold, layer.dynamics, Surrogate())
            spikes.append(h)
        else:
            h = torch.stack([layer(step) for step in h])
    expected, got = h.mean(0), model(x)
    assert spikes[0].mean() > 0.02
    torch.testing.assert_close(got, expected)
    for times, fired in zip(model.first_spikes(x).values(), spikes, strict=True):
        silent = (fired.detach().cumsum(0) == 0).sum(0)  # steps before the first spike, all five without one
        torch.testing.assert_close(times, silent.flatten(1).double().mean(1))
    weight = torch.randn_like(got)
    for mine, theirs in zip(*(torch.autograd.grad((out * weight).sum(), x) for out in (got, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_build_is_deterministic_and_rebuilds():
    one, two = (build("conv", input_shape=(1, 8, 8), classes=10, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    again = rebuild(one.architecture)
    assert again.spec == one.spec
    other = build("conv", input_shape=(1, 8, 8), classes=10, seed=4)
    assert not torch.equal(next(other.parameters()), next(one.parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg13"}, "Known: mlp"),
        ({"encoder": "morse"}, "Known: direct"),
        ({"encoder": "frames"}, "does not fit"),
        ({"input_shape": (8, 8)}, "3 sizes"),
        ({"classes": 1}, "at least 2"),
        ({"steps": 0}, "at least 1 time step"),
        ({"readout": "softmax"}, "Known: membrane"),
        ({"norm": "layer"}, "'batch' or 'none'"),
        ({"max_count": 3}, "events-count"),
    ],
)
def test_bad_architectures_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(**{"name": "conv", "input_shape": (1, 8, 8), "classes": 10, **arguments})


def test_wrong_input_shape_is_named():
    with pytest.raises(ModelContractError, match=r"\[B, 1, 8, 8\], got \[2, 3, 8, 8\]"):
        build("conv", input_shape=(1, 8, 8), classes=10)(torch.rand(2, 3, 8, 8))


def test_a_stochastic_model_draws_only_from_its_generator():
    model = build("mlp", input_shape=(1, 8, 8), classes=3, encoder="poisson", norm="none", threshold=0.1).eval()
    x = torch.rand(3, 1, 8, 8)
    with pytest.raises(ModelContractError, match="explicit generator"):
        model(x)
    state = torch.get_rng_state()
    one = model(x, DRAWS)
    assert torch.equal(model(x, DRAWS), one)
    assert not torch.equal(model(x, DRAWS.child("other")), one)
    assert torch.equal(model(x[[2, 0]], DRAWS.select([2, 0])), one[[2, 0]]) or torch.allclose(
        model(x[[2, 0]], DRAWS.select([2, 0])), one[[2, 0]], atol=1e-5
    )
    seeded = [model(x, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*seeded)
    assert torch.equal(torch.get_rng_state(), state)


def test_poisson_rate_is_the_pixel():
    x = torch.tensor([0.0, 0.25, 0.9, 1.0]).expand(3, 4)
    spikes = encoder("poisson").encode(x, 4000, DRAWS)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(spikes.mean((0, 1)), x[0], atol=0.02, rtol=0)


def test_latency_by_hand():
    x = torch.tensor([[1.0, 0.75, 0.5, 0.0]])
    spikes = encoder("latency").encode(x, 5, None)
    assert spikes.argmax(0).tolist() == [[0, 1, 2, 4]]
    assert spikes.sum(0).tolist() == [[1, 1, 1, 1]]


def test_rank_order_by_hand():
    x = torch.tensor([[0.1, 0.9, 0.5, 0.5]])
    spikes = encoder("rank-order").encode(x, 4, None)
    assert spikes.argmax(0).tolist() == [[3, 0, 1, 2]]
    assert encoder("rank-order").encode(x, 2, None).argmax(0).tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize("name", ["latency", "rank-order"])
def test_one_spike_codes_have_the_gradient_of_moving_the_spike(name):
    """A loss that falls by 1 a step later: raising a pixel moves its spike forward by slope, so the gradient is slope."""
    steps = 6
    x = torch.tensor([[0.42, 0.58, 0.3, 0.7, 0.51]]).requires_grad_()
    spikes = encoder(name).encode(x, steps, None)
    loss = (spikes * -torch.arange(steps, dtype=torch.float32).view(-1, 1, 1)).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    slope = steps - 1 if name == "latency" else steps
    torch.testing.assert_close(gradient, torch.full_like(x, float(slope)))


def test_single_spike_by_hand():
    x = torch.tensor([[1.0, 0.75, 0.7, 0.4, 0.0]])
    spikes = encoder("single-spike").encode(x, 5, None)
    assert torch.equal(spikes[0], x)
    assert spikes[1:].argmax(0).tolist() == [[0, 1, 1, 2, 3]]  # (1 - x) * 3 = 0, 0.75, 0.9, 1.8, 3
    assert encoder("single-spike").encode(x, 3, None)[1:].argmax(0).tolist() == [[0, 0, 0, 1, 1]]
    assert torch.equal(encoder("single-spike").encode(x, 1, None), x.unsqueeze(0))


@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_single_spike_codes_each_pixel_twice(steps):
    code = encoder("single-spike").encode
    x = torch.cat(
        [torch.rand(4, 40, generator=torch.Generator().manual_seed(steps)), torch.tensor([[0.0, 1.0, 0.5, 0.25]] * 4)], 1
    )
    spikes = code(x, steps, None)
    assert torch.equal(spikes[0], x)
    assert set(spikes[1:].unique().tolist()) <= {0.0, 1.0}
    assert (spikes[1:].sum(0) == 1).all()
    torch.testing.assert_close(spikes.sum(0), x + 1)
    time = spikes[1:].argmax(0)
    for values, times in zip(x, time, strict=True):
        assert (times[values.argsort(descending=True)].diff() >= 0).all()
    assert int(time.max()) == steps - 2
    assert torch.equal(code(x[[2]], steps, None), spikes[:, [2]])
    assert torch.equal(code(x[[3, 0]], steps, None), spikes[:, [3, 0]])


def test_single_spike_has_the_gradient_of_the_pixel_and_of_moving_the_spike():
    """The loss is 10 times the pixel, and falls by 1 for each step by which the spike comes later."""
    x = torch.tensor([[0.42, 0.58, 0.3, 0.7, 0.51]]).requires_grad_()
    spikes = encoder("single-spike").encode(x, 6, None)
    weight = torch.tensor([10.0, -1.0, -2.0, -3.0, -4.0, -5.0]).view(-1, 1, 1)
    (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, 10.0 + 4.0))


def test_every_encoder_lets_a_gradient_through():
    for name, code in ENCODERS.items():
        x = torch.rand(3, 4, 2, 5, 5) if name == "frames" else torch.rand(3, 1, 5, 5)
        leaf = x.requires_grad_()
        spikes = code.encode(leaf, 4, DRAWS)
        weight = torch.arange(spikes.numel(), dtype=torch.float32).view(spikes.shape)
        (gradient,) = torch.autograd.grad((spikes * weight).sum(), leaf)
        assert gradient.abs().sum() > 0, name


def test_draws_depend_on_seed_task_and_id_alone():
    draws = Draws(1, "t", ("x", "y", "z"))
    values = draws.uniform((4,))
    assert torch.equal(draws.select([2, 0]).uniform((4,)), values[[2, 0]])
    assert torch.equal(draws.padded(5).uniform((4,))[:3], values)
    each = [stream(1, "t", name) for name in draws.ids]
    assert torch.equal(values, torch.from_numpy(np.stack([one.random(4, dtype=np.float32) for one in each])))
    odd = [stream(1, "t", name).standard_normal(3, dtype=np.float32) for name in draws.ids]
    assert torch.equal(draws.normal((3,)), torch.from_numpy(np.stack(odd)))
    assert not torch.equal(Draws(2, "t", draws.ids).uniform((4,)), values)
    assert not torch.equal(draws.child("u").uniform((4,)), values)
    # gold: the first draws of one stream, so that a change of the generator is seen
    assert stream(0, "gold", "id").integers(0, 1000, 3).tolist() == [891, 784, 545]


class Leaky(nn.Module):
    """Keeps a membrane between forwards, as a framework's module does that nobody resets."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.membrane = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.membrane = 0.9 * self.membrane + self.linear(x).detach().mean()
        return self.linear(x) + self.membrane


class Crowd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] - x[:, :3].mean(0)


class Places(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + torch.arange(len(x))[:, None]


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + torch.rand(len(x), 3)


@pytest.mark.parametrize(
    ("module", "found"),
    [(Leaky(), "contract-repeat"), (Crowd(), "contract-split"), (Places(), "contract-order"), (Noise(), "contract-repeat")],
)
def test_broken_contracts_are_named(module, found):
    model = trustsnn.wrap(module, time_steps=1, classes=3)
    assert found in [finding["type"] for finding in check_contract(model, torch.rand(8, 4), 3)]


def test_a_reset_mends_a_leaking_module():
    model = trustsnn.wrap(Leaky(), time_steps=1, classes=3, reset=lambda m: setattr(m, "membrane", torch.zeros(())))
    findings = {finding["type"] for finding in check_contract(model, torch.rand(8, 4), 3)}
    assert "contract-repeat" not in findings


def test_a_forward_that_writes_into_its_input_is_named():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x.mul_(2.0))

    (finding,) = check_contract(Scaling(), torch.full((8, 4), 0.75), 3)
    assert finding["type"] == "contract-input"
    assert finding["evidence"] == {"lowest_value": 1.5, "highest_value": 1.5}


def test_wrapped_modules():
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3].expand(2, -1, -1) * torch.tensor([1.0, 3.0]).view(2, 1, 1)

    x = torch.rand(4, 6)
    model = trustsnn.wrap(Steps(), time_steps=2, classes=3)
    torch.testing.assert_close(model(x), 2 * x[:, :3])
    with pytest.raises(ModelContractError, match=r"\[5, B, K\]"):
        trustsnn.wrap(Steps(), time_steps=5, classes=3)(x)
    with pytest.raises(ConfigError, match="Linear"):
        trustsnn.wrap(Steps(), time_steps=2)
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
        trustsnn.wrap(lambda x: x, time_steps=2)
    with pytest.raises(ModelContractError, match="logits"):
        check_contract(trustsnn.wrap(Steps(), time_steps=2, classes=7), x, 7)


def test_blocks_give_the_same_bits_in_any_company(digits_model, digits_test):
    x = torch.from_numpy(digits_test.batch(range(100))[0])
    with frozen(digits_model):
        whole = predict(digits_model, x)
        seen = observe(digits_model, x)
        for size in (1, 7, 64):
            assert torch.equal(torch.cat([predict(digits_model, x[i : i + size]) for i in range(0, 100, size)]), whole)
    assert torch.equal(seen.logits, whole)
    trace = digits_model.unroll(x)
    for name, (fired, places) in seen.spikes.items():
        assert places == trace.spike_counts[name].numel() * 4
        assert abs(fired - float(trace.spike_counts[name].sum())) <= 2  # another batch shape may flip a spike


def test_a_memory_budget_cuts_blocks_and_changes_no_figure():
    model = build("conv", input_shape=(1, 12, 12), classes=10, channels=0.5)
    x = torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with frozen(model):
        whole = predict(model, x)
        model.memory = 1
        assert model.affordable == 1
        one = model._bytes
        model.memory = 7 * one + 1
        assert model.affordable == 7
        torch.testing.assert_close(predict(model, x), whole, rtol=0, atol=0)


def test_folded_normalisation_changes_logits_by_rounding_alone():
    model = build("conv", input_shape=(1, 12, 12), classes=10, channels=0.5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    x = torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with frozen(model):
        folded = predict(model, x)
    close = torch.isclose(folded, model(x).detach(), rtol=1e-4, atol=1e-5).all(1)
    assert close.float().mean() >= 0.9  # a sample may differ by a spike where a membrane meets the threshold


def test_weights_changed_between_two_evaluations_are_seen():
    model = build("conv", input_shape=(1, 12, 12), classes=10, channels=0.5)
    x = torch.rand(4, 1, 12, 12)
    with frozen(model):
        before = predict(model, x)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    with frozen(model):
        assert not torch.equal(predict(model, x), before)


@pytest.mark.parametrize("steps", [4, 5, 6, 8, 10])
def test_logits_of_any_number_of_steps_do_not_depend_on_the_batch(steps):
    """torch's own mean over time adds in an order that depends on a sample's place in memory."""
    torch.manual_seed(0)
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, steps=steps)
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(16, 1, 8, 8))
    x = torch.rand(70, 1, 8, 8)
    with frozen(model):
        whole = predict(model, x)
        for size in (1, 7, 33):
            assert torch.equal(torch.cat([predict(model, part) for part in x.split(size)]), whole)


def test_the_comparator_and_the_gain_are_those_asked_for(tmp_path):
    model = build("mlp", input_shape=(1, 2, 2), classes=3, channels=0.1, comparator=">", gain="leaky", leak=0.75)
    trustsnn.save(model, tmp_path / "m")
    again = trustsnn.load(tmp_path / "m")
    found = [layer.dynamics for layer in again.layers if isinstance(layer, SpikingNeuron)]
    assert [(d.comparator, d.gain, d.leak) for d in found] == [(">", "leaky", 0.75)] * 2
    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.eval()(x), model.eval()(x))
    plain = build("mlp", input_shape=(1, 2, 2), classes=3, channels=0.1)
    assert not {"comparator", "gain"} & plain.architecture["arguments"].keys()  # so that the hash of a network from before stays
    with pytest.raises(ConfigError, match="Expected gain to be one of"):
        build("mlp", input_shape=(1, 2, 2), classes=3, gain="full")
    with pytest.raises(ConfigError, match="are of the neuron 'lif', got the neuron 'relu'"):
        build("mlp", input_shape=(1, 2, 2), classes=3, neuron="relu", gain="leaky")
