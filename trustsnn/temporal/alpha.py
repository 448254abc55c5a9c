"""Neurons with alpha synapses, whose first spike has a closed form: Comsa et al., "Temporal coding in spiking neural networks with
alpha synaptic function", 2020."""

from __future__ import annotations

from collections.abc import Sequence
from math import e, isfinite, prod
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models.flow import SPIKES, Flow
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.rng import stream
from trustsnn.temporal.events import drawn, in_order, padded


def lambert_w(z: Tensor) -> Tensor:
    """The principal branch of Lambert's W, w e^w = z with w in [-1, 0], for z in [-1/e, 0]; elementwise, without gradient."""
    p = (2 * (1 + e * z)).clamp_min(0).sqrt()
    start = -1 + p * (1 - p * (1 / 3 - p * (11 / 72)))  # the series at the branch point
    w = start
    for _ in range(5):  # Halley
        power = w.exp()
        excess = w * power - z
        w = w - excess / (power * (w + 1) - (w + 2) * excess / (2 * w + 2))
    return torch.where(p < 1e-3, start, w)


class _AlphaSpikes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, times: Tensor, weight: Tensor, threshold: float, decay: float, horizon: float, clip: float, penalty: float
    ) -> Tensor:
        volley = in_order(times.detach(), horizon)
        rows = padded(weight)
        a = weight.new_zeros(len(times), weight.shape[1])  # V(t) = exp(-decay t) (a t - b) until the next spike comes
        b = torch.zeros_like(a)
        fired = torch.zeros_like(a, dtype=torch.bool)
        ends = torch.cat([volley.time[1:], torch.full_like(volley.time[:1], horizon)])
        for neuron, time, closes, end in zip(*volley, ends, strict=True):
            added = rows[neuron] * (decay * time).exp()[:, None]
            a = torch.where(fired, a, a + added)
            b = torch.where(fired, b, b + added * time[:, None])
            peak = b / a + 1 / decay
            highest = torch.minimum(torch.maximum(peak, time[:, None]), end[:, None])
            reached = (-decay * highest).exp() * (a * highest - b) >= threshold
            fired = fired | (closes[:, None] & (a > 0) & reached)
        safe = torch.where(fired, a, 1.0)
        middle = torch.where(fired, b, 0.0) / safe
        w = lambert_w(-decay * threshold / safe * (decay * middle).exp())
        spikes = torch.where(fired, middle - w / decay, horizon)
        ctx.decay, ctx.clip, ctx.penalty = decay, clip, penalty
        scale = torch.where(fired, 1 / (safe * (1 + w)), 0.0)
        ctx.save_for_backward(weight, spikes, fired, scale, *volley[:2])
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, spikes, fired, scale, neurons, moments = ctx.saved_tensors
        decay, clip = ctx.decay, ctx.clip
        gradient = torch.where(fired, gradients[0], 0.0)
        rows = padded(weight)
        to_times, to_weight = weight.new_zeros(len(spikes), len(rows)), torch.zeros_like(rows)
        for neuron, time in zip(neurons, moments, strict=True):
            since = spikes - time[:, None]
            steep = torch.where(since > 0, (decay * time).exp()[:, None] * scale, 0.0)  # exp(-decay since) / V'(spike)
            by_weight = (-since * steep).clamp(-clip, clip)
            by_time = (rows[neuron] * (1 - decay * since) * steep).clamp(-clip, clip)
            to_weight.index_add_(0, neuron, gradient * by_weight)
            to_times.scatter_(1, neuron[:, None], (gradient * by_time).sum(1, keepdim=True))
        to_weight -= ctx.penalty / max(1, len(spikes)) * (~fired).sum(0)
        return to_times[:, :-1], to_weight[:-1], None, None, None, None, None


def alpha_spikes(
    times: Tensor,
    weight: Tensor,
    *,
    threshold: float = 1.0,
    decay: float = 1.0,
    horizon: float = 20.0,
    clip: float = float("inf"),
    penalty: float = 0.0,
) -> Tensor:
    """First spike times [B, J] of J neurons for input spike times [B, I] and weights [I, J].

    The membrane is V(t) = sum over t_i < t of w_i (t - t_i) exp(-decay (t - t_i)). Where it reaches `threshold` first, with
    A = sum w_i exp(decay t_i) and B = sum w_i t_i exp(decay t_i) over the inputs before,
    t = B / A - W(-decay threshold / A exp(decay B / A)) / decay, W the principal branch. `horizon` stands for no spike before it.

    The gradients are those of this formula, where no input joins or leaves the sum; each derivative of a time is cut to [-clip, clip].
    `penalty` is taken off the gradient of every weight of a neuron that did not spike, divided by the batch, so that it comes to spike.
    """
    spikes: Tensor = _AlphaSpikes.apply(times, weight, threshold, decay, horizon, clip, penalty)  # type: ignore[no-untyped-call]
    return spikes


class AlphaNetwork(nn.Module):
    """Pixels in time, one hidden layer, one output neuron a class, all with alpha synapses; the first output to spike is the class.

    A pixel x > 0 spikes at 1 - x, a dark one never. Each layer also gets `pulses` spikes whose times are learnt: its bias. `forward(x)`
    gives logits [B, K], minus `sharpness` times the spike times. `trustsnn.training.train` trains it with "adamw": the pulses are kept
    divided by `_PULSE_RATE`, the ratio of the authors' learning rates for pulses and weights, since Adam's step ignores scale.

    Decay, clip, penalty and sizes are those of the authors' code for MNIST. The threshold (theirs 1.17), the initial means (theirs
    -0.28 and 7.8) and the sharpness (theirs 1) are chosen here for a start within a few hundred steps.

    Args:
        input_shape, classes: of the images, (C, H, W), and the labels.
        hidden, pulses: neurons of the hidden layer, and pulses of each layer.
        threshold, decay, horizon, clip, penalty: see `alpha_spikes`; the penalty holds in training mode.
        means: of the initial weights of pixels and neurons, and of pulses, in standard deviations (Glorot's).
        seed: of the weights.
    """

    _PULSE_RATE = 94.0

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        *,
        hidden: int = 340,
        pulses: int = 10,
        threshold: float = 1.0,
        decay: float = 0.1818,
        horizon: float = 30.0,
        clip: float = 539.7,
        penalty: float = 48.4,
        means: tuple[float, float] = (0.5, 0.0),
        sharpness: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (hidden >= 1 and pulses >= 0):
            raise ConfigError(f"Expected at least 1 hidden neuron and 0 pulses, got hidden={hidden}, pulses={pulses}.")
        positive = {"threshold": threshold, "decay": decay, "horizon": horizon, "clip": clip, "sharpness": sharpness}
        for name, value in positive.items():
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"Expected {name} above 0 and finite, got {value}.")
        self.spec = ModelSpec("image", tuple(input_shape), classes, 1, "latency", "first-spike", False)
        self.architecture = {
            "name": "alpha",
            "arguments": {
                "input_shape": list(input_shape), "classes": classes, "hidden": hidden, "pulses": pulses, **positive,
                "penalty": penalty, "means": list(means), "seed": seed,
            },
        }  # fmt: skip
        self.sharpness = positive.pop("sharpness")
        self.settings = {**positive, "penalty": penalty}
        draws = stream(seed, "alpha/weights")

        def weights(inputs: int, outputs: int) -> nn.Parameter:
            weight = drawn((inputs + pulses, outputs), draws.standard_normal)
            weight[:inputs] += means[0]
            weight[inputs:] += means[1]
            return nn.Parameter(weight * (2 / (inputs + pulses + outputs)) ** 0.5)

        self.hidden, self.output = weights(prod(input_shape), hidden), weights(hidden, classes)
        moments = torch.arange(1, pulses + 1) / (pulses + 1) / self._PULSE_RATE
        self.hidden_pulses, self.output_pulses = nn.Parameter(moments), nn.Parameter(moments.clone())

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch [B, *spec.input_shape]."""
        return -self.sharpness * self.spikes(x)[1]

    def spikes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spike times of the hidden layer [B, J] and of the outputs [B, K], up to the horizon."""
        if tuple(x.shape[1:]) != self.spec.input_shape:
            raise ModelContractError(
                f"Expected a batch of shape [B, {', '.join(map(str, self.spec.input_shape))}], got {list(x.shape)}."
            )
        pixels = x.flatten(1)
        hidden = self._layer(torch.where(pixels > 0, 1 - pixels, self.settings["horizon"]), self.hidden, self.hidden_pulses)
        return hidden, self._layer(hidden, self.output, self.output_pulses)

    def inputs(self) -> dict[str, Flow]:
        """What each layer is fed with: spikes, of pixels and of the layer before."""
        return {"hidden": SPIKES, "output": SPIKES}

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """The logits as a trace of one step; there is no membrane at a step, the logits stand for it."""
        times = self.spikes(x)
        logits = -self.sharpness * times[1][None]
        counts = {
            name: (each.detach() < self.settings["horizon"]).to(x.dtype)
            for name, each in zip(("hidden", "output"), times, strict=True)
        }
        return Trace(logits, counts, logits.detach())

    def _layer(self, times: Tensor, weight: Tensor, pulses: Tensor) -> Tensor:
        moments = (pulses * self._PULSE_RATE).clamp(0, self.settings["horizon"]).expand(len(times), -1)
        settings = {**self.settings, "penalty": self.settings["penalty"] if self.training else 0.0}
        return alpha_spikes(torch.cat([times, moments], dim=1), weight, **settings)
