"""S4NN against a simulation step by step and a loop over synapses; its invariants, its training, and the model contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.encoders import latency
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import check_contract
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.runners.resolve import resolve_model
from trustsnn.temporal import S4NN, S4NNConfig, train_s4nn
from trustsnn.temporal.events import latency_times
from trustsnn.temporal.s4nn import first_spikes, target_times
from trustsnn.training import accuracy

SHAPE = (1, 4, 5)


def simulate(times, weight, threshold, last):
    """Spike times and membranes at the spike, one step after the other."""
    spikes, at_spike = np.full((len(times), weight.shape[1]), float(last)), np.zeros((len(times), weight.shape[1]))
    for b, j in np.ndindex(*spikes.shape):
        potential = 0.0
        for step in range(last):
            potential += sum(w for t, w in zip(times[b], weight[:, j], strict=True) if t == step)
            at_spike[b, j] = potential
            if potential > threshold:
                spikes[b, j] = step + 1
                break
    return spikes, at_spike


def loop_backward(times, weight, spikes, gradient, last):
    """dt_j = -(sum over inputs before the spike of dw_i - w_i dt_i), synapse by synapse."""
    to_times, to_weight = np.zeros(times.shape), np.zeros(weight.shape)
    for b, i, j in np.ndindex(*times.shape, weight.shape[1]):
        if times[b, i] < last and times[b, i] < spikes[b, j]:
            to_times[b, i] += gradient[b, j] * weight[i, j]
            to_weight[i, j] -= gradient[b, j]
    return to_times, to_weight


@pytest.mark.parametrize("seed", range(4))
def test_spikes_and_gradients_equal_the_slow_loops(seed, drawn):
    last, threshold = 20, 2.5
    times, weight, gradient = drawn(seed, last=last)
    spikes, membrane = simulate(times.numpy(), weight.numpy(), threshold, last)
    assert 0 < (spikes == last).mean() < 1
    times.requires_grad_()
    weight.requires_grad_()
    got, at_spike = first_spikes(times, weight, threshold, last)
    assert np.array_equal(got.detach().numpy(), spikes)
    assert np.allclose(at_spike.numpy(), membrane)
    wanted = loop_backward(times.detach().numpy(), weight.detach().numpy(), spikes, gradient.numpy(), last)
    for found, expected in zip(torch.autograd.grad(got, (times, weight), gradient), wanted, strict=True):
        assert np.allclose(found.numpy(), expected)


def test_no_input_is_no_spike():
    spikes, membrane = first_spikes(torch.full((3, 4), 9.0), torch.ones(4, 2), 1.0, 9)
    assert (spikes == 9).all()
    assert (membrane == 0).all()


def test_the_code_is_that_of_the_encoder_with_black_too_late():
    x = torch.arange(256).view(1, -1) / 255
    times = latency_times(x, 256)
    assert torch.equal(times, latency(x, 257).argmax(0).float())
    assert torch.equal(times[0], torch.cat([torch.tensor([256.0]), 255.0 - torch.arange(1, 256)]))


def network(**arguments):
    return S4NN(SHAPE, 3, **{"hidden": 8, "last": 16, "spread": (30.0, 60.0), **arguments}).eval()


def images(count, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) ** 2


def test_brighter_pixels_never_make_a_neuron_of_positive_weights_later():
    model, x = network(), images(40)
    for brighter in (x + 0.3 * images(40, 1), x.sqrt()):
        for before, after in zip(model.spikes(x)[:2], model.spikes(brighter.clamp(0, 1))[:2], strict=True):
            assert (after <= before).all()
            assert (after < before).any()


def test_each_neuron_spikes_once_at_most_and_the_trace_means_the_logits():
    model, x = network(spread=(30.0, 20.0)), images(40)
    trace = model.unroll(x)
    logits, spikes = model(x), model.spikes(x)[1]
    assert torch.allclose(mean_over_time(trace.logits), logits, atol=1e-4)
    assert {*torch.cat([*(c.flatten() for c in trace.spike_counts.values())]).tolist()} == {0.0, 1.0}
    crossed = (trace.membrane > model.threshold).float()
    first = torch.where(crossed.amax(0) > 0, crossed.argmax(0) + 1.0, 16.0)
    assert torch.equal(first, spikes)
    assert 0 < (spikes == 16).float().mean() < 1


def test_logits_rank_by_time_and_then_by_membrane():
    model, x = network(), images(200)
    _, spikes, membrane = model.spikes(x)
    order = model(x).argsort(dim=1, descending=True)
    sorted_spikes, sorted_membrane = spikes.gather(1, order), membrane.gather(1, order)
    together = sorted_spikes[:, 1:] == sorted_spikes[:, :-1]
    assert (sorted_spikes[:, 1:] >= sorted_spikes[:, :-1]).all()
    assert together.any()
    assert not together.all()
    assert (sorted_membrane[:, 1:] <= sorted_membrane[:, :-1])[together].all()


def test_logits_are_the_same_bits_in_any_batch(trained, digits_test):
    x = torch.from_numpy(digits_test.batch(range(60))[0])
    with torch.no_grad():
        whole = trained(x)
        assert torch.equal(whole, torch.cat([trained(part) for part in x.split([1, 7, 20, 32])]))
        assert torch.equal(whole, trained(x.flip(0)).flip(0))
        assert check_contract(trained, x[:32], 10) == []


def test_targets_after_the_paper():
    spikes = torch.tensor([[5.0, 7.0, 8.0, 20.0], [5.0, 5.0, 9.0, 20.0], [20.0, 20.0, 20.0, 20.0], [19.0, 20.0, 20.0, 20.0]])
    wanted = [[8, 5, 8, 20], [5, 8, 9, 20], [20, 20, 17, 20], [20, 20, 20, 19]]
    assert target_times(spikes, torch.tensor([1, 0, 2, 3]), 20, 3).tolist() == wanted


def arrays(x, y):
    return trustsnn.data.from_arrays(x.numpy(), y.numpy(), domain="image", max_count=None, classes=3)


def test_compiled_training_equals_autograd_on_one_image_after_the_other():
    config = S4NNConfig(epochs=2, learning_rate=2.0, gamma=4, decay=1e-3)
    x, y = images(30), torch.arange(30) % 3
    compiled, plain = network(), network()
    data = arrays(x, y)
    log = train_s4nn(compiled, data, config)
    plain.train()
    losses = []
    for epoch in range(2):
        rate = config.learning_rate * (1, 0.5)[epoch]
        for row in trustsnn.rng.stream(0, f"order/{epoch}").permutation(30):
            _, spikes, _ = plain.spikes(torch.from_numpy(data.batch([row])[0]))
            error = (target_times(spikes.detach(), torch.tensor([data.labels[row]]), 16, 4) - spikes) / 16
            loss = 0.5 * (error**2).sum()
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, [plain.hidden, plain.output])
            with torch.no_grad():
                for weight, gradient in zip((plain.hidden, plain.output), gradients, strict=True):
                    weight -= rate * gradient
        with torch.no_grad():
            for weight in (plain.hidden, plain.output):
                weight *= (1 - rate * config.decay) ** 30
    fresh = network()
    for name, weight in plain.state_dict().items():
        assert not torch.allclose(weight, fresh.state_dict()[name], rtol=1e-2)
        assert torch.allclose(compiled.state_dict()[name], weight, rtol=1e-4, atol=1e-3), name
    assert log[1]["loss"] == pytest.approx(np.mean(losses[30:]), rel=1e-4)


def test_digits_are_learnt_and_attacked(trained, digits_test):
    assert accuracy(trained, digits_test)["value"] > 0.85
    few = digits_test.take(40)
    x, y = (torch.from_numpy(a) for a in few.batch(range(40)))
    found = PGD(eps=0.2, steps=10)(trained, x, y)
    adversarial = getattr(found, "x", found)
    clean, robust = ((trained(each).argmax(1) == y).float().mean() for each in (x, adversarial))
    assert robust < clean - 0.2


def test_weights_in_a_file_make_the_papers_network_again(tmp_path):
    model, x = S4NN(seed=3), torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    found = resolve_model("trustsnn.temporal:S4NN", tmp_path / "weights.safetensors")
    assert torch.equal(found(x), model.eval()(x))
    assert not torch.equal(found(x), S4NN(seed=4).eval()(x))


class Killed(Exception):
    pass


def test_training_resumes_bit_for_bit_and_tells_its_progress(tmp_path, digits_train):
    data, config = digits_train.take(1200), S4NNConfig(epochs=3, learning_rate=1.0)
    models = [S4NN((1, 8, 8), hidden=10, spread=(20.0, 20.0)) for _ in range(3)]
    seen = []
    log = train_s4nn(models[0], data, config, test=digits_train.take(50), on_step=seen.append)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(e, s, 2) for e in range(3) for s in (1, 2)]
    assert all(0 <= row["test_accuracy"] <= 1 and math.isfinite(row["loss"]) for row in log)

    def kill(progress):
        if progress.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train_s4nn(models[1], data, config, folder=tmp_path, on_step=kill)
    train_s4nn(models[2], data, config, folder=tmp_path)
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, models[2].state_dict()[name])
    with pytest.raises(ConfigError, match="config differ"):
        train_s4nn(models[2], data, S4NNConfig(epochs=4, learning_rate=1.0), folder=tmp_path)


def test_hidden_neurons_that_hardly_spike_are_drawn_again():
    model, x = network(), images(30)
    with torch.no_grad():
        model.hidden[:, 3] = -1.0
    data = arrays(x, torch.arange(30) % 3)
    train_s4nn(model, data, S4NNConfig(epochs=1, learning_rate=1e-6))
    assert (model.hidden[:, 3] < 0).all()
    train_s4nn(model, data, S4NNConfig(epochs=2, learning_rate=1e-6))
    assert (model.hidden[:, 3] > 0).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: S4NN(hidden=0), "hidden"),
        (lambda: S4NN(threshold=0.0), "threshold"),
        (lambda: S4NNConfig(epochs=0), "epochs"),
        (lambda: S4NNConfig(gamma=0), "gamma"),
        (lambda: S4NNConfig(learning_rate=math.nan), "learning rate"),
        (lambda: train_s4nn(S4NN((1, 8, 8)), arrays(images(3), torch.arange(3))), "does not fit"),
    ],
)
def test_bad_settings_are_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(ModelContractError, match="Expected a batch"):
        network()(torch.zeros(2, 3))
