"""The loss and the update of each recipe for one batch, against the formula written out."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from trustsnn.defenses.robust import recipe
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.gates import Gate
from trustsnn.neurons import Surrogate
from trustsnn.neurons.reference import _Spike
from trustsnn.rng import Draws
from trustsnn.training.sparse import synaptic_layers


def loss_of(chosen, model, batch):
    """The one loss of a recipe, and the logits with it."""
    ((loss, logits),) = list(chosen.losses(model, *batch))
    return loss, logits


def walk(model, x, y, draws, eps, step, steps, gradient, name="pgd"):
    """PGD from a random start in the ball, by autograd through the network as it is."""
    ids = tuple(f"{draws.task}/{each}" for each in draws.ids)
    uniform = Draws(draws.seed, name, ids).child("restart", 0).uniform(tuple(x.shape[1:]))
    found = (x + eps * (2 * uniform - 1)).clamp(0, 1)
    for _ in range(steps):
        leaf = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(gradient(model(leaf)), leaf)
        slope = slope.where(slope.abs() > 1e-12, 0.0)
        assert (slope != 0).float().mean() > 0.5
        found = torch.minimum(torch.maximum(found + step * slope.sign(), x - eps), x + eps).clamp(0, 1)
    return found.detach()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_at_is_the_loss_on_samples_of_pgd_in_eval_mode(norm, tiny, batch):
    model, (x, y, draws) = tiny(norm=norm), batch
    model.eval()
    adversarial = walk(model, x, y, draws, 0.2, 0.1, 3, lambda logits: cross_entropy(logits, y))
    model.train()
    loss, logits = loss_of(recipe("at", eps=0.2, steps=3, step_size=0.1), model, batch)
    torch.testing.assert_close(logits, model(adversarial))
    torch.testing.assert_close(loss, cross_entropy(logits, y))
    assert model.training
    assert not torch.allclose(logits, model(x))


def test_at_with_one_step_is_fgsm(tiny, batch):
    model, (x, y, _) = tiny(), batch
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(leaf), y), leaf)
    _, logits = loss_of(recipe("at", eps=0.1, steps=1), model, batch)
    torch.testing.assert_close(logits, model((x + 0.1 * slope.sign()).clamp(0, 1)))


def test_label_smoothing_reaches_the_loss(tiny, batch):
    model, (x, y, _) = tiny(), batch
    loss, _ = loss_of(recipe("tgo", weight=0, label_smoothing=0.2), model, batch)
    torch.testing.assert_close(loss, cross_entropy(model(x), y, label_smoothing=0.2))


def test_trades_is_clean_loss_and_divergence(tiny, batch):
    model, (x, y, draws) = tiny(), batch
    clean = softmax(model(x), 1).detach()

    def divergence(logits):
        return (clean * (clean.log() - softmax(logits, 1).log())).sum()

    adversarial = walk(model, x, y, draws, 0.2, 0.1, 2, divergence, "trades-pgd")
    loss, logits = loss_of(recipe("trades", eps=0.2, steps=2, step_size=0.1, beta=3), model, batch)
    torch.testing.assert_close(logits, model(x))
    assert divergence(model(adversarial)) > 0
    torch.testing.assert_close(loss, cross_entropy(logits, y) + 3 * divergence(model(adversarial)) / len(x))


def test_rat_pulls_singular_values_to_one(tiny):
    model = tiny()
    before = [layer.weight.detach().clone() for layer in synaptic_layers(model).values()]
    recipe("rat", beta=0.1).after_step(model)
    for old, layer in zip(before, synaptic_layers(model).values(), strict=True):
        u, s, v = torch.linalg.svd(old, full_matrices=False)
        torch.testing.assert_close(layer.weight.detach(), u @ torch.diag(1.1 * s - 0.1 * s**3) @ v)
    assert len(before) == 3


def test_rat_flattens_a_convolution():
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1)
    old = model.layers[0].weight.detach().clone().flatten(1)
    recipe("rat", beta=0.2).after_step(model)
    assert torch.allclose(model.layers[0].weight.detach().flatten(1), 1.2 * old - 0.2 * old @ old.T @ old, atol=1e-6)


def test_sr_is_the_squared_slope_along_the_sign_of_the_gradient(tiny, batch):
    model, (x, y, _) = tiny(), batch

    def share(z):
        rivals = torch.stack([torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(z, y, strict=True)])
        own = z[torch.arange(len(z)), y].exp()
        return own / (own + rivals.exp())

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(share(model(leaf)).sum(), leaf)
    slope = (share(model(x + 0.05 * gradient.sign())) - share(model(x))) / 0.05
    loss, _ = loss_of(recipe("sr", weight=0.5, h=0.05), model, batch)
    expected = cross_entropy(model(x), y) + 0.5 * (slope**2).mean()
    torch.testing.assert_close(loss, expected)
    assert (slope**2).mean() > 1e-3
    for mine, theirs in zip(*(torch.autograd.grad(each, model.layers[1].weight) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_mpd_sgr_is_the_share_of_a_normal_distribution(tiny, batch):
    model, (x, y, _) = tiny(width=0.5), batch
    shares = []
    for distances in model.distances(x)[1].values():
        layer = [[_share(column.tolist(), 0.5) for column in step.T] for step in distances.detach()]
        shares.append(float(torch.tensor(layer).mean()))
    loss, _ = loss_of(recipe("mpd-sgr", weight=2, width=0.5), model, batch)
    expected = float(cross_entropy(model(x), y).detach()) + 2 * sum(shares) / len(shares)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert all(0.05 < share < 0.999 for share in shares)


def _share(values, width):
    mean = sum(values) / len(values)
    spread = max((sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5, 1e-6)
    normal = NormalDist(mean, spread)
    return normal.cdf(width) - normal.cdf(-width)


def test_tgo_is_how_far_membranes_reach_into_the_margin(tiny, batch):
    model, (x, y, _) = tiny(), batch
    expected = float(cross_entropy(model(x), y).detach())
    for distances in model.distances(x)[1].values():
        inside = [max(0.0, 0.25 - abs(d)) for d in distances.flatten().tolist()]
        assert sum(inside) > 0
        expected += 0.7 * sum(inside) / len(inside)
    loss, _ = loss_of(recipe("tgo", weight=0.7, margin=0.25), model, batch)
    assert float(loss.detach()) == pytest.approx(expected)


def test_mppd_tv_is_adversarial_loss_and_the_shift_of_the_membranes(tiny, batch):
    model, (x, y, draws) = tiny(), batch
    adversarial = walk(model, x, y, draws, 0.2, 0.1, 2, lambda logits: cross_entropy(logits, y))
    pairs = zip(model.distances(adversarial)[1].values(), model.distances(x)[1].values(), strict=True)
    shifts = torch.stack([(a - b).abs().mean() for a, b in pairs])
    loss, logits = loss_of(recipe("mppd-tv", eps=0.2, steps=2, step_size=0.1, weight=5), model, batch)
    torch.testing.assert_close(logits, model(adversarial))
    torch.testing.assert_close(loss, cross_entropy(logits, y) + 5 * shifts.mean())
    assert all(shifts > 0)


def test_noise_takes_the_gradient_at_the_noisy_weights(tiny, batch):
    model, (x, y, draws) = tiny(channels=0.3), batch
    chosen = recipe("noise", sigma=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    loss, _ = loss_of(chosen, model, batch)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss.backward()
    moved = {}
    with chosen.applied(model, draws.child("applied")):
        for name, layer in synaptic_layers(model).items():
            moved[name] = layer.weight.detach().clone()
    for name, value in moved.items():
        drawn = (value - before[f"{name}.weight"]) / before[f"{name}.weight"].abs().max()
        assert float(drawn.std()) == pytest.approx(0.1, rel=0.15)
    other = build("mlp", **model.architecture["arguments"]).double()
    other.load_state_dict({**before, **{f"{name}.weight": value for name, value in moved.items()}})
    cross_entropy(other(x), y).backward()
    for (_, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    later, _ = loss_of(chosen, model, (x, y, Draws(5, "train/1", draws.ids)))
    assert not torch.equal(later, loss)


def test_stog_adds_the_squares_of_the_probabilities(tiny, batch):
    chosen = recipe("stog", weight=0.01, keep=0.5)
    model, (x, y, draws) = chosen.adapted(tiny()), batch
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    loss, logits = loss_of(chosen, model, batch)
    torch.testing.assert_close(logits, model(x, draws.child("encode")))
    neurons = sum(gate.keep.numel() for gate in gates)
    torch.testing.assert_close(loss, cross_entropy(logits, y) + 0.01 * 0.25 * neurons)
    assert chosen.adapted(model) is model


def test_feel_low_passes_the_images(tiny, batch):
    chosen = recipe("feel")
    model, (x, y, _) = chosen.adapted(tiny()), batch
    assert (model.spec.encoder, model.spec.stochastic) == ("frequency", False)
    loss, _ = loss_of(chosen, model, batch)
    torch.testing.assert_close(loss, cross_entropy(model(x), y))
    loss.backward()
    assert all(model.layers[place].leak.grad.abs().sum() > 0 for place in (2, 4))
    assert chosen.adapted(model) is model


def periods_by_hand(model, x, y, periods, eps, step, rate):
    """HIRE-SNN with plain loops over a network of two dense layers, and SGD; the parameters in the end."""
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    steps = model.spec.steps
    delta, total = torch.zeros_like(x), 0
    membranes = {"2": 0.0, "4": 0.0}
    for period in range(periods):
        noisy = (x + delta).clamp(0, 1).requires_grad_()
        for _ in range(steps // periods):
            h = noisy.flatten(1)
            for linear, neuron in (("1", "2"), ("3", "4")):
                leak, threshold = weights[f"layers.{neuron}.leak"], weights[f"layers.{neuron}.threshold"]
                u = leak * membranes[neuron] + h @ weights[f"layers.{linear}.weight"].T + weights[f"layers.{linear}.bias"]
                h = _Spike.apply(u - threshold, Surrogate(), False)
                membranes[neuron] = u * (1 - h)
            total = total + h @ weights["layers.5.weight"].T + weights["layers.5.bias"]
        loss = cross_entropy(total / ((period + 1) * steps // periods), y)
        found = torch.autograd.grad(loss, [*weights.values(), noisy])
        with torch.no_grad():
            for value, gradient in zip(weights.values(), found[:-1], strict=True):
                value -= rate * gradient
        delta = (delta + step * found[-1].sign()).clamp(-eps, eps)
        membranes = {name: value.detach() for name, value in membranes.items()}
        total = total.detach()
    return weights, delta


@pytest.mark.parametrize(("periods", "step"), [(1, 0.1), (2, 0.2), (4, 0.1)])
def test_hire_equals_plain_loops(periods, step, tiny, batch):
    model, (x, y, draws) = tiny(learn=True), batch
    expected, delta = periods_by_hand(model, x, y, periods, 0.15, step, 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    count = 0
    for loss, _ in recipe("hire", periods=periods, eps=0.15, step_size=step).losses(model, x, y, draws):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += 1
    assert count == periods
    assert delta.abs().max() > 0.1 - 1e-12
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name].detach(), msg=name)


@pytest.mark.parametrize("settings", [{}, {"periods": 4}, {"periods": 4, "step_size": 0.1}])
def test_the_noise_of_hire_reaches_its_eps(settings, tiny, batch, monkeypatch):
    model, (x, y, draws) = tiny(learn=True), batch
    moved, part = [], model.part
    monkeypatch.setattr(model, "part", lambda noisy, *rest: moved.append((noisy.detach() - x).abs().max()) or part(noisy, *rest))
    for loss, _ in recipe("hire", eps=0.2, **settings).losses(model, x, y, draws):
        loss.backward()
    assert float(max(moved)) == pytest.approx(0.2)


def test_noise_of_hire_that_cannot_reach_its_eps_is_refused():
    with pytest.raises(ConfigError, match=r"at least eps / \(periods - 1\) = 0.2, got 0.1: the noise would never reach eps"):
        recipe("hire", eps=0.2, step_size=0.1)


def test_recipes_that_join_add_up(tiny, batch):
    from trustsnn.defenses.robust import parse

    model, (x, y, _) = tiny(), batch
    clean = cross_entropy(model(x), y)
    parts = [loss_of(parse(name), model, batch)[0] - clean for name in ("tgo", "mpd-sgr", "sr")]
    loss, _ = loss_of(parse("tgo+mpd-sgr+sr"), model, batch)
    torch.testing.assert_close(loss, clean + torch.stack(parts).sum())
    attacked = loss_of(parse("at:eps=0.2:steps=2"), model, batch)
    both = loss_of(parse("at:eps=0.2:steps=2+tgo:weight=0"), model, batch)
    torch.testing.assert_close(both, attacked)
