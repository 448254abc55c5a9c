"""The WKV operator of RWKV-4: for each channel a weighted mean over the past whose weights decay with distance.

    y_t = (sum_{i<t} exp(k_i - (t-1-i) d) v_i + exp(u + k_t) v_t) / (the same with v = 1)

Every sum is kept as a mantissa and an exponent, so that no key overflows. The sequence is cut into about sqrt(T) chunks: all
chunks are scanned side by side, then the state is carried from chunk to chunk, 2 sqrt(T) steps instead of T.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trustsnn.neurons.operation import Operation

_NOTHING = -1e30  # the exponent of an empty sum: finite, so that differences of two are


class Sums(NamedTuple):
    """Two decayed sums that share an exponent: `sums` [..., 2, B, C] times exp(`exponent` [..., B, C])."""

    exponent: Tensor
    sums: Tensor


def nothing(like: Tensor) -> Sums:
    """The state before the first step, for keys shaped as `like` [B, C]."""
    return Sums(torch.full_like(like, _NOTHING), like.new_zeros((2, *like.shape)))


def wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, state: Sums | None = None) -> tuple[Tensor, Sums]:
    """The operator over a whole sequence, differentiable but for the state.

    Args:
        decay: d, positive, [C]. bonus: u, [C]. key, value: [T, B, C].
        state: of the steps before; none by default.

    Returns:
        y [T, B, C], and the state after the last step.
    """
    state = nothing(key[0]) if state is None else state
    output, exponent, sums, *_ = _WKV.apply(decay, bonus, key, value, *state)
    return output, Sums(exponent, sums)


class _WKV(Operation):
    @staticmethod
    def forward(
        decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, exponent: Tensor, sums: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        before, end = decayed_sums(decay, key, torch.stack([value, torch.ones_like(value)], 1), Sums(exponent, sums))
        whole = _add(before, Sums(key + bonus, torch.stack([value, torch.ones_like(value)], 1)))
        numerator, denominator = whole.sums.unbind(1)
        return numerator / denominator, *end, whole.exponent + denominator.log(), *before

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:4], output[0], *output[3:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Weights are p_{t,i} = exp(k_i - (t-1-i) d - z_t), z_t the logarithm of the denominator. Sums over the t after i are
        decayed sums as well, run backwards, with -z_t for the key. A weight's derivative by d counts the steps between i and
        t: the sum over all steps j of what passes from before j to after j."""
        decay, bonus, key, value, output, log_sum, exponent, sums = ctx.saved_tensors
        gradient = gradients[0]
        reached = torch.stack([gradient, gradient * output], 1)
        after, _ = decayed_sums(decay, -log_sum.flip(0), reached.flip(0), nothing(key[0]))
        exponent_after, sums_after = after.exponent.flip(0), after.sums.flip(0)
        own = torch.exp(key + bonus - log_sum)
        later = torch.exp(key + exponent_after)
        to_value = own * gradient + later * sums_after[:, 0]
        to_key = value * to_value - own * reached[:, 1] - later * sums_after[:, 1]
        to_bonus = (own * gradient * (value - output)).sum((0, 1))
        passing = sums_after[:, 0] * sums[:, 0] - sums_after[:, 1] * sums[:, 1]
        to_decay = -(torch.exp(exponent + exponent_after - decay) * passing).sum((0, 1))
        return to_decay, to_bonus, to_key, to_value, None, None


def decayed_sums(decay: Tensor, keys: Tensor, values: Tensor, start: Sums) -> tuple[Sums, Sums]:
    """For each step t the sums over i < t of exp(k_i - (t-1-i) d) x_i, plus the start decayed by t steps; and those at the end.

    Args:
        decay: d >= 0, [C]. keys: [T, B, C]. values: x, [T, 2, B, C].
    """
    steps = len(keys)
    size = math.isqrt(steps - 1) + 1
    chunks = -(-steps // size)
    padding = chunks * size - steps
    keys_in, values_in = keys, values
    if padding:
        keys_in = torch.cat([keys, keys.new_full((padding, *keys.shape[1:]), _NOTHING)])
        values_in = torch.cat([values, values.new_zeros((padding, *values.shape[1:]))])
    keys_in, values_in = keys_in.unflatten(0, (chunks, size)), values_in.unflatten(0, (chunks, size))

    exponents, sums = torch.empty_like(keys_in), torch.empty_like(values_in)
    local = Sums(torch.full_like(keys_in[:, 0], _NOTHING), torch.zeros_like(values_in[:, 0]))
    for step in range(size):
        exponents[:, step], sums[:, step] = local
        local = _next(local, decay, keys_in[:, step], values_in[:, step])

    carried = []
    for chunk in range(chunks):
        carried.append(start)
        start = _next(start, decay * size, local.exponent[chunk], local.sums[chunk])
    distance = torch.arange(size, dtype=decay.dtype, device=decay.device).view(-1, 1, 1) * decay
    inherited = Sums(
        torch.stack([each.exponent for each in carried])[:, None] - distance,
        torch.stack([each.sums for each in carried])[:, None],
    )
    whole = _add(inherited, Sums(exponents, sums))
    before = Sums(whole.exponent.flatten(0, 1)[:steps], whole.sums.flatten(0, 1)[:steps])
    end = _next(Sums(before.exponent[-1], before.sums[-1]), decay, keys[-1], values[-1])
    return before, end


def _next(state: Sums, decay: Tensor, key: Tensor, value: Tensor) -> Sums:
    """The state one step (or one chunk) on."""
    return _add(Sums(state.exponent - decay, state.sums), Sums(key, value))


def _add(a: Sums, b: Sums) -> Sums:
    """The sum of two, in the larger exponent."""
    top = torch.maximum(a.exponent, b.exponent)
    first, second = (torch.exp(each.exponent - top).unsqueeze(-3) for each in (a, b))
    return Sums(top, first * a.sums + second * b.sums)
