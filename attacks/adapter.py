"""The attacks of torchattacks (Kim 2020, arXiv 2010.01950) behind trustsnn's call, checks and seeds: "torchattacks/PGD".

They are an independent second opinion. torchattacks 3.5.1 is not a dependency, because it claims packages that it does not
import and that cannot be resolved beside Flower; install it last, with `pip install --no-deps torchattacks==3.5.1`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.catalogue import TORCHATTACKS
from trustsnn.attacks.norms import check_norm, project, size
from trustsnn.blocks import is_stochastic
from trustsnn.errors import ConfigError, MissingExtraError
from trustsnn.rng import Draws, stream

_RADIUS_IN_L2 = ("PGDL2", "PGDRSL2")
_WITHOUT_GRADIENTS = ("Square", "SPSA", "OnePixel", "Pixle", "GN")
_PEER_NORMS = {"linf": "Linf", "l2": "L2"}
_PEER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


@dataclass(frozen=True)
class AdaptedResult(AttackResult):
    """As `AttackResult`, with `outside` [B]: how far, in the attack's norm, the peer's sample was from the ball and the
    domain before it was projected there; infinite where it was not finite and the clean sample stands in its place."""

    outside: Tensor = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class TorchAttack(Attack):
    """An attack of torchattacks; `torch_attack` makes its subclass for one of them.

    Args:
        eps: radius of the ball. It is handed to the attack where that takes one, and the result is projected to it.
            Infinite (the default) leaves the attack to its own radius and the result to the domain [0, 1].
        settings: further arguments of the attack by torchattacks' names, such as {"steps": 20, "alpha": 0.01}.
        batched: hand the whole batch to the attack. It is faster, but torchattacks draws for the batch and not for the
            sample, so a result then depends on the samples around it. Otherwise each sample is attacked alone.
        eot: a stochastic model is evaluated as its mean logits over this many draws.

    Samples that a deterministic model already misclassifies are returned as they are, unless the attack is targeted.
    """

    eps: float = math.inf
    settings: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = False

    method: ClassVar[str]

    def __post_init__(self) -> None:
        if self.eps < math.inf or self.eps != self.eps:
            super().__post_init__()
        check_norm(self.norm, self.norms)
        if self.loss != "ce":
            raise ConfigError(f"{self.name} has a loss of its own. Leave `loss` at 'ce' and use `settings`.")
        known = _parameters(self.method)
        unknown = self.settings.keys() - known.keys()
        if unknown:
            raise ConfigError(f"{self.name} has no setting {', '.join(sorted(unknown))}. Known: {', '.join(known) or 'none'}.")
        twice = self.settings.keys() & self._own(classes=0).keys() - {"n_classes"}
        if twice:
            raise ConfigError(
                f"Give {', '.join(sorted(twice))} of {self.name} as a setting of the adapter, not within `settings`."
            )

    def describe(self) -> dict[str, Any]:
        radius = {} if self.eps < math.inf else {"eps": None}
        return {**super().describe(), "settings": dict(self.settings), **radius}

    def _own(self, classes: int) -> dict[str, Any]:
        """What the adapter says to the attack by itself, as far as the attack takes it."""
        mine: dict[str, Any] = {"norm": _PEER_NORMS[self.norm], "n_classes": classes, "seed": 0}
        if self.eps < math.inf:
            mine |= {"eps": self.eps, "max_epsilon": self.eps}
        return {name: value for name, value in mine.items() if name in _parameters(self.method)}

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AdaptedResult:
        if x.dim() != 4:
            raise ConfigError(f"torchattacks works on images [B, C, H, W], got a batch of shape {list(x.shape)}.")
        goal = self.goal(model, x, y, draws)
        logits, _, gradient = self.gradient(model, x, goal, draws.child("look"))
        certain = not self.targeted and not is_stochastic(model)
        rows = (logits.argmax(1) == y).nonzero().squeeze(1).tolist() if certain else list(range(len(x)))
        peer_labels = goal[:, 1] if self.targeted else y
        found = x.clone()
        for part in [rows] if self.batched and rows else [[row] for row in rows]:
            found[part] = self._attacked(model, x[part], peer_labels[part], logits.shape[1], draws.select(part))
        lost = ~torch.isfinite(found).flatten(1).all(1)
        found[lost] = x[lost]
        inside = project(found, x, self.eps, self.norm)
        return AdaptedResult(
            inside,
            (gradient == 0).flatten(1).all(1),
            ~torch.isfinite(gradient).flatten(1).all(1),
            outside=size(found - inside, self.norm).masked_fill(lost, math.inf),
        )

    def _attacked(self, model: nn.Module, x: Tensor, y: Tensor, classes: int, draws: Draws) -> Tensor:
        seed = int(stream(draws.seed, f"{draws.task}/peer", "\x1f".join(draws.ids)).integers(2**31))
        own = self._own(classes)
        if "seed" in own:
            own["seed"] = seed
        try:
            with _seeded(seed):
                peer = _peer_class(self.method)(_Facade(model, draws, self.eot), **{**own, **self.settings})
                peer.set_device(x.device)
                if self.targeted and "targeted" not in peer.supported_mode:
                    raise ConfigError(f"{self.name} has no targeted form.")
                if self.targeted:
                    peer.set_mode_targeted_by_label(quiet=True)
                attacked: Tensor = peer(x, y)
        except _PEER_ERRORS as error:
            raise ConfigError(
                f"{self.name} failed with these settings on a batch of shape {list(x.shape)}: {type(error).__name__}: {error}"
            ) from error
        return attacked.detach().to(x.dtype)


class _Facade(nn.Module):
    """The model as torchattacks sees it. It is in eval mode before the peer looks, so the peer switches no mode back, and
    it hands a stochastic model draws: new ones at each evaluation, the same ones whenever the attack is repeated."""

    def __init__(self, model: nn.Module, draws: Draws, eot: int) -> None:
        super().__init__()
        self.model, self.draws, self.eot, self.calls = model, draws, eot, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if not is_stochastic(self.model):
            logits: Tensor = self.model(x)
            return logits
        self.calls += 1
        key = "\x1f".join(self.draws.ids)
        draws = Draws(self.draws.seed, f"{self.draws.task}/call/{self.calls}", tuple(f"{key}/{row}" for row in range(len(x))))
        return torch.stack([self.model(x, generator=draws.child("eot", k)) for k in range(self.eot)]).mean(0)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, torch's and numpy's global generators start from `seed`; after, they are as they were. What the peer's code
    says about its own age is not the user's concern."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def _peer_class(method: str) -> Any:
    try:
        return getattr(import_module("torchattacks"), method)
    except ModuleNotFoundError as error:
        install = "pip install --no-deps torchattacks==3.5.1"  # no extra names it, see above
        raise MissingExtraError("torchattacks", "The torchattacks adapter", install) from error


@cache
def _parameters(method: str) -> dict[str, Any]:
    """The settings of an attack and their defaults, by its signature."""
    parameters = list(inspect.signature(_peer_class(method).__init__).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


@cache
def torch_attack(name: str) -> type[TorchAttack]:
    """The attack called "torchattacks/..." as a class with trustsnn's settings and call.

    Raises ConfigError for an unknown name and MissingExtraError where torchattacks is not installed.

        attack = torch_attack("torchattacks/PGD")(eps=8 / 255, settings={"steps": 20})
        adversarial = attack(model, x, y)
    """
    if name not in TORCHATTACKS:
        close = difflib.get_close_matches(name, TORCHATTACKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown attack {name!r}. Known: {', '.join(TORCHATTACKS)}.{hint}")
    method = name.removeprefix("torchattacks/")
    parameters = _parameters(method)
    norms: tuple[str, ...] = ("linf", "l2")
    if "norm" not in parameters and {"eps", "max_epsilon"} & parameters.keys():
        norms = ("l2",) if method in _RADIUS_IN_L2 else ("linf",)
    return type(
        method,
        (TorchAttack,),
        {
            "__module__": __name__,
            "__doc__": f"torchattacks' {method}.",
            "name": name,
            "method": method,
            "norms": norms,
            "route": "black-box" if method in _WITHOUT_GRADIENTS else "white-box",
        },
    )


def __getattr__(name: str) -> type[TorchAttack]:
    """Every attack by its short name, so that a catalogue can point here."""
    if f"torchattacks/{name}" not in TORCHATTACKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return torch_attack(f"torchattacks/{name}")
