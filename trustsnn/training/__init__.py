"""Training of the bundled spiking networks."""

from trustsnn.training.bptt import Progress, TrainConfig, train
from trustsnn.training.evaluate import accuracy

__all__ = ["Progress", "TrainConfig", "accuracy", "train"]
