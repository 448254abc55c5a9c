"""The robust recipes by name. Light: it imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class RecipeEntry(NamedTuple):
    """Where the class of a recipe is ("module:name"), one line on it, and the paper."""

    target: str
    description: str
    paper: str


_HERE = "trustsnn.defenses.robust"
_CERTIFY = "trustsnn.defenses.certify.training"

RECIPES = {
    "hire": RecipeEntry(f"{_HERE}.hire:HIRE", "input noise crafted between parts of the time steps; alone", "Kundu ICCV 2021"),
    "at": RecipeEntry(f"{_HERE}.at:AT", "cross-entropy on samples of PGD", "Madry ICLR 2018"),
    "trades": RecipeEntry(f"{_HERE}.trades:TRADES", "divergence between clean and attacked outputs", "Zhang ICML 2019"),
    "rat": RecipeEntry(f"{_HERE}.rat:RAT", "weak adversarial training, weights pulled to orthogonal rows", "Ding NeurIPS 2022"),
    "sr": RecipeEntry(f"{_HERE}.sr:SR", "small input gradient of the label's probability", "Liu ICML 2024"),
    "stog": RecipeEntry(f"{_HERE}.stog:StoG", "spikes pass random gates of learnt probability", "Ding AAAI 2024"),
    "feel": RecipeEntry(f"{_HERE}.feel:FEEL", "low-passed images, a learnt leak at each step", "Xu NeurIPS 2024"),
    "mpd-sgr": RecipeEntry(f"{_HERE}.mpd_sgr:MPDSGR", "few membranes within the surrogate's width", "Jiang AAAI 2026"),
    "tgo": RecipeEntry(f"{_HERE}.tgo:TGO", "membranes kept away from the threshold", "Wang ICLR 2026"),
    "mppd-tv": RecipeEntry(f"{_HERE}.mppd_tv:MPPDTV", "membranes of clean and attacked samples alike", "Lai ICLR 2026"),
    "noise": RecipeEntry(f"{_HERE}.noise:Noise", "Gaussian noise on the weights at each step", "Joshi Nat. Commun. 2020"),
    "robust-ann": RecipeEntry(
        f"{_HERE}.conversion:RobustANN", "an ANN trained by at, converted, trained on by at; alone", "Özdenizci TMLR 2023"
    ),
    "gaussian-noise": RecipeEntry(
        f"{_CERTIFY}:GaussianNoise", "Gaussian noise on images, for randomised smoothing", "Cohen ICML 2019"
    ),
    "s-ibp": RecipeEntry(f"{_CERTIFY}:S_IBP", "interval bounds through the network; alone", "Liang NeurIPS 2022"),
}

RECIPES_FOR_EVENTS = ("mpd-sgr", "tgo", "noise", "stog")
