"""Gradient inversion by search: images whose gradient is the one that a client sent (DLG, iDLG, Inverting Gradients)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.leakage.labels import inferred_labels
from trustsnn.attacks.leakage.twice import TwiceDifferentiable
from trustsnn.attacks.leakage.updates import STATISTICS, Reconstruction, Update, check_update
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import Surrogate
from trustsnn.rng import Draws
from trustsnn.settings import check_choice, check_settings, setting

METHODS = {
    "dlg": "squared distance by L-BFGS, the labels searched for as well (Zhu 2019, arXiv 1906.08935)",
    "idlg": "squared distance by L-BFGS, the labels from the last bias (Zhao 2020, arXiv 2001.02610)",
    "inverting": "cosine and total variation by signed Adam, the labels from the last bias (Geiping 2020, arXiv 2003.14053)",
}
Gradients = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class GradientInversion:
    """An attack on an update of any number of samples, by one of `METHODS`: `GradientInversion(method="dlg")(model, update)`.

    Images start as uniform noise, the same for every update. The search keeps the images with the best objective that it saw.

    Args:
        iterations: of L-BFGS, each with a line search, or of Adam, whose step falls to a tenth after 3/8, 5/8 and 7/8 of them.
        step: of Adam, in pixel values.
        tv: weight of the total variation of "inverting".
        restarts: from other noise; the best objective wins.
        surrogate: of the twice differentiable network; None takes each layer's own. statistics: of its batch normalisation.
        seed: of the noise.
    """

    method: str = "inverting"
    iterations: int = setting(300, 1)
    step: float = setting(0.1, above=True)
    tv: float = setting(0.2)
    restarts: int = setting(1, 1)
    surrogate: Surrogate | None = None
    statistics: str = "frozen"
    seed: int = 0

    called: ClassVar[str] = "gradient inversion"

    def __post_init__(self) -> None:
        check_choice(self.called, "method", self.method, tuple(METHODS))
        check_choice(self.called, "statistics", self.statistics, tuple(STATISTICS))
        check_settings(self, self.called)

    def __call__(self, model: SpikingNetwork, update: Update) -> Reconstruction:
        """The images and labels of an update.

        Raises:
            ConfigError: the update is of another model, or the model has a layer without second derivatives.
        """
        check_update(model, update)
        with torch.inference_mode(False), torch.enable_grad():
            twice = TwiceDifferentiable(model, surrogate=self.surrogate, statistics=self.statistics)
            seen = {name: update.gradients[name].detach() for name, _ in model.named_parameters()}
            found = [self._search(twice, seen, update, restart) for restart in range(self.restarts)]
        return min(found, key=lambda each: torch.inf if each.objective is None else each.objective)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values; the seed is told apart from them."""
        surrogate = None if self.surrogate is None else {"name": self.surrogate.name, "width": self.surrogate.width}
        own = {"step": self.step, "tv": self.tv} if self.method == "inverting" else {}
        return {
            "attack": self.method, "iterations": self.iterations, "restarts": self.restarts, "surrogate": surrogate,
            "statistics": self.statistics, **own,
        }  # fmt: skip

    def _search(self, twice: TwiceDifferentiable, seen: Gradients, update: Update, restart: int) -> Reconstruction:
        spec = twice.network.spec
        rows = Draws(self.seed, f"gradient-inversion/{restart}", tuple(map(str, range(update.samples))))
        x = rows.child("images").uniform(spec.input_shape).requires_grad_()
        if self.method == "dlg":
            wanted = rows.child("labels").normal((spec.classes,)).requires_grad_()
            return self._by_lbfgs([x, wanted], lambda: _distance(twice.gradients(x, wanted.softmax(1)), seen))
        labels = inferred_labels(twice.network, update)
        if self.method == "idlg":
            return self._by_lbfgs([x, labels], lambda: _distance(twice.gradients(x, labels), seen))
        return self._by_adam(x, labels, lambda: _angle(twice.gradients(x, labels), seen) + self.tv * _variation(x))

    def _by_lbfgs(self, given: list[Tensor], objective: Callable[[], Tensor]) -> Reconstruction:
        moved = [each for each in given if each.requires_grad]
        optimizer = torch.optim.LBFGS(
            moved, lr=1.0, max_iter=self.iterations, max_eval=4 * self.iterations, tolerance_grad=0.0, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        best = _Best(given)

        def closure() -> float:
            value = objective()
            for each, gradient in zip(moved, torch.autograd.grad(value, moved), strict=True):
                each.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            return best.see(value)

        optimizer.step(closure)
        return best.found()

    def _by_adam(self, x: Tensor, labels: Tensor, objective: Callable[[], Tensor]) -> Reconstruction:
        optimizer = torch.optim.Adam([x], lr=self.step)
        falls = [self.iterations * part // 8 for part in (3, 5, 7)]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls)
        best = _Best([x, labels])
        for _ in range(self.iterations):
            value = objective()
            best.see(value)
            x.grad = torch.autograd.grad(value, x)[0].nan_to_num(0.0, 0.0, 0.0).sign()
            optimizer.step()
            scheduler.step()
            x.data.clamp_(0, 1)
        best.see(objective())
        return best.found()


class _Best:
    """Images and labels (or shares before the softmax) with the lowest objective so far."""

    def __init__(self, given: list[Tensor]) -> None:
        self.given, self.value = given, torch.inf
        self.kept = [each.detach().clone() for each in given]

    def see(self, value: Tensor) -> float:
        """Keep what is there if its objective is the lowest; the objective."""
        here = float(value.detach())
        if here < self.value:
            self.value, self.kept = here, [each.detach().clone() for each in self.given]
        return here

    def found(self) -> Reconstruction:
        images, labels = self.kept
        labels = labels.argmax(1) if labels.is_floating_point() else labels
        return Reconstruction(images.clamp(0, 1), labels, self.value if self.value < torch.inf else None)


def _flat(gradients: Gradients) -> Tensor:
    return torch.cat([each.flatten() for each in gradients.values()])


def _distance(found: Gradients, seen: Gradients) -> Tensor:
    """The squared distance, relative to the size of the update."""
    one, other = _flat(found), _flat(seen)
    return (one - other).square().sum() / other.square().sum().clamp_min(1e-30)


def _angle(found: Gradients, seen: Gradients) -> Tensor:
    """1 - cos of the angle between the two, 1 where either is 0."""
    one, other = _flat(found), _flat(seen)
    return 1 - (one * other).sum() / (one.square().sum() * other.square().sum()).clamp_min(1e-30).sqrt()


def _variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, along both axes."""
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
