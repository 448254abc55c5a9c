"""A spiking network that begins as a converted ANN and is to be trained through time."""

from __future__ import annotations

from trustsnn.conversion.calibrate import Calibration, calibrated
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import build

SCALE, DIET_SCALE = 0.7, 0.25  # of the thresholds, as published; DIET-SNN has 0.2 to 0.3


def hybrid_start(
    ann: SpikingNetwork,
    steps: int,
    calibration: Calibration,
    *,
    learn: bool = False,
    surrogate: str = "triangular",
    width: float = 1.0,
) -> SpikingNetwork:
    """The start of hybrid training (Rathi ICLR 2020) or, with `learn`, of DIET-SNN (Rathi & Roy 2020, arXiv 2008.03658): the ANN by
    "balance", its thresholds times `calibration.scale`, in integrate-and-fire neurons with soft reset. `learn` makes leak (1 at the
    start) and threshold parameters of each layer. The image is an analogue current at every step.

    The published ANN has neither bias nor normalisation. Here normalisation is folded into weights and biases, and a bias is a
    constant current. So that it keeps its part of the sum, what a spike stands for is scaled along with the threshold; as
    published, it is not. In the new units every threshold is 1, which is what a surrogate's width refers to.

    Raises:
        ConfigError: no ReLU network, or one with branches.
    """
    converted = calibrated(ann, "balance", steps, calibration)
    arguments = {**converted.architecture["arguments"], "neuron": "lif", "learn": learn, "surrogate": surrogate, "width": width}
    network = build(converted.architecture["name"], **arguments)
    network.load_state_dict({name: t for name, t in converted.state_dict().items() if not name.endswith(".unit")})
    return network
