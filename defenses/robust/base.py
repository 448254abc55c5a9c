"""What robust recipes share: checked settings, one order of things in a step, and recipes that join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from trustsnn.defenses.robust.catalogue import RECIPES_FOR_EVENTS
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.settings import check_settings, setting
from trustsnn.training.recipe import Recipe, generator_of, logits_of
from trustsnn.training.sparse import synaptic_layers

if TYPE_CHECKING:
    from trustsnn.data import Dataset
    from trustsnn.training import TrainConfig


class Seen(NamedTuple):
    """Logits [B, K] of a forward pass, and u - V of each layer of neurons, [T, B, ...], where a recipe asks for it."""

    logits: Tensor
    distances: dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """A batch in training: as it came, as the recipe made it, what the network made of that, and `look` for another forward pass."""

    model: SpikingNetwork
    clean: Tensor
    x: Tensor
    y: Tensor
    draws: Draws
    seen: Seen
    look: Callable[[Tensor], Seen]


@dataclass(frozen=True, kw_only=True)
class Robust(Recipe):
    """A step is: `inputs` makes the batch, the network sees it within `applied`, `terms` are added to the cross-entropy, and
    `after_step` follows the optimizer. Each recipe fills in some of these, so that several can join (see `Joined`).

    Args:
        label_smoothing: of the cross-entropy, in [0, 1).
    """

    label_smoothing: float = setting(0.0, 0.0, 0.999)

    name: ClassVar[str]
    images: ClassVar[bool] = True  # it moves or compares images in [0, 1]
    alone: ClassVar[bool] = False  # it has losses of its own and joins no other recipe
    anew: ClassVar[bool] = False  # it begins with weights of its own, and learns what it learns
    membranes: ClassVar[bool] = False  # it reads `Seen.distances`
    leaf: ClassVar[bool] = False  # it takes gradients with respect to `Step.x`

    def __post_init__(self) -> None:
        check_settings(self, f"recipe {self.name!r}")

    def check(self, model: SpikingNetwork) -> None:
        """ConfigError where the recipe does not fit the model."""
        if self.images and model.spec.domain != "image":
            raise ConfigError(
                f"The recipe {self.name!r} works on images in [0, 1], got a model of {model.spec.domain!r}. For events take one of: "
                f"{', '.join(RECIPES_FOR_EVENTS)}."
            )
        if (self.membranes or self.alone) and type(model) is not SpikingNetwork:
            raise ConfigError(
                f"The recipe {self.name!r} follows the membranes of a network of layers over time steps, got {type(model).__name__}. Take "
                "one that needs the outputs alone: at, trades, rat, sr, noise."
            )

    def adapted(self, model: SpikingNetwork) -> SpikingNetwork:
        """The network to train in place of `model`, which some recipes extend; its weights are kept. Call it before `train`."""
        return model

    def prepared(
        self, model: SpikingNetwork, data: Dataset, config: TrainConfig, folder: Path | None = None, **watch: Any
    ) -> SpikingNetwork:
        """As `adapted`, with the samples that are to be trained on, for a recipe that trains something before. `folder` and `watch` are
        as in `train`: what was trained is there when the same call is made again."""
        return self.adapted(model)

    def inputs(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """What the batch becomes, shaped as `x`."""
        return x

    def applied(self, model: SpikingNetwork, draws: Draws) -> AbstractContextManager[None]:
        """Around each forward pass that is trained."""
        return nullcontext()

    def terms(self, step: Step) -> list[Tensor]:
        """Scalars to add to the cross-entropy."""
        return []

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        self.check(model)
        made = self.inputs(model, x, y, draws)
        made = made.detach().requires_grad_() if self.leaf else made

        def look(batch: Tensor) -> Seen:
            with self.applied(model, draws.child("applied")):
                if self.membranes:
                    return Seen(*model.distances(batch, generator_of(model, draws)))
                return Seen(logits_of(model, batch, draws), {})

        seen = look(made)
        loss = cross_entropy(seen.logits, y, label_smoothing=self.label_smoothing)
        for term in self.terms(Step(model, x, made, y, draws, seen, look)):
            loss = loss + term
        yield loss, seen.logits

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


def check_plain_weights(model: SpikingNetwork, name: str) -> None:
    """ConfigError where weights are made from other parameters, as in sparse training: `name` changes the weights themselves."""
    for layer, module in synaptic_layers(model).items():
        if parametrize.is_parametrized(module, "weight"):
            raise ConfigError(
                f"The recipe {name!r} changes weights, and {layer} makes its own from masks: train it without masks."
            )


class Joined(Robust):
    """Several recipes in one: their inputs one after the other, their terms added."""

    name = "joined"

    def __init__(self, parts: list[Robust]) -> None:
        super().__init__(label_smoothing=max(part.label_smoothing for part in parts))
        alone = [part.name for part in parts if part.alone]
        if alone:
            raise ConfigError(f"The recipe {alone[0]!r} has losses of its own and joins no other, got {_names(parts)}.")
        crafting = [part.name for part in parts if type(part).inputs is not Robust.inputs]
        if len(crafting) > 1:
            raise ConfigError(f"Expected one recipe that makes the batch, got {' and '.join(crafting)}. Take one of them.")
        if len({part.name for part in parts}) < len(parts):
            raise ConfigError(f"Expected each recipe once, got {_names(parts)}.")
        object.__setattr__(self, "parts", tuple(parts))
        for flag in ("images", "membranes", "leaf"):
            object.__setattr__(self, flag, any(getattr(part, flag) for part in parts))

    parts: tuple[Robust, ...]

    def check(self, model: SpikingNetwork) -> None:
        for part in self.parts:
            part.check(model)

    def adapted(self, model: SpikingNetwork) -> SpikingNetwork:
        for part in self.parts:
            model = part.adapted(model)
        return model

    def inputs(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        for part in self.parts:
            x = part.inputs(model, x, y, draws)
        return x

    @contextmanager
    def applied(self, model: SpikingNetwork, draws: Draws) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.applied(model, draws))
            yield

    def terms(self, step: Step) -> list[Tensor]:
        return [term for part in self.parts for term in part.terms(step)]

    def after_step(self, model: SpikingNetwork) -> None:
        for part in self.parts:
            part.after_step(model)

    def describe(self) -> dict[str, Any]:
        return {"name": _names(list(self.parts)), "parts": [part.describe() for part in self.parts]}


def _names(parts: list[Robust]) -> str:
    return "+".join(part.name for part in parts)
