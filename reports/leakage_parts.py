"""What the joined leakage report shows of a run besides sentences: charts, tables and pictures, from its record and the arrays beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trustsnn.errors import RunError
from trustsnn.reports import backdoor, extraction, gradients, leakage, membership
from trustsnn.reports.wording import percent, range_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

Json = dict[str, Any]


class Table(NamedTuple):
    """A table of texts."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Shown(NamedTuple):
    """A picture as a data URI, with the line below it."""

    uri: str
    line: str


class Part(NamedTuple):
    """What is shown of a run, in this order; `charts` are SVG, `pictures` are rows with a name."""

    charts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, Sequence[Shown]]] = ()


def _membership(record: Json, folder: Path) -> Part:
    attacks = [
        [membership.title(row["name"]), _area(row["auc"]), *(membership.rate(each) for each in row["tpr"])]
        for row in membership.ranked(record)
    ]
    best = membership.ranked(record)[0]
    classes = [
        [str(each["class"]), str(each["count"]), _area(each["auc"]) if each["auc"] else "inconclusive: too few"]
        for each in best["classes"]
    ]
    images = _arrays(folder / "exposed.npz").get("images")
    exposed = [] if images is None else membership.exposed(record, images)
    shown = [Shown(each["uri"], f"{each['class']}, {percent(each['others_above'], 1000)}") for each in exposed]
    caption = (
        f"{membership.title(record['exposed']['attack'])} is surest of these members; the share of others that it ranks as high"
    )
    return Part(
        (membership.roc(record),),
        (
            Table("Every attack", ("Attack", "AUC", "Found at 0.1 %", "Found at 1 %"), attacks),
            Table(f"{membership.title(best['name'])} by class", ("Class", "Samples", "AUC"), classes),
        ),
        ((caption, shown),),
    )


def _class(record: Json, folder: Path) -> Part:
    arrays = _arrays(folder / "images.npz")
    rows, pictures = [], []
    for place, model in enumerate(record["models"]):
        for attack in model["attacks"]:
            distance = attack["distance"]
            rows.append([
                model["name"], leakage.ROUTES[attack["settings"]["through"]][0],
                *(f"{100 * attack[key]['value']:.1f} ({range_text(attack[key])})" for key in ("top1", "top3")),
                f"{distance['value']:.2f} ({distance['low']:.2f} to {distance['high']:.2f})", f"{attack['above_chance']:.2g}",
            ])  # fmt: skip
        best = leakage.strongest(model)
        name = f"{place}-{model['attacks'].index(best)}"
        if name in arrays:
            made = leakage.pictures(record, best, arrays[name])
            line = f"{model['name']}, through {leakage.ROUTES[best['settings']['through']][0]}: class and what the judge takes it for"
            pictures.append((line, [Shown(each["uri"], f"{each['label']} → {each['seen']}") for each in made]))
    columns = ("Model", "Through", "Top 1, %", "Top 3, %", "Distance", "p")
    return Part((), (Table("Class images of each model and attack", columns, rows),), pictures)


def _gradients(record: Json, folder: Path) -> Part:
    arrays = _arrays(folder / "images.npz")
    pictures = [("Originals", arrays["original"])] if "original" in arrays else []
    bare = [(place, cell) for place, cell in enumerate(record["cells"]) if cell["defence"] in (None, "none")]
    pictures += [(gradients.NAMES[cell["attack"]], arrays[str(place)]) for place, cell in bare if str(place) in arrays]
    rows = []
    for cell in record["cells"] if record["data"] is not None else []:
        labels = f"{100 * cell['labels']['value']:.1f} ({range_text(cell['labels'])})"
        spread = cell["psnr"]
        reached = f"{spread['value']:.1f} ({spread['low']:.1f} to {spread['high']:.1f})"
        rows.append(
            [gradients.NAMES[cell["attack"]], cell["defence"], reached, f"{cell['ssim']['value']:.2f}", labels, cell["outcome"]]
        )
    columns = ("Attack", "Defence", "PSNR, dB", "SSIM", "Labels, %", "Outcome")
    return Part(
        (),
        (Table("Each attack against each defence", columns, rows),) if rows else (),
        [(name, [Shown(each, "") for each in gradients.pictures(images)]) for name, images in pictures],
    )


def _extract(record: Json, folder: Path) -> Part:
    return Part((extraction.chart(record),))


def _nothing(record: Json, folder: Path) -> Part:
    return Part()


def _backdoor(record: Json, folder: Path) -> Part:
    named = [each for each in backdoor.pictures(record, _arrays(folder / "triggers.npz")) if each["hit"]]
    rows = [
        (f"Mask and trigger of class {each['name']}", [Shown(each["mask"], ""), Shown(each["trigger"], "")]) for each in named
    ]
    return Part((), (), rows)


PARTS: dict[str, Callable[[Json, Path], Part]] = {
    "membership": _membership, "class": _class, "gradients": _gradients, "extract": _extract, "attribute": _nothing,
    "property": _nothing, "backdoor": _backdoor,
}  # fmt: skip


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of pictures [n, C, H, W] in a file, none where there is no file."""
    import numpy as np

    if not path.exists():
        return {}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"Expected arrays of pictures in {path}, got {error}. Run the command again that wrote it.") from error


def _area(figure: Json) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
