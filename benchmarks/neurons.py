"""The fused spiking layer against the plain reference: forward and backward, interleaved in one process, medians.

    python benchmarks/neurons.py

Ratios hold; milliseconds are of the machine at hand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from trustsnn.neurons import STBP, Dynamics, Surrogate, fire, reference_forward
from trustsnn.process import keep_freed_memory

SHAPES = {"T4 x 32x32x16x16": (4, 32, 32, 16, 16), "T16 x 64x1024": (16, 64, 1024)}
ROUNDS = 15


def main() -> None:
    """Print one line a shape: median milliseconds of both and the ratio with its quartiles."""
    keep_freed_memory()
    dynamics, surrogate = Dynamics(), Surrogate()
    leak, threshold = torch.tensor(dynamics.leak), torch.tensor(dynamics.threshold)
    for name, shape in SHAPES.items():
        current = torch.randn(shape).requires_grad_()

        def reference(current: torch.Tensor = current) -> torch.Tensor:
            return reference_forward(current, leak, threshold, dynamics, surrogate)[0]

        def fused(current: torch.Tensor = current) -> torch.Tensor:
            return fire(current, leak, threshold, dynamics, STBP(surrogate))[0]

        slow, fast = interleaved(reference, fused, current)
        ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
        print(
            f"{name}: reference {1e3 * statistics.median(slow):.2f} ms, fused {1e3 * statistics.median(fast):.2f} ms, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f})"
        )


def interleaved(
    one: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor], leaf: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Seconds of forward and backward of each, in turn, after two rounds of warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 2):
        for function, column in zip((one, other), times, strict=True):
            begun = time.perf_counter()
            torch.autograd.grad(function().sum(), leaf)
            if round_ >= 2:
                column.append(time.perf_counter() - begun)
    return times


if __name__ == "__main__":
    main()
