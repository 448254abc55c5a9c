"""The WKV operator against its definition, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch

from trustsnn.language.wkv import Sums, wkv

NAMES = ("decay", "bonus", "key", "value")


def by_definition(decay, bonus, key, value):
    outputs = []
    for t in range(len(key)):
        weights = [torch.exp(key[i] - (t - 1 - i) * decay) for i in range(t)] + [torch.exp(bonus + key[t])]
        outputs.append(sum(w * v for w, v in zip(weights, value[: t + 1], strict=True)) / sum(weights))
    return torch.stack(outputs)


def drawn(steps, batch=2, channels=3, dtype=torch.float64):
    torch.manual_seed(steps)
    shapes = {"decay": (channels,), "bonus": (channels,), "key": (steps, batch, channels), "value": (steps, batch, channels)}
    tensors = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    tensors["decay"] = tensors["decay"].exp()
    return [tensor.requires_grad_() for tensor in tensors.values()]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 17, 40])
def test_the_scan_is_the_definition_forward_and_backward(steps):
    given = drawn(steps)
    found, wanted = wkv(*given)[0], by_definition(*given)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad(output, given, weights, allow_unused=True) for output in (found, wanted)]
    for name, one, two in zip(NAMES, *gradients, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if two is None else two, rtol=1e-10, atol=1e-12, msg=name)


def test_the_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *given: wkv(*given)[0], drawn(11))


def test_a_state_goes_on_where_it_was_left():
    decay, bonus, key, value = drawn(30)
    whole, end = wkv(decay, bonus, key, value)
    first, state = wkv(decay, bonus, key[:13], value[:13])
    second, last = wkv(decay, bonus, key[13:], value[13:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last.sums * last.exponent.exp()[None], end.sums * end.exponent.exp()[None], rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_decay_knows_the_state():
    torch.manual_seed(0)
    state = Sums(torch.randn(2, 3).double(), torch.rand(2, 2, 3).double() + 0.5)
    assert torch.autograd.gradcheck(lambda *given: wkv(*given, state)[0], drawn(6))


@pytest.mark.parametrize("size", [1e3, -1e3, 1e5])
def test_large_keys_neither_overflow_nor_vanish(size):
    decay, bonus, key, value = drawn(50, dtype=torch.float32)
    with torch.no_grad():
        key[::7] = size
        decay[0] = math.exp(3)
    found = wkv(decay, bonus, key, value)[0]
    found.sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in (found, *(x.grad for x in (decay, bonus, key, value))))
    exact = wkv(*(x.detach().double() for x in (decay, bonus, key, value)))[0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
    low, high = value.detach().cummin(0).values, value.detach().cummax(0).values
    assert bool(((found >= low - 1e-4) & (found <= high + 1e-4)).all())  # a weighted mean of the past
