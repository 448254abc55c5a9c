"""Images made from an ANN alone: gradient descent on pixels until the ANN gives them the classes that are asked for."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from trustsnn.blocks import frozen, input_gradient
from trustsnn.canonical import canonical_json
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, from_arrays
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.files import write_atomically, write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws, stream

_SETTINGS = "settings.json"
_LEAST = 1e-3  # added to a similarity, so that each concentration of the Dirichlet distribution is positive


@dataclass(frozen=True)
class Synthesis:
    """Settings of `synthesise`; the defaults are those that PrivateSNN's authors published for CIFAR (1,500 iterations for MNIST).

    samples: images, the classes in turn.
    iterations: of Adam, an image.
    learning_rate: of Adam, in pixel values.
    temperature: the ANN's logits are divided by it.
    part: images that are computed and kept together; no image depends on it.
    seed: of soft labels and starts.
    """

    samples: int = 5000
    iterations: int = 2500
    learning_rate: float = 1e-3
    temperature: float = 20.0
    part: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "iterations", "part"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected at least 1 for {name} of the synthetic images, got {getattr(self, name)}.")
        for name in ("learning_rate", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"Expected a positive {name} of the synthetic images, got {getattr(self, name)}.")


def class_similarity(ann: SpikingNetwork) -> NDArray[np.float64]:
    """The cosine similarity of the rows of the last layer's weights, each row scaled to [0, 1], [K, K].

    Raises:
        ConfigError: the last layer is not linear.
    """
    last = ann.layers[-1]
    if not isinstance(last, nn.Linear):
        raise ConfigError(f"Expected an ANN that ends in a linear layer, got {type(last).__name__}.")
    rows = last.weight.detach().double()
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)
    similar = rows @ rows.T
    similar = similar - similar.amin(1, keepdim=True)
    found: NDArray[np.float64] = (similar / similar.amax(1, keepdim=True).clamp_min(1e-12)).numpy()
    return found


def soft_labels(ann: SpikingNetwork, samples: range, seed: int = 0) -> Tensor:
    """For each of `samples` a distribution over the classes, [n, K], float64: a draw from the Dirichlet distribution around class
    i mod K, whose concentrations are that class's `class_similarity`. The largest share is often another class than that."""
    around = class_similarity(ann) + _LEAST
    return torch.from_numpy(np.stack([stream(seed, "private/label", str(i)).dirichlet(around[i % len(around)]) for i in samples]))


def synthesise(
    ann: SpikingNetwork,
    how: Synthesis,
    folder: Path | None = None,
    *,
    on_step: Callable[[int, int], None] | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Images that stand in for the ANN's training data (Kim, Venkatesha, Panda, AAAI 2022, after Nayak, ICML 2019): from uniform
    noise, Adam on the pixels minimises the cross-entropy of the ANN's softmax at the temperature to a soft label; rounded to 8 bits.

    Pixels are held in [0, 1] at every iteration; the authors' code cuts them off at the end alone. An image depends on the ANN, its
    number, the seed and the settings, and on nothing else. No data set is read.

    Args:
        folder: where parts are kept as they come; a call with the same ANN and settings goes on there.
        on_step: told of the images of the part that are under way and the iterations done, as (done, total) iterations of all parts.
        on_part: told of (done, total) images after each part.

    Returns:
        Images as a `Dataset` named "synthetic"; the label of one is the class with the largest share of its soft label.

    Raises:
        ConfigError: the ANN does not take images or does not end in a linear layer, or `folder` holds images of other settings.
        UnsafeArtifactError: a part in `folder` is damaged.
    """
    if ann.spec.domain != "image":
        raise ConfigError(f"Expected an ANN that takes images, got one of the domain {ann.spec.domain!r}.")
    if folder is not None:
        _check_settings(folder, {"ann": model_hash(ann), **asdict(how)})
    parts = [range(start, min(start + how.part, how.samples)) for start in range(0, how.samples, how.part)]
    images, labels = [], []
    for place, samples in enumerate(parts):
        wanted = soft_labels(ann, samples, how.seed)
        path = None if folder is None else folder / f"part-{place:05d}.npz"
        found = _read(path, (len(samples), *ann.spec.input_shape)) if path is not None and path.exists() else None
        if found is None:

            def tell(done: int, before: int = place * how.iterations) -> None:
                if on_step is not None:
                    on_step(before + done, len(parts) * how.iterations)

            found = _images(ann, how, samples, wanted, tell)
            if path is not None:
                _write(path, found)
        images.append(found)
        labels.append(wanted.argmax(1).numpy())
        if on_part is not None:
            on_part(samples.stop, how.samples)
    return from_arrays(
        np.concatenate(images), np.concatenate(labels), name="synthetic", split="synthetic", classes=ann.spec.classes
    )


def _images(
    ann: SpikingNetwork, how: Synthesis, samples: range, wanted: Tensor, tell: Callable[[int], None]
) -> NDArray[np.uint8]:
    def to_lower(logits: Tensor, share: Tensor) -> Tensor:
        return -(share * log_softmax(logits / how.temperature, 1)).sum(1)

    x = Draws(how.seed, "private/start", tuple(map(str, samples))).uniform(ann.spec.input_shape)
    optimizer = torch.optim.Adam([x], lr=how.learning_rate)  # works on each pixel for itself
    with frozen(ann):
        for done in range(how.iterations):
            found = input_gradient(ann, x, wanted, to_lower)
            x.grad = found.direction * found.scale.to(x.dtype).view(-1, 1, 1, 1)
            optimizer.step()
            x.clamp_(0, 1)
            tell(done + 1)
    return (x * 255).round().to(torch.uint8).numpy()


def _check_settings(folder: Path, settings: dict[str, object]) -> None:
    path, text = folder / _SETTINGS, canonical_json(settings) + "\n"
    if not path.exists():
        write_text(path, text)
    elif path.read_text() != text:
        try:
            theirs = json.loads(path.read_text())
            differing = ", ".join(sorted(key for key in settings if theirs.get(key) != settings[key]))
        except (ValueError, AttributeError):
            differing = _SETTINGS
        raise ConfigError(
            f"{folder} holds synthetic images of other settings ({differing} differ). Choose another --out, or delete that folder."
        )


def _write(path: Path, images: NDArray[np.uint8]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, images=images)

    write_atomically(path, write)


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            images: NDArray[np.uint8] = kept["images"]
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"expected uint8 {list(shape)}, got {images.dtype} {list(images.shape)}")
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UnsafeArtifactError(
            f"{path} is not a whole part of the synthetic images: {error}. Delete it to make it again."
        ) from error
    return images
