"""Pictures of samples before and after an attack, as PNG data URIs."""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustsnn.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ADDED, REMOVED, NEUTRAL = (214, 108, 20), (98, 74, 196), (246, 246, 247)  # orange, violet: apart for colour-blind eyes too
ON, OFF = (200, 40, 48), (36, 92, 200)
_ARRAYS = ("sample", "label", "clean_prediction", "prediction", "clean", "adversarial")


@dataclass(frozen=True)
class Picture:
    """One sample as three PNG data URIs, with its label and predictions (class indices)."""

    sample: str
    label: int
    clean_prediction: int
    prediction: int
    clean: str
    adversarial: str
    difference: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of one cell. `scale` is the change of a pixel, in input units or, if `events`, in events, that is drawn in
    full colour."""

    channels: int
    scale: float
    events: bool
    pictures: tuple[Picture, ...]


def gallery(path: Path, eps: float | None, most: int = 8) -> Gallery | None:
    """Read cells/<key>.npz and draw at most `most` samples, in the order they were kept. None when there is no such file.

    `eps` sets the difference's full colour (for linf, where it is the largest change allowed); None takes the largest found.

    Raises:
        RunError: the file is damaged or its arrays do not fit together.
    """
    import numpy as np

    if not path.exists():
        return None
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
            unit = float(stored["unit"]) if "unit" in stored else None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"Expected the arrays {', '.join(_ARRAYS)} in {path}, got a file without them ({error}). "
            "Delete it and its line in cells.jsonl, then run the same audit command again."
        ) from error
    clean, adversarial = arrays["clean"], arrays["adversarial"]
    if clean.ndim != 4 or clean.shape != adversarial.shape or any(len(arrays[name]) != len(clean) for name in _ARRAYS):
        raise RunError(f"Expected pictures [n, C, H, W], one a sample, in {path}, got {clean.shape} and {adversarial.shape}.")
    clean, adversarial = (np.nan_to_num(array[:most]).astype(np.float32) for array in (clean, adversarial))
    difference = adversarial - clean
    if not len(clean):
        return None
    scale = eps if eps else float(np.abs(difference).max()) or 1.0
    pictures = tuple(
        Picture(
            str(arrays["sample"][row]),
            int(arrays["label"][row]),
            int(arrays["clean_prediction"][row]),
            int(arrays["prediction"][row]),
            uri(pixels(clean[row])),
            uri(pixels(adversarial[row])),
            uri(change(difference[row], scale)),
        )
        for row in range(len(clean))
    )
    return Gallery(int(clean.shape[1]), scale * (unit or 1.0), unit is not None, pictures)


def pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image [C, H, W] in [0, 1] as RGB bytes [H, W, 3].

    C = 1 is grey, C = 3 is RGB, C = 2 is event polarity (OFF blue, ON red, on a neutral ground); any other C is averaged.
    """
    import numpy as np

    image = np.clip(image, 0.0, 1.0)
    if image.shape[0] == 3:
        rgb = np.moveaxis(image, 0, -1)
    elif image.shape[0] == 2:
        rgb = _mixed(image[1], image[0], ON, OFF)
    else:
        rgb = np.repeat(image.mean(axis=0)[..., None], 3, axis=-1)
    return _bytes(rgb)


def change(difference: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """A signed difference [C, H, W] as RGB bytes: orange where a value rose, violet where it fell, full colour at ±`scale`.

    With several channels the largest change of a pixel is drawn.
    """
    import numpy as np

    place = np.abs(difference).argmax(axis=0)[None]
    largest = np.clip(np.take_along_axis(difference, place, axis=0)[0] / scale, -1.0, 1.0)
    return _bytes(_mixed(np.maximum(largest, 0.0), np.maximum(-largest, 0.0), ADDED, REMOVED))


def _mixed(first: Any, second: Any, one: tuple[int, ...], other: tuple[int, ...]) -> Any:
    import numpy as np

    total = np.maximum(first + second, 1.0)
    first, second = first / total, second / total
    ground = 1.0 - first - second
    return sum(
        weight[..., None] * np.array(colour) / 255 for weight, colour in ((first, one), (second, other), (ground, NEUTRAL))
    )


def _bytes(rgb: Any) -> NDArray[np.uint8]:
    import numpy as np

    drawn: NDArray[np.uint8] = np.round(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8)
    return drawn


def uri(rgb: NDArray[np.uint8]) -> str:
    """Pixels [H, W, 3] as a data URI of a PNG, for a page that carries its pictures."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
