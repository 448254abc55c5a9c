"""How the cost grows with time steps, batch, width, density and threads.

    python benchmarks/scaling.py

The network is `conv` on 32x32 images with fresh weights whose normalisation has seen a few batches, so that it fires.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from harness import begin, exponent, kernels, options, quartiles, ratios, times, under
from report import Report
from torch import Tensor, nn

from trustsnn.blocks import frozen, predict
from trustsnn.kernels import convolution
from trustsnn.models import build
from trustsnn.neurons.synapses import Synapses

PARTS = ("time", "batch", "width", "density", "threads")
STEPS = BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
DENSITIES = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
CONVOLUTIONS = ((64, 32), (128, 16), (256, 8))  # channels in and out, rows and columns
IMAGES = 128  # of a convolution: B 32, T 4
SHAPE, CLASSES = (3, 32, 32), 10


def main() -> None:
    """One table or two for each part."""
    parser = options(__doc__.splitlines()[0], rounds=7)
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--most", type=int, default=256, help="time steps and batch up to this (default %(default)s)")
    parser.add_argument("--kernels", default="native,numba", help="for the density (default %(default)s)")
    given = begin(parser)
    if unknown := set(given.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: expected names of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    report = Report("Scaling", given)
    for part in given.parts.split(","):
        {"time": over_time, "batch": over_batch, "width": over_width, "density": over_density, "threads": over_threads}[part](
            report, given
        )


def network(steps: int = 4, width: float = 1.0) -> nn.Module:
    """A `conv` that fires: its normalisation has seen a few batches of noise."""
    model = build("conv", input_shape=SHAPE, classes=CLASSES, steps=steps, channels=width)
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(8, *SHAPE))
    return model.eval()


def forward(model: nn.Module, batch: int) -> Callable[[], object]:
    """Inference on `batch` images at once, inside `frozen(model)`."""
    x = torch.rand(batch, *SHAPE)

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def training(model: nn.Module, batch: int) -> Callable[[], object]:
    """Forward and backward of a training step on `batch` images."""
    x, y = torch.rand(batch, *SHAPE), torch.randint(0, CLASSES, (batch,))

    def run() -> None:
        model.train()
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        model.eval()

    return run


def over_time(report: Report, given: Namespace) -> None:
    """For each T, at batch 8."""
    sizes = [steps for steps in STEPS if steps <= given.most]
    growth(report, "Time steps T, batch 8", "T", {steps: (network(steps), 8) for steps in sizes}, given)


def over_batch(report: Report, given: Namespace) -> None:
    """For each batch, at T = 4."""
    model = network()
    growth(report, "Batch, T 4", "batch", {batch: (model, batch) for batch in BATCHES if batch <= given.most}, given)


def over_width(report: Report, given: Namespace) -> None:
    """For each factor of the channels, at batch 8 and T = 4."""
    title = "Width (factor of the channels; weights grow with its square), batch 8, T 4"
    growth(report, title, "width", {width: (network(width=width), 8) for width in WIDTHS}, given)


def growth(report: Report, title: str, name: str, sizes: dict[float, tuple[nn.Module, int]], given: Namespace) -> None:
    """Medians of inference and of a training step by size, of a model and a batch each, and the exponent of the time in the
    size over the upper half of the sizes."""
    inference = {f"{size:g}": forward(model, batch) for size, (model, batch) in sizes.items()}
    # a batch of one has no statistics in a linear layer
    steps = {f"{size:g}": training(model, batch) for size, (model, batch) in sizes.items() if batch > 1}
    found = {}
    with ExitStack() as stack:
        for model in {id(model): model for model, _ in sizes.values()}.values():
            stack.enter_context(frozen(model))
        found["inference"] = times(inference, given.rounds, given.warmup)
    found["training step"] = times(steps, given.rounds, given.warmup)
    notes = []
    for what, seconds in found.items():
        measured = sorted(map(float, seconds))
        upper = measured[len(measured) // 2 :]
        if len(upper) > 1:
            slopes = quartiles([exponent(upper, [seconds[f"{s:g}"][k] for s in upper]) for k in range(given.rounds)])
            notes.append(f"{what} {slopes.median:.2f} ({slopes.low:.2f} to {slopes.high:.2f})")
    rows = [[f"{size:g}", *(cell(found[what].get(f"{size:g}"), size) for what in found)] for size in sizes]
    note = f"Medians of {given.rounds} rounds, and the same divided by the {name}."
    if notes:
        note += f" Exponent over the upper half of the sizes, 1 being linear: {'; '.join(notes)}."
    report.table(title, [name, *found], rows, note, found)


def cell(seconds: list[float] | None, size: float) -> str:
    """A median in milliseconds, and divided by the size."""
    return f"{1e3 * median(seconds):.2f} ms; {1e3 * median(seconds) / size:.2f} ms" if seconds else ""


def over_density(report: Report, given: Namespace) -> None:
    """The event-driven 3x3 convolution against oneDNN's dense one, forward and weight gradient."""
    for channels, side in CONVOLUTIONS:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).requires_grad_(False)
        dense_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).requires_grad_(False)
        dense_conv.to(memory_format=torch.channels_last)
        gradient = convolution.channels_last(torch.randn(IMAGES, channels, side, side))
        names, rows, raw = kernels(given.kernels), [], {}
        for density in DENSITIES:
            x = convolution.channels_last((torch.rand(IMAGES, channels, side, side) < density).float())
            contenders = {"dense": partial(dense_conv, x)}
            contenders |= {name: under(name, partial(Synapses(conv), x)) for name in names}
            contenders["dense weight gradient"] = partial(dense_weight_gradient, gradient, x, dense_conv.weight)
            contenders |= {f"{name} weight gradient": partial(weight_gradient, name, gradient, x) for name in names}
            seconds = times(contenders, given.rounds, given.warmup)
            cells = []
            for name in contenders:
                if name not in seconds:
                    cells.append("")
                elif name.startswith("dense"):
                    cells.append(f"{1e3 * median(seconds[name]):.2f} ms")
                else:
                    dense = "dense weight gradient" if "weight" in name else "dense"
                    low_high = ratios(seconds, name, dense)
                    cells.append(f"{low_high.median:.2f} ({low_high.low:.2f} to {low_high.high:.2f})")
            rows.append([f"{density:.0%}", *cells])
            raw[str(density)] = seconds
        note = f"{IMAGES} images; medians of {given.rounds} rounds and how many times faster than oneDNN (quartiles)."
        report.table(f"Density: 3x3, {channels} to {channels} channels, {side}x{side}", ["active", *contenders], rows, note, raw)


def dense_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """oneDNN's weight gradient of a 3x3 convolution."""
    only_weight = (False, True, False)
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, only_weight)[
        1
    ]


def weight_gradient(kernel: str, gradient: Tensor, x: Tensor) -> Tensor:
    """The event-driven weight gradient of a 3x3 convolution."""
    geometry = convolution.Geometry(padding=(1, 1))
    if kernel == "native":
        return convolution.weight_gradient(x, gradient, (3, 3), geometry)
    from trustsnn.kernels import jit

    return jit.weight_gradient(x, gradient, (3, 3), geometry)


def over_threads(report: Report, given: Namespace) -> None:
    """Inference and a training step at width 2, batch 32 and T = 4, with one thread and more."""
    model = network(width=2.0)
    x = torch.rand(32, *SHAPE)
    counts = [1 << k for k in range(max(1, given.threads).bit_length())]
    for what, run in {"inference": lambda: predict(model, x), "training step": training(model, 32)}.items():
        contenders = {f"{n} thread{'s' * (n > 1)}": partial(with_threads, n, given.threads, run) for n in counts}
        with frozen(model) if what == "inference" else torch.enable_grad():
            seconds = times(contenders, given.rounds, given.warmup)
        report.timings(f"Threads: {what}, width 2, batch 32, T 4", seconds, peers=())


def with_threads(count: int, usual: int, run: Callable[[], object]) -> None:
    """Run with that many threads."""
    torch.set_num_threads(count)
    run()
    torch.set_num_threads(usual)


if __name__ == "__main__":
    main()
