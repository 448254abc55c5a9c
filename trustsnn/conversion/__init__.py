"""Conversion of an ANN with QCFS or ReLU activations into a spiking network, and where the two differ."""

from trustsnn.conversion.calibrate import CALIBRATIONS, Calibration
from trustsnn.conversion.compare import Comparison, LayerComparison, compare
from trustsnn.conversion.convert import METHODS, convert
from trustsnn.conversion.hybrid import hybrid_start

__all__ = [
    "CALIBRATIONS",
    "METHODS",
    "Calibration",
    "Comparison",
    "LayerComparison",
    "compare",
    "convert",
    "hybrid_start",
]
