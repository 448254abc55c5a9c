"""A folder of images, one subfolder a class."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.problems import problem
from trustsnn.data.split import check_split, stratified
from trustsnn.errors import DataError

PIXELS = 1 << 24
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "RGB", "RGBA", "CMYK", "YCbCr"}


def load_folder(folder: Path, split: str) -> Dataset:
    """Images of FOLDER/CLASS/*.png (or jpg, bmp, webp, ppm, pgm), uint8 [1, H, W], or [3, H, W] when any is in colour.

    Where FOLDER/train or FOLDER/test exists, those are the splits. Otherwise a fixed fifth of each class, chosen by the
    images' content, is the test split. Classes are sorted by name.
    Raises DataError for a broken image, a size that differs, more than 2^24 pixels, or a folder without images.
    """
    check_split(split, str(folder))
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    roots = parts or [folder]
    classes = sorted({place.name for root in roots for place in root.iterdir() if _is_class(place)})
    source = folder / split if parts else folder
    files = [(path, label) for label, name in enumerate(classes) for path in _images(source / name)]
    if not files:
        expected = f"images in {source}{'/CLASS'} ({', '.join(SUFFIXES)})"
        raise problem(folder, expected, f"{len(classes)} class folders without any", "Give each class a folder of images.")
    opened = [_open(path) for path, _ in files]
    grey = all(image.mode in _GREY for image in opened)
    pixels = [np.asarray(image.convert("L" if grey else "RGB")) for image in opened]
    for (path, _), image in zip(files, pixels, strict=True):
        if image.shape != pixels[0].shape:
            expected = f"the size of {files[0][0].name}, {pixels[0].shape[:2]} (height, width)"
            raise problem(path, expected, image.shape[:2], "Bring all images to one size.")
    values: NDArray[np.uint8] = np.stack(pixels)
    values = values[:, None] if grey else np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    labels = np.array([label for _, label in files], dtype=np.int64)
    whole = build(values, labels, name=folder.resolve().name, split=split, classes=classes, scale=255)
    return whole if parts else stratified(whole, split, round(len(whole) / 5))


def _is_class(place: Path) -> bool:
    return place.is_dir() and not place.name.startswith(".")


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))


def _open(path: Path) -> Image.Image:
    """The decoded image. Its size is judged by the header, before its pixels are decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise problem(path, f"at most {PIXELS} pixels", f"{image.width} x {image.height}", "Make the image smaller.")
                image.load()
                decoded = image.copy()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise problem(path, f"at most {PIXELS} pixels", error, "Make the image smaller.") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise problem(path, "a whole, readable image", error, "Mend or remove the file.") from error
    if decoded.mode not in _GREY | _COLOUR:
        raise problem(path, "an image of 8 bits a channel", f"mode {decoded.mode}", "Convert it to 8-bit grey or RGB.")
    return decoded
