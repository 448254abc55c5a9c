"""Spiking neurons over whole sequences, their surrogates, and the gradient contract."""

from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import STBP, GradientEstimator, LayerGradients, LayerRecord
from trustsnn.neurons.functional import fire
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.reference import reference_forward
from trustsnn.neurons.surrogates import SURROGATES, Surrogate

__all__ = [
    "STBP",
    "SURROGATES",
    "Dynamics",
    "GradientEstimator",
    "LayerGradients",
    "LayerRecord",
    "SpikingNeuron",
    "Surrogate",
    "fire",
    "reference_forward",
]
