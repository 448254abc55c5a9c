"""leakage.html: what class representations show of each model, and how well an independent classifier recognises it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustsnn.reports import wording
from trustsnn.reports.pictures import pixels, uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "trustsnn-leakage/1"
ROUTES = {
    "ann": ("ReLU", "a ReLU network with its weights"),
    "snn": ("spikes", "its spikes, by a surrogate gradient over all steps"),
    "trains": ("spike trains (BrainLeaks v1)", "spike trains that take the place of its encoder's"),
    "rates": ("rates (BrainLeaks v2)", "the rates of spike trains that take the place of its encoder's"),
}
_TEMPLATES = Path(__file__).parent / "templates"


def page(record: dict[str, Any], images: Mapping[tuple[int, int], NDArray[Any]]) -> str:
    """The record of a leakage run as one HTML page that carries its pictures; `images[model, attack]` are those of that attack,
    [n, C, H, W] in [0, 1], in the order of its "classes". One of each class is shown, the first. Equal records give equal bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=wording.percent, interval=wording.interval, range_text=wording.range_text)
    models = [
        {
            **model,
            "attacks": [
                {
                    **attack,
                    "way": ROUTES[attack["settings"]["through"]],
                    "pictures": pictures(record, attack, images[place, way]),
                }
                for way, attack in enumerate(model["attacks"])
            ],
        }
        for place, model in enumerate(record["models"])
    ]
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("leakage.html.j2").render(record=record, models=models, style=style) + "\n"


def sentences(record: dict[str, Any]) -> list[str]:
    """What the strongest attack on each model shows."""
    found = []
    for model in record["models"]:
        best = strongest(model)
        top1, distance = best["top1"], best["distance"]
        found.append(
            f"{model['name']}: of {top1['count']} class images made through {ROUTES[best['settings']['through']][1]}, an independent classifier "
            f"takes {wording.percent(top1['value'], top1['count'])} for their class ({wording.interval(top1)}; by chance "
            f"{wording.percent(record['chance'][0])}, p {best['above_chance']:.2g}). Their distance to the class is {distance['value']:.2f} "
            f"({distance['low']:.2f} to {distance['high']:.2f}), 0 being that of real images of it and 1 that of other classes."
        )
    return found


def strongest(model: dict[str, Any]) -> dict[str, Any]:
    """The attack on a model whose images are recognised most often, of several the nearest to the class."""
    best: dict[str, Any] = max(model["attacks"], key=lambda each: (each["top1"]["value"], -each["distance"]["value"]))
    return best


def pictures(record: dict[str, Any], attack: dict[str, Any], images: NDArray[Any]) -> list[dict[str, Any]]:
    """The first image of each class as a data URI, with what the judge takes it for."""
    names, found = record["data"]["classes"], []
    for each in dict.fromkeys(attack["classes"]):
        row = attack["classes"].index(each)
        found.append(
            {
                "uri": uri(pixels(images[row])),
                "label": names[each],
                "seen": names[attack["predictions"][row]],
                "right": attack["predictions"][row] == each,
                "confidence": attack["confidences"][row],
            }
        )
    return found
