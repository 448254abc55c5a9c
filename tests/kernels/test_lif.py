"""The fused neurons in float32, whichever kernel, against the plain reference; and the backends themselves."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from trustsnn import kernels
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels import native
from trustsnn.neurons import STBP, SURROGATES, Dynamics, SpikingNeuron, Surrogate, fire, reference_forward
from trustsnn.neurons.normalised import normalised_fire, normalised_resume

OPTIONS = list(itertools.product(("hard", "soft"), (False, True), (">=", ">"), ("unit", "leaky"), (0.0, 0.5)))
KEEPS = ("full", "half", "recompute")


@pytest.fixture(params=kernels.BACKENDS)
def backend(request):
    if request.param not in kernels.available():
        pytest.skip(f"{request.param} is not here")
    with kernels.using(request.param):
        yield request.param


def gradients(function, current, leak, threshold, weight, *arguments, **options):
    leaves = [t.clone().requires_grad_() for t in (current, leak, threshold)]
    spikes, _ = function(*leaves, *arguments, **options)
    return spikes.detach(), torch.autograd.grad((spikes * weight).sum(), leaves)


def expected(current, leak, threshold, weight, dynamics, surrogate):
    """The float64 reference of float32 inputs, and where its spikes leave no doubt."""
    exact = [t.double() for t in (current, leak, threshold)]
    spikes, found = gradients(reference_forward, *exact, weight.double(), dynamics, surrogate)
    return spikes.float(), [g.float() for g in found]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("constant", [False, True])
def test_every_kernel_equals_the_reference(backend, keep, surrogate, constant):
    for number, options in enumerate(OPTIONS):
        generator = torch.Generator().manual_seed(number)
        current = torch.randn(1 if constant else 5, 3, 37, generator=generator) * 1.5
        weight = torch.randn(5, 3, 37, generator=generator)
        leak, threshold = torch.tensor(0.7), torch.tensor(0.6)
        dynamics = Dynamics(0.7, 0.6, *options)
        chosen = Surrogate(surrogate, 0.8)
        spikes, found = expected(current.expand(5, -1, -1), leak, threshold, weight, dynamics, chosen)
        to_current = found[0].sum(0, keepdim=True) if constant else found[0]
        got, mine = gradients(fire, current, leak, threshold, weight, dynamics, STBP(chosen), steps=5, keep=keep)
        assert torch.equal(got, spikes), options
        assert spikes.mean() > 0.03
        # A membrane in bfloat16 moves a surrogate with edges where it crosses one: allow single neurons there.
        close = torch.isclose(mine[0], to_current, rtol=2e-2 if keep == "half" else 1e-4, atol=2e-2 if keep == "half" else 1e-5)
        assert close.float().mean() > (0.97 if keep == "half" else 0.9999), options
        for one, other in zip(mine[1:], found[1:], strict=True):
            bound = 0.02 * (1 + weight.abs().sum() + other.abs()) if keep == "half" else 1e-3 * (1 + other.abs())
            assert (one - other).abs() < bound, options


def test_spikes_are_those_of_the_reference_bit_for_bit(backend):
    torch.manual_seed(0)
    current = torch.randn(9, 4, 1000)
    for options in OPTIONS:
        dynamics = Dynamics(0.5, 1.0, *options)
        leak, threshold = torch.tensor(0.5), torch.tensor(1.0)
        spikes, membrane = fire(current, leak, threshold, dynamics, STBP())
        other, before = reference_forward(current, leak, threshold, dynamics, Surrogate())
        assert torch.equal(spikes, other)
        assert torch.equal(membrane, before)


@pytest.mark.parametrize("shape", [(4, 2, 64, 3, 5), (4, 3, 1, 5, 5), (3, 1, 7), (2, 5, 3, 1, 1), (1, 1, 1), (100, 2, 3000)])
@pytest.mark.parametrize("order", ["rows", "channels last", "turned"])
def test_memory_order_changes_nothing(backend, shape, order):
    torch.manual_seed(1)
    current, weight = torch.randn(shape), torch.randn(shape)
    parameters = (torch.tensor(0.5), torch.tensor(1.0))
    spikes, found = gradients(fire, current, *parameters, weight, Dynamics(), STBP())
    if order == "channels last" and len(shape) == 5:
        current = current.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    elif order == "turned":
        current = current.transpose(0, 1).contiguous().transpose(0, 1)
        weight = weight.transpose(0, -1).contiguous().transpose(0, -1)
    again, others = gradients(fire, current, *parameters, weight, Dynamics(), STBP())
    assert torch.equal(again, spikes)
    torch.testing.assert_close(others[0], found[0])


def test_sums_depend_on_neither_company_nor_threads(backend):
    torch.manual_seed(2)
    current, weight = torch.randn(6, 8, 5000), torch.randn(6, 8, 5000)
    leak = torch.tensor(0.5)

    def leaks(rows):
        return vmap_free(current[:, rows], weight[:, rows], leak)

    whole = leaks(slice(None))
    assert torch.equal(torch.cat([leaks(slice(0, 3)), leaks(slice(3, 8))]), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(leaks(slice(None)), whole)
    finally:
        torch.set_num_threads(threads)


def vmap_free(current, weight, leak):
    """dLoss/dleak of each sample, one after the other."""
    found = []
    for k in range(current.shape[1]):
        parameter = leak.clone().requires_grad_()
        spikes, _ = fire(current[:, k : k + 1], parameter, torch.tensor(1.0), Dynamics(), STBP())
        found.append(torch.autograd.grad((spikes * weight[:, k : k + 1]).sum(), parameter)[0])
    return torch.stack(found)


@pytest.mark.parametrize("keep", KEEPS)
def test_per_sample_gradients_by_torch_func(backend, keep):
    torch.manual_seed(3)
    neuron = SpikingNeuron(learn=True)
    neuron.keep = keep
    x, weight = torch.randn(7, 4, 11), torch.randn(7, 4, 11)  # [samples, T, neurons]
    parameters = dict(neuron.named_parameters())

    def loss(parameters, x, weight):
        return (functional_call(neuron, parameters, (x.unsqueeze(1),)) * weight.unsqueeze(1)).sum()

    got = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0))(parameters, x, weight)
    for k in range(7):
        leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        sample = x[k].clone().requires_grad_()
        one = torch.autograd.grad(loss(leaves, sample, weight[k]), [*leaves.values(), sample])
        for (_, mine), theirs in zip(got[0].items(), one, strict=False):
            torch.testing.assert_close(mine[k], theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[1][k], one[-1])


def test_half_needs_less_memory_than_full_and_its_spikes_are_the_same():
    if kernels.backend() != "native":
        pytest.skip("only the native kernels keep bfloat16")
    current = torch.randn(3, 2, 50)
    (spikes, full), (same, half) = (
        fire(current, torch.tensor(0.5), torch.tensor(1.0), Dynamics(), STBP(), keep=keep) for keep in ("full", "half")
    )
    assert half.dtype == torch.bfloat16
    assert torch.equal(spikes, same)
    assert torch.equal((half >= 0).float(), spikes)
    torch.testing.assert_close(half.float() + 1, full, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(native.library() is None, reason="the native kernels were not built here")
@pytest.mark.parametrize("resumed", ["whole", "first", "further"])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(32,), (16, 5, 3), (8, 4, 6), (12, 4, 4), (3, 8, 4)])
def test_normalisation_and_neurons_in_one_equal_one_after_the_other(shape, constant, learn, resumed):
    torch.manual_seed(4)
    steps, given = 4, 1 if constant else 4
    x, weight = torch.randn(given * 6, *shape) * 3 + 1, torch.randn(steps * 6, *shape)
    left = torch.randn(6, *shape) if resumed == "further" else None
    if len(shape) == 3:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for name in ("native", "torch"):
        norm = (nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(shape[0])
        neuron = SpikingNeuron(Dynamics(0.6, 0.9, "soft", initial=0.5), learn=learn)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
            norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
        leaf = x.clone().requires_grad_()
        with kernels.using(name):
            if resumed == "whole":
                spikes, after = normalised_fire(norm, neuron, leaf, steps, given), x.new_empty(0)
            else:
                spikes, after = normalised_resume(norm, neuron, leaf, steps, given, left)
            (spikes * weight).sum().backward()
        assert not after.requires_grad
        found = [leaf.grad, *(p.grad for p in (*norm.parameters(), *neuron.parameters()))]
        results.append((spikes.detach(), [after, *found], [b.float() for b in norm.buffers()]))
    (spikes, mine, buffers), (others, theirs, before) = results
    assert torch.equal(spikes, others)
    for one, other in zip([*mine, *buffers], [*theirs, *before], strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_an_unknown_backend_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="got 'fpga'"), kernels.using("fpga"):
        pass
    monkeypatch.setenv("TRUSTSNN_KERNELS", "abacus")
    with pytest.raises(ConfigError, match="TRUSTSNN_KERNELS"):
        kernels.default.__wrapped__()  # what is kept was read at the first use
    assert torch.rand(1).item() >= 0


def test_without_the_library_and_without_numba_torch_serves(tmp_path):
    """As on a machine with no compiler, then no numba either."""
    code = (
        "import sys, importlib.util; "
        "from trustsnn.kernels import native; native.library = lambda: None; "
        "find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *a: None if name == 'numba' and {bare} else find(name, *a); "
        "from trustsnn import kernels; import torch; from trustsnn.models import build; "
        "model = build('conv', input_shape=(1, 8, 8), classes=10); "
        "model(torch.rand(4, 1, 8, 8)).sum().backward(); "
        "print(kernels.backend(), 'numba' in sys.modules)"
    )
    for bare, said in ((False, "numba True"), (True, "torch False")):
        if not bare and "numba" not in kernels.available():
            continue
        environment = {name: value for name, value in os.environ.items() if name != "TRUSTSNN_KERNELS"}
        command = [sys.executable, "-W", "error", "-c", code.format(bare=bare)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.stdout.strip() == said, done.stderr


def test_a_second_derivative_is_refused(backend):
    current = torch.rand(3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(SpikingNeuron()(current * 2).sum(), current, create_graph=True)
    with pytest.raises((ModelContractError, RuntimeError)):
        gradient.square().sum().backward()
