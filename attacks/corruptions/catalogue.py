"""The natural corruptions by name and by family. Light: it imports no torch."""

from __future__ import annotations

from trustsnn.errors import ConfigError
from trustsnn.plugins import Catalogue, Entry

SEVERITIES = (1, 2, 3, 4, 5)

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian-noise", "shot-noise", "impulse-noise"),
    "blur": ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
    "extra": ("speckle-noise", "gaussian-blur", "spatter", "saturate"),
    "events": ("event-drop", "event-jitter", "hot-pixels", "background-activity", "polarity-flip"),
}

BENCHMARK = tuple(name for family in ("noise", "blur", "weather", "digital") for name in FAMILIES[family])

_HERE = "trustsnn.attacks.corruptions"
_EVENTS = "trustsnn.attacks.event_corruptions"

CORRUPTIONS = Catalogue(
    "corruption",
    "trustsnn.corruptions",
    {
        "gaussian-noise": Entry(f"{_HERE}.noise:gaussian_noise", "additive normal noise"),
        "shot-noise": Entry(f"{_HERE}.noise:shot_noise", "Poisson noise of few photons"),
        "impulse-noise": Entry(f"{_HERE}.noise:impulse_noise", "salt and pepper"),
        "defocus-blur": Entry(f"{_HERE}.blur:defocus_blur", "a lens out of focus"),
        "glass-blur": Entry(f"{_HERE}.blur:glass_blur", "pixels shuffled locally, as through frosted glass"),
        "motion-blur": Entry(f"{_HERE}.blur:motion_blur", "the camera moves along a line"),
        "zoom-blur": Entry(f"{_HERE}.blur:zoom_blur", "the camera moves towards the scene"),
        "snow": Entry(f"{_HERE}.weather:snow", "falling flakes and a whiter scene"),
        "frost": Entry(f"{_HERE}.weather:frost", "a procedural ice texture over the image"),
        "fog": Entry(f"{_HERE}.weather:fog", "plasma-fractal haze"),
        "brightness": Entry(f"{_HERE}.weather:brightness", "a raised HSV value"),
        "contrast": Entry(f"{_HERE}.digital:contrast", "values pulled towards the channel's mean"),
        "elastic": Entry(f"{_HERE}.digital:elastic", "a random affine map and a smooth displacement"),
        "pixelate": Entry(f"{_HERE}.digital:pixelate", "fewer, larger pixels"),
        "jpeg": Entry(f"{_HERE}.digital:jpeg", "JPEG's quantisation of 8x8 cosine blocks"),
        "speckle-noise": Entry(f"{_HERE}.noise:speckle_noise", "multiplicative normal noise"),
        "gaussian-blur": Entry(f"{_HERE}.blur:gaussian_blur", "a normal kernel"),
        "spatter": Entry(f"{_HERE}.weather:spatter", "drops of water or mud on the lens"),
        "saturate": Entry(f"{_HERE}.weather:saturate", "less or more colour; for colour images"),
        "event-drop": Entry(f"{_EVENTS}:event_drop", "events are lost"),
        "event-jitter": Entry(f"{_EVENTS}:event_jitter", "events move in time"),
        "hot-pixels": Entry(f"{_EVENTS}:hot_pixels", "pixels that fire at every step"),
        "background-activity": Entry(f"{_EVENTS}:background_activity", "events that nothing caused"),
        "polarity-flip": Entry(f"{_EVENTS}:polarity_flip", "events of the wrong sign"),
    },
)


def defaults(domain: str) -> tuple[str, ...]:
    """The corruptions of a model's domain: the fifteen of the benchmark for images, the event ones for events."""
    if domain not in ("image", "events-binary", "events-count"):
        raise ConfigError(f"Expected a domain of image, events-binary or events-count, got {domain!r}.")
    return BENCHMARK if domain == "image" else FAMILIES["events"]
