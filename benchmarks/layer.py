"""One layer of LIF neurons, forward and backward: peers, trustsnn's kernels, and the memory floor.

    python benchmarks/layer.py

The floor is 24 bytes an element at the speed of a copy: the forward pass reads the current and writes spikes and membrane,
the backward pass reads the spikes' gradient and the membrane and writes the current's gradient, 4 bytes each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from harness import begin, kernels, left_out_if_failing, options, times, under
from peers import NEURONS, installed
from report import Report
from torch import Tensor, nn

from trustsnn.neurons import SpikingNeuron, reference_forward

SHAPES = {"conv4": (4, 64, 64, 32, 32), "conv8": (8, 64, 64, 32, 32), "dense100": (100, 128, 1024)}
KEEPS = ("full", "half", "recompute")
SCALE = 0.7  # of the normal currents: about one neuron in ten fires, as in a trained network
COPIES = 3  # a copy moves 8 bytes an element, the floor 24
FLOOR = "floor, 24 B an element"
MOST_FLIPPED = 1e-3

Pass = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def main() -> None:
    """One table a shape."""
    parser = options(__doc__.splitlines()[0], rounds=15, warmup=3)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of %(default)s")
    parser.add_argument("--kernels", default="native,numba,torch", help="trustsnn's (default %(default)s)")
    parser.add_argument("--batch", type=int, help="instead of the shapes' own, to try things out")
    given = begin(parser)
    if unknown := set(given.shapes.split(",")) - SHAPES.keys():
        parser.error(f"--shapes: expected names of {', '.join(SHAPES)}, got {', '.join(sorted(unknown))}")
    report = Report("A layer of LIF neurons, forward and backward", given)
    who = contenders(kernels(given.kernels))
    for name in given.shapes.split(","):
        steps, batch, *places = SHAPES[name]
        measure(report, (steps, given.batch or batch, *places), who, given.rounds, given.warmup)


class Contender(NamedTuple):
    """Forward and backward from (a current that needs a gradient, the spikes' gradient), and what the current is scaled by."""

    run: Pass
    scale: float = 1.0


def contenders(with_kernels: list[str]) -> dict[str, Contender]:
    """The peers that are installed, and trustsnn with each kernel."""
    found = {name: peer(name) for name in installed(NEURONS)}
    for kernel in with_kernels:
        for keep in KEEPS if kernel == "native" else KEEPS[:1]:
            neuron = SpikingNeuron()
            neuron.keep = keep
            found[f"trustsnn {kernel}, membrane {keep}"] = Contender(partial(in_kernel, kernel, neuron))
    return found


def peer(name: str) -> Contender:
    """A peer's layer, whose state is new each time."""
    neuron = NEURONS[name]()

    def run(current: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        if name == "SpikingJelly":
            from spikingjelly.activation_based import functional

            functional.reset_net(neuron)
        return forward_backward(neuron, current, gradient)

    return Contender(run, getattr(neuron, "scale", 1.0))


def in_kernel(kernel: str, neuron: nn.Module, current: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward of trustsnn's layer with one of its kernels."""
    return under(kernel, lambda: forward_backward(neuron, current, gradient))()


def forward_backward(layer: Callable[[Tensor], Tensor], current: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the gradient of the current."""
    spikes = layer(current)
    return spikes.detach(), torch.autograd.grad(spikes, current, gradient)[0]


def reference(current: Tensor) -> Tensor:
    """The spikes of trustsnn's plain reference."""
    plain = SpikingNeuron()
    return reference_forward(current, plain.leak, plain.threshold, plain.dynamics, plain.estimator.surrogate)[0]


def measure(report: Report, shape: tuple[int, ...], who: dict[str, Contender], rounds: int, warmup: int) -> None:
    """Check each contender against the plain reference; then time them all in turn."""
    current = (SCALE * torch.randn(shape)).requires_grad_()
    gradient, target = torch.randn(shape), torch.empty(shape)
    spikes, expected = forward_backward(reference, current, gradient)
    rate = float(spikes.mean())
    ready, differs = {}, {}
    for name, contender in who.items():
        scaled = current if contender.scale == 1 else (contender.scale * current.detach()).requires_grad_()
        result = None
        with left_out_if_failing(name):
            result = contender.run(scaled, gradient)
        if result is None:
            continue
        own, found = result
        flipped = float((own != spikes).double().mean())
        difference = float((contender.scale * found - expected).norm() / expected.norm())
        differs[name] = f"{flipped:.1e}; {difference:.1e}"
        if flipped > MOST_FLIPPED:
            print(f"{name}: {flipped:.1%} of the spikes differ from the reference: left out.", file=sys.stderr)
            continue
        ready[name] = partial(contender.run, scaled, gradient)
    del spikes, expected
    ready["a copy"] = partial(target.copy_, current.detach())
    seconds = times(ready, rounds, warmup)
    seconds[FLOOR] = [COPIES * value for value in seconds.pop("a copy")]
    floor = median(seconds[FLOOR])
    steps, batch, *places = shape
    report.timings(
        f"T{steps} x {batch}x{'x'.join(map(str, places))}",
        seconds,
        peers=list(NEURONS),
        extra={
            "over the floor": {name: f"{median(values) / floor:.2f}" for name, values in seconds.items()},
            "spikes that differ; error of the gradient": differs,
        },
        note=f"{rate:.1%} of the neurons fire. Both differences are from trustsnn's plain reference.",
    )


if __name__ == "__main__":
    main()
