"""The same VGG-9 and the same layer of neurons in SpikingJelly, snnTorch and norse, held to trustsnn's predictions.

All are LIF with leak 0.5, threshold 1, hard reset with the gradient through it, triangular surrogate of width 1, direct
coding, average pooling, and batch normalisation over time and batch together. What differs:

- SpikingJelly: multi-step modules, as its tutorials have it. The same function. "Channels last" is the same with its weights
  in the memory format that oneDNN likes best, which no tutorial of its does.
- snnTorch: `Leaky` step by step, without its one-step delay of the reset. It fires above the threshold, not at it. What has
  no memory runs over all steps at once, which is faster than its step-by-step tutorials. Its own triangular surrogate is not
  this one, so the surrogate is given.
- norse: `LIFBoxCell` step by step, the rest as for snnTorch. It scales the current by 1 - leak, so that the weights before it
  (scale and shift of the normalisation) are doubled, which is exact. It adds in another order, so last bits differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from harness import left_out_if_failing
from torch import Tensor, nn

from trustsnn.blocks import frozen, predict

VGG9 = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P")
HIDDEN, CLASSES, LEAK, SIDE = 1024, 10, 0.5, 32
LEAST_AGREEMENT = 0.95
CHECKED = 64  # images that the agreement is measured on
TUNED = "SpikingJelly, channels last"
PACKAGES = {"SpikingJelly": "spikingjelly", TUNED: "spikingjelly", "snnTorch": "snntorch", "norse": "norse"}


class _OverTime(nn.Module):
    """A cell of one time step over a sequence [T, B, ...]. A subclass has `step(current, state)`."""

    scale = 1.0  # of the current, for neurons that shrink it

    def forward(self, sequence: Tensor) -> Tensor:
        state, spikes = None, []
        for current in sequence.unbind(0):  # indexing would make the backward pass quadratic in T
            spike, state = self.step(current, state)
            spikes.append(spike)
        return torch.stack(spikes)


class _Triangular(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * torch.relu(1 - ctx.saved_tensors[0].abs())


class _SnnTorch(_OverTime):
    def __init__(self) -> None:
        from snntorch import Leaky

        super().__init__()
        self.cell = Leaky(beta=LEAK, reset_mechanism="zero", reset_delay=False, spike_grad=_Triangular.apply)

    def step(self, current: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.cell(current, torch.zeros_like(current) if state is None else state)


class _Norse(_OverTime):
    scale = 1 / (1 - LEAK)

    def __init__(self) -> None:
        from norse.torch import LIFBoxCell, LIFBoxParameters

        super().__init__()
        rate = torch.as_tensor(1 - LEAK)
        self.cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=rate, method="triangle", alpha=torch.as_tensor(1.0)), dt=1.0)

    def step(self, current: Tensor, state: NamedTuple | None) -> tuple[Tensor, NamedTuple]:
        from norse.torch import LIFBoxFeedForwardState

        return self.cell(current, LIFBoxFeedForwardState(torch.zeros_like(current)) if state is None else state)


def _spikingjelly_neuron() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(
        tau=1 / (1 - LEAK), decay_input=False, v_threshold=1.0, v_reset=0.0,
        surrogate_function=surrogate.PiecewiseQuadratic(alpha=1.0), step_mode="m",
    )  # fmt: skip


NEURONS: dict[str, Callable[[], nn.Module]] = {"SpikingJelly": _spikingjelly_neuron, "snnTorch": _SnnTorch, "norse": _Norse}


class _Folded(nn.Module):
    """A module without memory over a sequence [T, B, ...]: all steps as one batch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, sequence: Tensor) -> Tensor:
        return self.module(sequence.flatten(0, 1)).unflatten(0, sequence.shape[:2])


class Network(nn.Module):
    """Images [B, C, H, W] to logits [B, K]: the mean over T steps of direct coding, every state new in each forward."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__()
        self.steps, self.spikingjelly = steps, PACKAGES[name] == "spikingjelly"
        if self.spikingjelly:
            from spikingjelly.activation_based import functional, layer

            self.layers = nn.Sequential(*_vgg9(layer, _spikingjelly_neuron))
            functional.set_step_mode(self.layers, "m")
        else:
            parts = _vgg9(nn, NEURONS[name])
            self.layers = nn.Sequential(*(part if isinstance(part, _OverTime) else _Folded(part) for part in parts))

    def forward(self, x: Tensor) -> Tensor:
        if self.spikingjelly:
            from spikingjelly.activation_based import functional

            functional.reset_net(self.layers)
        return self.layers(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)

    def take_weights(self, model: nn.Module) -> None:
        """Copy the weights of trustsnn's `vgg9`, layer by layer in their order."""
        given = [value for key, value in model.state_dict().items() if not key.endswith((".leak", ".threshold"))]
        modules = [m for m in self.layers.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.modules.batchnorm._BatchNorm)]
        own = [value for module in modules for value in module.state_dict().values()]
        with torch.no_grad():
            for value, source in zip(own, given, strict=True):
                if value.shape != source.shape:
                    raise SystemExit(f"The model is no vgg9: expected a tensor {list(value.shape)}, got {list(source.shape)}.")
                value.copy_(source)
            scale = next((m.scale for m in self.layers if isinstance(m, _OverTime)), 1.0)
            for module in modules:
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.weight.mul_(scale)
                    module.bias.mul_(scale)


def _vgg9(layer, neuron: Callable[[], nn.Module]) -> list[nn.Module]:
    """The layers, out of the modules of `layer`: torch.nn, or SpikingJelly's, which have the same names."""
    parts: list[nn.Module] = []
    channels, side = 3, SIDE
    for entry in VGG9:
        if isinstance(entry, str):
            parts.append(layer.AvgPool2d(2))
            side //= 2
            continue
        parts += [layer.Conv2d(channels, entry, 3, padding=1, bias=False), layer.BatchNorm2d(entry), neuron()]
        channels = entry
    parts += [layer.Flatten(), layer.Linear(channels * side * side, HIDDEN, bias=False), layer.BatchNorm1d(HIDDEN), neuron()]
    return [*parts, layer.Linear(HIDDEN, CLASSES)]


class Agreement(NamedTuple):
    """The largest difference of logits, the share of samples whose logits agree to 1e-4, and of equal predictions."""

    largest: float
    close: float
    equal: float

    def __str__(self) -> str:
        return f"predictions equal {self.equal:.1%}, logits to 1e-4 {self.close:.1%}, largest difference {self.largest:.2g}"


def agreement(model: nn.Module, peer: nn.Module, x: Tensor) -> Agreement:
    """How far `peer` agrees with trustsnn's `model` on images `x`, both in eval mode."""
    training = peer.training
    peer.eval()
    with frozen(model), torch.no_grad():
        ours, theirs = predict(model, x), torch.cat([peer(part) for part in x.split(32)])
    peer.train(training)
    difference = (ours - theirs).abs().amax(1)
    equal = (ours.argmax(1) == theirs.argmax(1)).double().mean()
    return Agreement(float(difference.max()), float((difference < 1e-4).double().mean()), float(equal))


def installed(names: Iterable[str] = PACKAGES) -> list[str]:
    """Those of `names` that are installed, with a line on each package that is not."""
    for package in sorted({PACKAGES[name] for name in names}):
        if find_spec(package) is None:
            print(f"{package} is not installed: left out (make bench installs it).", file=sys.stderr)
    return [name for name in names if find_spec(PACKAGES[name]) is not None]


def network(name: str, model: nn.Module, steps: int) -> Network:
    """The peer's VGG-9 with the weights of trustsnn's `model`, in eval mode."""
    peer = Network(name, steps)
    peer.take_weights(model)
    return (peer.to(memory_format=torch.channels_last) if name == TUNED else peer).eval()


def networks(model: nn.Module, x: Tensor, names: Iterable[str] = PACKAGES) -> tuple[dict[str, Network], dict[str, str]]:
    """Those of the peers `names` that are installed and agree with `model` on images `x` in at least 95 % of predictions, and how far each
    agrees. A line says who was left out."""
    found, agrees = {}, {}
    for name in installed(names):
        with left_out_if_failing(name):
            peer = network(name, model, model.spec.steps)
            seen = agreement(model, peer, x)
            agrees[name] = str(seen)
        if name not in agrees:
            continue
        if seen.equal < LEAST_AGREEMENT:
            print(f"{name} is not timed, for it computes something else: {seen}.", file=sys.stderr)
            continue
        found[name] = peer
    return found, agrees
