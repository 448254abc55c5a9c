"""Gradient estimators against plain loops over time and against autograd, and their independence of batch and kernel."""

from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from trustsnn import kernels
from trustsnn.attacks import PGD
from trustsnn.attacks.estimators import ASSG, BPTR, CBA, ESTIMATORS, HART, PDSG, RGA, Mixture, estimator
from trustsnn.attacks.losses import cross_entropy
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, input_gradient, predict
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import build
from trustsnn.neurons import STBP, Dynamics, SpikingNeuron, Surrogate
from trustsnn.rng import Draws

OPTIONS = list(itertools.product(("hard", "soft"), (False, True), (">=", ">"), ("unit", "leaky"), (0.0, 0.5), (0.7, 1.0)))
ALL = (
    STBP(Surrogate("atan", 0.5)),
    BPTR(),
    RGA(),
    HART(0.8),
    PDSG(),
    ASSG(),
    CBA(),
    Mixture((HART(2.0), STBP(), RGA(0.1)), (1.0, 2.0, 0.5)),
    Mixture((CBA(), ASSG())),
)


def named(one) -> str:
    return str(one.describe()["name"])


@pytest.fixture(params=kernels.BACKENDS)
def backend(request):
    if request.param not in kernels.available():
        pytest.skip(f"{request.param} is not here")
    with kernels.using(request.param):
        yield request.param


# ---- references: one step after the other, written from the papers' equations


class Step(torch.autograd.Function):
    """A spike whose derivative is what it is told."""

    @staticmethod
    def forward(ctx, distance, slope, strict):
        ctx.save_for_backward(slope)
        return (distance > 0 if strict else distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None, None


def simulated(current, dynamics: Dynamics, slope):
    """Spikes and membranes, step by step; `slope(distance, t, membranes so far)` is the spike's derivative."""
    leak, threshold = dynamics.leak, dynamics.threshold
    gain = 1 - leak if dynamics.gain == "leaky" else 1
    after = torch.full_like(current[0], dynamics.initial * threshold)
    spikes, membranes = [], []
    for t, x in enumerate(current):
        u = leak * after + gain * x
        membranes.append(u)
        s = Step.apply(u - threshold, slope((u - threshold).detach(), t, membranes), dynamics.comparator == ">")
        spikes.append(s)
        back = s.detach() if dynamics.detach_reset else s
        after = u * (1 - back) if dynamics.reset == "hard" else u - back * threshold
    return torch.stack(spikes), torch.stack(membranes)


def by_autograd(current, weight, dynamics, slope):
    leaf = current.clone().requires_grad_()
    spikes, _ = simulated(leaf, dynamics, slope)
    return torch.autograd.grad((spikes * weight).sum(), leaf)[0]


def gain_of(dynamics):
    return 1 - dynamics.leak if dynamics.gain == "leaky" else 1.0


def bptr_reference(current, weight, dynamics):
    spikes, _ = simulated(current, dynamics, lambda d, t, us: d)
    return torch.stack([g * (spikes.mean(0) > 0) * gain_of(dynamics) for g in weight])


def rga_reference(current, weight, dynamics, gamma=0.2):
    tau, factor = dynamics.leak, torch.zeros_like(current[0])
    mean = current.mean(0) * gain_of(dynamics) / dynamics.threshold
    for place, x in enumerate(mean.flatten().tolist()):
        if 0 <= x <= 1 - tau:
            factor.view(-1)[place] = gamma
        elif 1 - tau < x <= 2:
            factor.view(-1)[place] = (1 - gamma + gamma * tau) / (tau + 1)
    return torch.stack([g * factor * gain_of(dynamics) / dynamics.threshold for g in weight])


def hart_reference(current, weight, dynamics, gamma=0.8):
    _, membranes = simulated(current, dynamics, lambda d, t, us: d)
    each = [g * (gamma - (u - dynamics.threshold).abs()).clamp(min=0) / gamma**2 for g, u in zip(weight, membranes, strict=True)]
    return torch.stack([torch.stack(each).mean(0) * gain_of(dynamics)] * len(weight))


def pdsg_slope(distance, t, membranes):
    seen = torch.stack(membranes).detach()
    slope = torch.zeros_like(distance)
    for b in range(distance.shape[0]):
        channels = range(distance.shape[1]) if distance.dim() > 2 else [slice(None)]
        for c in channels:
            sigma = seen[:, b, c].std().item()
            sigma = 1.0 if not sigma > 0 else sigma
            slope[b, c] = torch.distributions.Normal(sigma / 2, sigma).log_prob(distance[b, c].double()).exp()
    return slope


REFERENCES = {
    "bptr": bptr_reference,
    "rga": rga_reference,
    "hart": hart_reference,
    "pdsg": lambda x, g, dynamics: by_autograd(x, g, dynamics, pdsg_slope),
    "stbp": lambda x, g, dynamics: by_autograd(x, g, dynamics, lambda d, t, us: 1 / (1 + (math.pi * d) ** 2)),
}


def layer_gradient(neuron, current, weight, steps):
    leaf = current.clone().requires_grad_()
    return torch.autograd.grad((neuron.fire(leaf, steps) * weight).sum(), leaf)[0]


@pytest.mark.parametrize("keep", ["full", "recompute"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("one", ALL[:5], ids=named)
def test_a_layer_equals_its_reference_for_every_neuron(backend, one, constant, keep):
    shape = (3, 2, 2, 3) if named(one) == "pdsg" else (3, 7)
    for number, (reset, detach, comparator, gain, initial, leak) in enumerate(OPTIONS):
        if keep == "recompute" and number % 5:
            continue
        dynamics = Dynamics(leak, 0.6, reset, detach, comparator, gain, initial)
        generator = torch.Generator().manual_seed(number)
        current = torch.randn(1 if constant else 5, *shape, generator=generator) * 1.2 + 0.4
        weight = torch.randn(5, *shape, generator=generator)
        neuron = SpikingNeuron(dynamics, learn=number % 2 == 0)  # whose leak and threshold then need gradients too
        neuron.keep = keep
        with one.applied(neuron):
            got = layer_gradient(neuron, current, weight, 5)
        expected = REFERENCES[named(one)](current.double().expand(5, *shape), weight.double(), dynamics)
        expected = expected.sum(0, keepdim=True) if constant else expected
        torch.testing.assert_close(got.double(), expected, rtol=2e-4, atol=2e-5)
        if dynamics.gain == "unit" or leak < 1:
            assert got.abs().max() > 0


def test_bptr_at_the_threshold():
    """The membrane reaches V exactly: a spike with >= and none with >."""
    for comparator, passed in ((">=", 1.0), (">", 0.0)):
        neuron = SpikingNeuron(Dynamics(comparator=comparator))
        with BPTR().applied(neuron):
            assert layer_gradient(neuron, torch.ones(1, 1, 1), torch.ones(1, 1, 1), 1).item() == passed


def test_pdsg_takes_the_neurons_of_a_layer_without_space_together():
    torch.manual_seed(0)
    current, weight = torch.rand(4, 2, 9) * 2, torch.randn(4, 2, 9)
    neuron = SpikingNeuron()
    with PDSG().applied(neuron):
        got = layer_gradient(neuron, current, weight, 4)
    expected = by_autograd(current, weight, neuron.dynamics, lambda d, t, us: pdsg_slope(d, t, us))
    torch.testing.assert_close(got, expected)


def test_pdsg_without_spread_has_a_surrogate_of_width_one():
    neuron = SpikingNeuron(Dynamics(leak=0.0))
    with PDSG().applied(neuron):
        got = layer_gradient(neuron, torch.full((1, 1, 3), 0.4), torch.ones(1, 1, 3), 1)
    density = math.exp(-((0.4 - 1 - 0.5) ** 2) / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(got, torch.full((1, 1, 3), density))


class Layer(nn.Module):
    """One layer of neurons on the input as a constant current."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.neuron = SpikingNeuron(dynamics)

    def forward(self, x):
        return self.neuron.fire(x.unsqueeze(0), 4).mean(0)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_assg_over_iterations_equals_its_reference(backend, reset):
    dynamics = Dynamics(0.8, 0.6, reset)
    model, area = Layer(dynamics).eval(), 0.4
    generator = torch.Generator().manual_seed(2)
    points = [torch.rand(3, 10, generator=generator) for _ in range(4)]
    y, ids = torch.tensor([1, 2, 3]), ("a", "b", "c")
    mean: dict[str, torch.Tensor] = {}
    spread: dict[str, torch.Tensor] = {}
    rounds = [(0, 1, 2), (0, 2), (2, 1), (0, 1, 2)]  # samples leave and come back in another order
    with frozen(model), ASSG(area=area).applied(model):
        for x, rows in zip(points, rounds, strict=True):
            draws = Draws(0, "t", ids).select(rows)
            part = input_gradient(model, x[list(rows)], y[list(rows)], cross_entropy, draws)
            for k, row in enumerate(rows):
                sample = x[row : row + 1].double()

                def slope(d, t, us, name=ids[row]):
                    m = 0.9 * mean.get((name, t), torch.ones_like(d)) + 0.1 * d.abs()
                    dev = 0.9 * spread.get((name, t), torch.zeros_like(d)) + 0.1 * (d.abs() - m).abs()
                    mean[name, t], spread[name, t] = m, dev
                    alpha = 2 * math.tan(math.pi * area) / math.pi / (m + 1.5 * dev + 1e-4)
                    return alpha / 2 / (1 + (math.pi / 2 * alpha * d) ** 2)

                leaf = sample.requires_grad_()
                spikes, _ = simulated(leaf.unsqueeze(0).expand(4, -1, -1), dynamics, slope)
                loss = nn.functional.cross_entropy(spikes.mean(0), y[row : row + 1])
                (expected,) = torch.autograd.grad(loss, leaf)
                got = part.direction[k].double() * part.scale[k]
                torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-6)


def test_assg_starts_afresh_and_refuses_samples_it_cannot_name(digits_model, digits_test):
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(6)))
    draws, one = Draws(0, "t", tuple("abcdef")), ASSG()

    def twice():
        with one.applied(digits_model):
            return [input_gradient(digits_model, x, y, cross_entropy, draws).direction for _ in range(2)]

    with frozen(digits_model):
        first, second = twice()
        assert not torch.equal(first, second)  # the statistics moved
        assert torch.equal(twice()[0], first)
        with one.applied(digits_model), pytest.raises(ModelContractError, match="which samples these are"):
            input_gradient(digits_model, x, y, cross_entropy)
        leaf = x.clone().requires_grad_()
        with one.applied(digits_model):
            input_gradient(digits_model, x, y, cross_entropy, draws)
            with pytest.raises(ModelContractError, match="which samples these are"):  # those of before are not taken again
                torch.autograd.grad(digits_model(leaf).sum(), leaf)


def plain_twin(model, x):
    """The twin of a `conv` network written out in torch."""
    h = x
    for layer in model.layers:
        h = h.relu() if isinstance(layer, SpikingNeuron) else layer(h)
    return h


@pytest.mark.parametrize("given", ["direct", "poisson", "frames"])
def test_cba_is_the_chain_rule_through_the_twin(backend, given, digits_model, poisson_model, digits_test):
    y = torch.tensor([3, 1, 4, 1, 5])
    draws = Draws(1, "t", tuple("abcde"))
    if given == "frames":
        model = build("conv", input_shape=(3, 2, 8, 8), classes=10, channels=0.3, steps=3, domain="events-binary", seed=1)
        x = (torch.rand(5, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    else:
        model = digits_model if given == "direct" else poisson_model
        x = torch.from_numpy(digits_test.batch(range(5))[0])
    leaf = x.clone().requires_grad_()
    with frozen(model):
        with CBA().applied(model):
            got = input_gradient(model, x, y, cross_entropy, draws)
        logits = plain_twin(model, leaf.mean(1) if given == "frames" else leaf)
        # the twin's gradient for the gradient that the spiking network's own loss has at its logits
        top = got.logits.double().requires_grad_()
        (seed,) = torch.autograd.grad(cross_entropy(top, y).sum(), top)
        (expected,) = torch.autograd.grad(logits, leaf, seed.float())
        assert expected.abs().max() > 0
        found = got.direction * got.scale.view(-1, *[1] * (x.dim() - 1)).float()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        twin = ann_twin(model)
        with frozen(twin):
            torch.testing.assert_close(predict(twin, x), logits.detach(), rtol=1e-4, atol=1e-4)


def test_cba_with_a_leaky_gain_soft_reset_and_a_spiking_readout(backend):
    torch.manual_seed(0)
    model = build("mlp", input_shape=(1, 4, 4), classes=5, readout="spike-count", channels=0.1)
    for place, layer in enumerate(model.layers):
        if isinstance(layer, SpikingNeuron):
            model.layers[place] = SpikingNeuron(Dynamics(0.6, 0.4, "soft", gain="leaky"), learn=True)
    model.eval()
    x = torch.rand(4, 1, 4, 4)
    leaf, other, weight = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.rand(4, 5)
    with CBA().applied(model):
        (model(leaf) * weight).sum().backward()  # with the gradients of all weights, leaks and thresholds
    h = other
    for layer in model.layers:
        h = (h * 0.4).relu() if isinstance(layer, SpikingNeuron) else layer(h)
    (h * weight).sum().backward()
    assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ann_twin(model)(x), h.detach(), rtol=1e-4, atol=1e-5)


def test_the_twin_trains_as_what_it_is(backend, digits_train):
    twin = ann_twin(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.125)).network.train()
    assert model_hash(twin) != model_hash(
        ann_twin(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.125, seed=1)).network
    )
    for neuron in twin.layers:
        if isinstance(neuron, SpikingNeuron):
            neuron.estimator = STBP()  # as if it spiked
    x = torch.from_numpy(digits_train.batch(range(16))[0])
    h = x
    for layer in copy.deepcopy(twin.layers):
        h = h.relu() if isinstance(layer, SpikingNeuron) else layer(h)
    torch.testing.assert_close(twin(x), h, rtol=1e-4, atol=1e-5)


def test_the_twin_is_attacked_by_itself_in_any_batch(digits_model, digits_test):
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(40)))
    before = {name: value.clone() for name, value in digits_model.state_dict().items()}
    twin = ann_twin(digits_model)
    attack = PGD(eps=0.2, steps=4)
    whole = attack(twin, x, y)
    assert torch.equal(torch.cat([attack(twin, x[i : i + 9], y[i : i + 9]) for i in range(0, 40, 9)]), whole)
    assert all(torch.equal(before[name], value) for name, value in digits_model.state_dict().items())
    with frozen(twin):
        assert (predict(twin, whole).argmax(1) == y).sum() < (predict(twin, x).argmax(1) == y).sum()


def test_cba_and_the_twin_refuse_models_without_a_known_twin():
    with pytest.raises(ConfigError, match="SpikingNetwork"):
        ann_twin(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="SpikingNetwork"), CBA().applied(nn.Sequential(SpikingNeuron())):
        pass
    for one in (CBA(), ASSG()):
        neuron = SpikingNeuron()
        neuron.estimator = one
        with pytest.raises(ModelContractError, match="applied"):
            layer_gradient(neuron, torch.rand(2, 1, 3), torch.ones(2, 1, 3), 2)


def test_a_mixture_is_the_weighted_mean_at_one_layer():
    torch.manual_seed(0)
    current, weight = torch.rand(4, 3, 6) * 2, torch.randn(4, 3, 6)
    neuron = SpikingNeuron(learn=True)

    def gradients(one):
        leaf = current.clone().requires_grad_()
        with one.applied(neuron):
            found = torch.autograd.grad((neuron(leaf) * weight).sum(), [leaf, neuron.leak, neuron.threshold])
        return found

    parts = [gradients(one) for one in (HART(2.0), RGA(), STBP())]
    mixed = gradients(Mixture((HART(2.0), RGA(), STBP()), (1.0, 2.0, 5.0)))
    torch.testing.assert_close(mixed[0], (parts[0][0] + 2 * parts[1][0] + 5 * parts[2][0]) / 8)
    for place in (1, 2):  # the first two have no gradient of leak and threshold, which counts as zero
        assert parts[0][place] == parts[1][place] == 0
        assert parts[2][place] != 0
        torch.testing.assert_close(mixed[place], parts[2][place] * 5 / 8)


# ---- invariants


def same_in_any_batch(attack, model, x, y, size, ids=None):
    whole = attack(model, x, y, ids)
    assert (whole != x).flatten(1).any(1).sum() > 0.6 * len(x)
    cuts = [slice(i, i + size) for i in range(0, len(x), size)]
    parts = [attack(model, x[cut], y[cut], ids[cut] if ids else None) for cut in cuts]
    assert torch.equal(torch.cat(parts), whole)
    if ids is None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
        assert torch.equal(attack(model, x[order], y[order]), whole[order])


@pytest.mark.parametrize("one", ALL, ids=named)
def test_neither_batch_nor_order_matters(one, digits_model, digits_test):
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(37)))
    x, y = torch.cat([x, x[:2]]), torch.cat([y, y[:2]])  # two samples twice, whose ids are then the same
    same_in_any_batch(PGD(eps=0.08, steps=3, restarts=2, estimator=one), digits_model, x, y, 7)


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_nor_with_another_kernel(name, digits_test):
    if name not in kernels.available():
        pytest.skip(f"{name} is not here")
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.2, seed=3)
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(36)))
    with kernels.using(name):
        same_in_any_batch(PGD(eps=0.1, steps=2, early_stop=False, estimator=Mixture(ALL[:-2])), model, x, y, 20)


@pytest.mark.parametrize("one", [ASSG(), CBA()], ids=named)
def test_nor_for_a_stochastic_model(one, poisson_model, digits_test):
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(20)))
    ids = [f"s{i}" for i in range(20)]
    same_in_any_batch(PGD(eps=0.1, steps=2, eot=2, estimator=one), poisson_model, x, y, 6, ids)


@pytest.mark.parametrize("one", ALL, ids=named)
def test_each_breaks_something_and_leaves_the_model_as_it_was(one, digits_model, digits_test):
    x, y = (torch.from_numpy(each) for each in digits_test.batch(range(64)))
    own = [m.estimator for m in digits_model.modules() if isinstance(m, SpikingNeuron)]
    adversarial = PGD(eps=0.2, steps=5, estimator=one)(digits_model, x, y)
    with frozen(digits_model):
        clean, robust = ((predict(digits_model, each).argmax(1) == y).sum() for each in (x, adversarial))
    assert robust < clean - 20
    assert [m.estimator for m in digits_model.modules() if isinstance(m, SpikingNeuron)] == own
    assert not digits_model._forward_pre_hooks
    with pytest.raises(ZeroDivisionError), one.applied(digits_model):
        raise ZeroDivisionError
    assert [m.estimator for m in digits_model.modules() if isinstance(m, SpikingNeuron)] == own
    assert not digits_model._forward_pre_hooks


@pytest.mark.parametrize("one", ALL, ids=named)
def test_names_and_settings_make_the_same_estimator_again(one):
    assert estimator(**one.describe()) == one


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hartt", {}, "Did you mean 'hart'"),
        ("hart", {"width": 1.0}, "no setting width. Known: gamma"),
        ("bptr", {"gamma": 1.0}, "Known: none"),
        ("hart", {"gamma": 0.0}, "gamma"),
        ("rga", {"gamma": "much"}, "gamma"),
        ("rga", {"gamma": 1.5}, "gamma"),
        ("assg", {"area": 0.5}, "area"),
        ("assg", {"decay": float("nan")}, "decay"),
        ("stbp", {"surrogate": "gaussian"}, "Known: triangular"),
        ("mixture", {}, "parts"),
        ("mixture", {"parts": []}, "parts of a mixture"),
        ("mixture", {"parts": [{"gamma": 1.0}]}, "with a name"),
        ("mixture", {"parts": [{"name": "bptr"}], "weights": [0.0]}, "1 weights"),
        ("mixture", {"parts": [{"name": "bptr"}], "weights": [1.0, 1.0]}, "1 weights"),
    ],
)
def test_bad_names_and_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        estimator(name, **settings)


def test_the_catalogue_is_whole_and_light():
    for name in ESTIMATORS.describe():
        assert callable(ESTIMATORS.load(name))
    code = "import sys; from trustsnn.attacks.estimators import ESTIMATORS; ESTIMATORS.describe(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
