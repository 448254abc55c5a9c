"""Conversion of an ANN with QCFS activations into a spiking network, and where the two differ."""

from trustsnn.conversion.compare import Comparison, LayerComparison, compare
from trustsnn.conversion.convert import METHODS, convert

__all__ = ["METHODS", "Comparison", "LayerComparison", "compare", "convert"]
