"""Private conversion (PrivateSNN, Kim, Venkatesha and Panda, AAAI 2022): from an ANN to a spiking network without a sample of its data.

Images are made from the ANN alone, they balance the thresholds, and the network is trained through time on them with the ANN as its
teacher. The paper calls that last stage temporal encryption. It is obfuscation: it has no key and nothing is proven of it, so it is
measured, by `trustsnn.attacks.leakage`. For weights that only a key opens, see `trustsnn.defenses.seal`.
"""

from trustsnn.defenses.private.balance import largest_currents, spiking_start
from trustsnn.defenses.private.conversion import PrivateConversion, convert_privately
from trustsnn.defenses.private.distillation import Distillation
from trustsnn.defenses.private.synthesis import Synthesis, class_similarity, soft_labels, synthesise

__all__ = [
    "Distillation",
    "PrivateConversion",
    "Synthesis",
    "class_similarity",
    "convert_privately",
    "largest_currents",
    "soft_labels",
    "spiking_start",
    "synthesise",
]
