"""The attacks by name. Light: it imports no torch."""

from trustsnn.plugins import Catalogue, Entry

IMAGE_ATTACKS = {
    "fgsm": Entry("trustsnn.attacks.fgsm:FGSM", "one gradient step of length eps; L-inf, L2, targeted"),
    "r-fgsm": Entry("trustsnn.attacks.fgsm:RFGSM", "a random step, then a gradient step; L-inf, L2, targeted"),
    "mi-fgsm": Entry("trustsnn.attacks.momentum:MIFGSM", "gradient steps with momentum; L-inf, L2, targeted"),
    "pgd": Entry("trustsnn.attacks.pgd:PGD", "projected gradient ascent with restarts; L-inf, L2, L1, targeted"),
    "apgd": Entry("trustsnn.attacks.apgd:APGD", "projected gradient ascent that sets its step sizes; L-inf, L2, L1, all targets"),
    "sapgd": Entry("trustsnn.attacks.sapgd:SAPGD", "gradient ascent with a step for each pixel, for noisy gradients; L-inf"),
    "pgd0": Entry("trustsnn.attacks.pgd0:PGD0", "projected gradient ascent that changes few pixels; L0"),
    "square": Entry("trustsnn.attacks.square:Square", "random search by square patches, black box; L-inf, L2"),
    "deepfool": Entry("trustsnn.attacks.deepfool:DeepFool", "the nearest linearised decision boundary; L-inf, L2"),
    "cw": Entry("trustsnn.attacks.cw:CW", "the smallest perturbation, by Adam and a search for its price; L2, targeted"),
    "transfer": Entry("trustsnn.attacks.transfer:Transfer", "samples made on another model, as the twin without spikes"),
    "snn-autoattack": Entry(
        "trustsnn.attacks.autoattack:SNNAutoAttack",
        "the ensemble: gradient estimators x APGD, SA-PGD, DLR, targeted, then the ANN twin and Square; L-inf, L2, L1, L0",
    ),
    "bisection": Entry(
        "trustsnn.attacks.bisection:Bisection",
        "the smallest eps that breaks each sample, searched with the quick ensemble; L-inf, L2",
    ),
}

EVENT_NORMS = ("events", "moves")
"""What the budget of an event attack counts: events inserted and deleted, or events moved in time at their own pixel and
polarity."""

_EVENTS = "trustsnn.attacks.events"

EVENT_ATTACKS = {
    "sda": Entry(f"{_EVENTS}.sda:SDA", "few events inserted or deleted, each tested, then thinned out"),
    "spikefool": Entry(f"{_EVENTS}.spikefool:SpikeFool", "few events, towards the nearest linearised boundary"),
    "insertion": Entry(f"{_EVENTS}.greedy:Insertion", "events inserted only, the largest gradient first"),
    "deletion": Entry(f"{_EVENTS}.greedy:Deletion", "events deleted only, the largest gradient first"),
    "retiming": Entry(f"{_EVENTS}.retiming:Retiming", "events moved in time, none made or lost"),
    "frame": Entry(f"{_EVENTS}.dvs:FrameAttack", "events along the border, no gradient"),
    "corner": Entry(f"{_EVENTS}.dvs:CornerAttack", "events in a corner, no gradient"),
    "dash": Entry(f"{_EVENTS}.dvs:DashAttack", "a dash of events that moves in from the edges, no gradient"),
    "filter-aware-dash": Entry(f"{_EVENTS}.dvs:FilterAwareDash", "a dash that passes a mask filter, no gradient"),
}

TORCHATTACKS = {
    f"torchattacks/{name}": Entry(f"trustsnn.attacks.adapter:{name}", f"torchattacks' {name}")
    for name in (
        "VANILA",
        "GN",
        "FGSM",
        "BIM",
        "RFGSM",
        "PGD",
        "EOTPGD",
        "FFGSM",
        "TPGD",
        "MIFGSM",
        "UPGD",
        "APGD",
        "APGDT",
        "DIFGSM",
        "TIFGSM",
        "Jitter",
        "NIFGSM",
        "PGDRS",
        "SINIFGSM",
        "VMIFGSM",
        "VNIFGSM",
        "SPSA",
        "JSMA",
        "EADL1",
        "EADEN",
        "PIFGSM",
        "PIFGSMPP",
        "CW",
        "PGDL2",
        "DeepFool",
        "PGDRSL2",
        "SparseFool",
        "OnePixel",
        "Pixle",
        "FAB",
        "AutoAttack",
        "Square",
    )
}
"""Every attack of torchattacks 3.5.1; MultiAttack and LGV are left out, since they take attacks or data and no settings."""

ATTACKS = Catalogue("attack", "trustsnn.attacks", IMAGE_ATTACKS | EVENT_ATTACKS | TORCHATTACKS)
