"""gradients.html: what reconstructions from updates show of the originals, and which defence stops which attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trustsnn.reports.html import render
from trustsnn.reports.pictures import pixels, uri
from trustsnn.reports.wording import joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "trustsnn-gradients/1"
NAMES = {"analytic": "analytic", "dlg": "DLG", "idlg": "iDLG", "inverting": "Inverting Gradients"}
_SHOWN = 8


def page(record: dict[str, Any], images: Mapping[str, NDArray[Any]]) -> str:
    """The record of a gradient inversion as one HTML page that carries its pictures: `images[place]` are those of the cell at that
    place, [n, C, H, W] in [0, 1], and `images["original"]` the originals, where they are known. Equal records give equal bytes."""
    order = list(dict.fromkeys(cell["attack"] for cell in record["cells"]))
    places = sorted(range(len(record["cells"])), key=lambda place: order.index(record["cells"][place]["attack"]))
    cells = [record["cells"][place] for place in places]
    rows = [("original", "", pictures(images["original"]))] if "original" in images else []
    for place, cell in zip(places, cells, strict=True):
        rows.append((NAMES[cell["attack"]], cell["defence"] or "", pictures(images[str(place)])))
    return render("gradients.html.j2", record=record, cells=cells, rows=rows, sentences=sentences(record), names=NAMES)


def sentences(record: dict[str, Any]) -> list[str]:
    """What each attack recovers, and which defence stops it."""
    found, bound = [], f"{record['threshold']:g} dB"
    for name in dict.fromkeys(cell["attack"] for cell in record["cells"]):
        cells = [cell for cell in record["cells"] if cell["attack"] == name]
        title = NAMES[name].capitalize() if name == "analytic" else NAMES[name]
        if record["data"] is None:
            found.append(f"{title}: labels {joined([str(each) for each in cells[0]['labels']])}; the originals are not known.")
            continue
        bare, defended = cells[0], cells[1:]
        start = f"{title}: without a defence the images come back at {psnr_text(bare['psnr'])}"
        if bare["outcome"] != "recovers":
            what = "which is below" if bare["outcome"] == "fails" else "which these samples cannot tell from"
            found.append(f"{start}, {what} {bound}. So no defence can be said to stop this attack here.")
            continue
        parts = [
            _named("stopped by", defended, "stopped"),
            _named("not stopped by", defended, "recovers"),
            _named("undecided, the interval holding the bound:", defended, "undecided"),
        ]
        told = "; ".join(part for part in parts if part)
        found.append(f"{start}." + (f" At {bound} it is {told}." if told else ""))
    return found


def psnr_text(figure: dict[str, Any]) -> str:
    """A median PSNR with its interval and count, `63.9 dB (61.2 to 65.8, median of 8)`."""
    return f"{figure['value']:.1f} dB ({figure['low']:.1f} to {figure['high']:.1f}, median of {figure['count']})"


def _named(words: str, cells: list[dict[str, Any]], outcome: str) -> str:
    lines = [cell["defence"] for cell in cells if cell["outcome"] == outcome]
    return f"{words} {joined(lines)}" if lines else ""


def pictures(images: NDArray[Any]) -> list[str]:
    """The first images [n, C, H, W] as data URIs."""
    return [uri(pixels(image)) for image in images[:_SHOWN]]
