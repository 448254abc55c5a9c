"""Training of the bundled spiking networks."""

from trustsnn.training.bptt import Progress, TrainConfig, train
from trustsnn.training.evaluate import accuracy
from trustsnn.training.grad_r import GradR
from trustsnn.training.recipe import CrossEntropy, Recipe
from trustsnn.training.sparse import count_synapses, magnitude_masks, masked, random_masks

__all__ = [
    "CrossEntropy", "GradR", "Progress", "Recipe", "TrainConfig", "accuracy", "count_synapses", "magnitude_masks", "masked", "random_masks", "train",
]  # fmt: skip
