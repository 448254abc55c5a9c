"""A comparison of a converted network with its ANN as text."""

from __future__ import annotations

from trustsnn.conversion.compare import Comparison
from trustsnn.statistics import Figure

COLUMNS = ["layer", "count", "lam", "differ, %", "alone, %", "error", "alone", "floor", "rate"]


def rows(comparison: Comparison) -> list[list[str]]:
    """One row a layer, under `COLUMNS`: the activations of all samples, the threshold, the share of activations that differ with its 95 %
    interval, their mean absolute error, the least error that so many steps allow, and spikes a neuron and step. "Alone": the layer gets
    the ANN's activations of the layer before."""
    return [
        [
            layer.name, f"{layer.mismatches['count']:,}", f"{layer.threshold:.3g}", counted(layer.mismatches), counted(layer.own_mismatches),
            f"{layer.error:.2g}", f"{layer.own_error:.2g}", f"{layer.floor:.2g}", f"{layer.rate['value']:.1%}",
        ]
        for layer in comparison.layers
    ]  # fmt: skip


def sentences(comparison: Comparison) -> list[str]:
    """What holds for the whole network, and how near to a border between levels the activations were that differ."""
    ties = [layer.tie for layer in comparison.layers if layer.tie is not None]
    lines = [
        f"Accuracy: ANN {_share(comparison.ann_accuracy)}, converted {_share(comparison.accuracy)}.",
        f"The same class for {_share(comparison.agreement)}; logits differ by up to {comparison.logits:.2g}.",
        f"{comparison.spikes:,.1f} spikes a sample.",
    ]
    if ties:
        lines.append(
            f"A layer by itself differs only where the ANN is within {max(ties):.2g} of a level of a border between levels."
        )
    return lines


def counted(figure: Figure) -> str:
    """A share in per cent with its 95 % interval; below 100 the number in place of the share."""
    successes = figure["successes"]
    value = f"n = {successes}" if successes < 100 else f"{100 * figure['value']:.3g}"
    return f"{value} ({100 * figure['low']:.3g}–{100 * figure['high']:.3g})"


def _share(figure: Figure) -> str:
    return f"{figure['value']:.2%} of {figure['count']:,} (95 % interval {figure['low']:.2%} to {figure['high']:.2%})"
