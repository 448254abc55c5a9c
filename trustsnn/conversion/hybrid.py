"""A spiking network that begins as a converted ANN and is to be trained through time."""

from __future__ import annotations

from trustsnn.conversion.calibrate import Calibration, calibrated
from trustsnn.conversion.convert import convert
from trustsnn.conversion.segments import quantised, rectified
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import build

SCALE, DIET_SCALE = 0.7, 0.25  # of the thresholds, as published; DIET-SNN has 0.2 to 0.3


def hybrid_start(
    ann: SpikingNetwork,
    steps: int,
    calibration: Calibration | None = None,
    *,
    learn: bool = False,
    surrogate: str = "triangular",
    width: float = 1.0,
) -> SpikingNetwork:
    """A converted ANN in integrate-and-fire neurons with soft reset, to be trained on. The image is an analogue current at every step.

    A ReLU network starts as published (Rathi ICLR 2020; with `learn` DIET-SNN, Rathi & Roy 2020, arXiv 2008.03658): it is converted
    by "balance", its thresholds times `calibration.scale`. A QCFS network starts from its "rate" conversion, with the thresholds that
    it has learnt and half of one as initial membrane. `learn` makes leak (1 at the start) and threshold parameters of each layer.

    The published ANN has neither bias nor normalisation. Here normalisation is folded into weights and biases, and a bias is a
    constant current. So that it keeps its part of the sum, what a spike stands for is scaled along with the threshold; as
    published, it is not. In the new units every threshold is 1, which is what a surrogate's width refers to.

    Args:
        calibration: what a ReLU network is converted by; a QCFS network takes none.

    Raises:
        ConfigError: neither a ReLU nor a QCFS network, branches other than a ResNet's, or a calibration that is missing or has no use.
    """
    if rectified(ann):
        converted = calibrated(ann, "balance", steps, calibration)
    elif quantised(ann):
        if calibration is not None:
            raise ConfigError("A QCFS network has learnt its thresholds: hybrid training of one takes no calibration.")
        converted = convert(ann, "rate", steps=steps)
    else:
        raise ConfigError(
            "Hybrid training goes on from an ANN whose layers are all ReLU or all QCFS. Train one with: trustsnn train ann, or: "
            "trustsnn train qcfs"
        )
    arguments = {**converted.architecture["arguments"], "neuron": "lif", "learn": learn, "surrogate": surrogate, "width": width}
    network = build(converted.architecture["name"], **arguments)
    network.load_state_dict({name: t for name, t in converted.state_dict().items() if not name.endswith(".unit")})
    return network
