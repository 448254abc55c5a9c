"""The attacks by name. Light: it imports no torch."""

from trustsnn.plugins import Catalogue, Entry

ATTACKS = Catalogue(
    "attack",
    "trustsnn.attacks",
    {
        "fgsm": Entry("trustsnn.attacks.fgsm:FGSM", "one gradient step of length eps; L-inf, L2, targeted"),
        "pgd": Entry("trustsnn.attacks.pgd:PGD", "projected gradient ascent with restarts; L-inf, L2, targeted"),
    },
)
