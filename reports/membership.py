"""membership.html, and its main figures as lines: who can tell the members of a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.reports.charts import INK, LINE, MUTED, REST, SERIES, svg
from trustsnn.reports.html import render
from trustsnn.reports.pictures import pixels, uri
from trustsnn.reports.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FORMAT = "trustsnn-membership/1"
ATTACKS = {
    "loss": "Loss threshold",
    "attack-p": "Attack-P",
    "attack-r": "Attack-R",
    "lira": "LiRA, online",
    "lira-offline": "LiRA, offline",
    "rmia": "RMIA, online",
    "rmia-offline": "RMIA, offline",
    "dropout": "Input dropout",
    "label-only": "Labels alone",
    "lira-steps": "LiRA on each step's logits",
    "lira-membrane": "LiRA on the readout membrane",
    "lira-spike-counts": "LiRA on spike counts",
    "lira-first-spike": "LiRA on first-spike times",
}
_FPR = 0.01
_MOST_LINES = 5


def page(record: dict[str, Any], images: NDArray[Any]) -> str:
    """The record of a membership run as one HTML page; `images` are its most exposed samples [n, C, H, W] in [0, 1], none for events. Equal
    records give equal bytes."""
    from markupsafe import Markup

    return render(
        "membership.html.j2", record=record, sentences=sentences(record), chart=Markup(roc(record)), pictures=exposed(record, images),
        attacks=ranked(record), name=title, rate=rate, strongest=ranked(record)[0],
    )  # fmt: skip


def exposed(record: dict[str, Any], images: NDArray[Any]) -> list[dict[str, Any]]:
    """The most exposed samples with their pictures as data URIs and the names of their classes."""
    return [
        {**sample, "uri": uri(pixels(image)), "class": record["data"]["classes"][sample["label"]]}
        for image, sample in zip(images, record["exposed"]["samples"], strict=False)
    ]


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    rows = [
        f"{title(row['name'])}: AUC {row['auc']['value']:.3f} ({row['auc']['low']:.3f} to {row['auc']['high']:.3f}), members found at 1 % "
        f"false alarms {rate(row['tpr'][-1])}, at 0.1 % {rate(row['tpr'][0])}"
        for row in ranked(record)
    ]
    return [*sentences(record), *rows]


def title(name: str) -> str:
    """An attack's name as it is read."""
    return ATTACKS.get(name, name)


def ranked(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The attacks, the strongest at 1 % false alarms first."""
    return sorted(record["attacks"], key=lambda row: (-row["tpr"][-1]["value"], -row["auc"]["value"], row["name"]))


def rate(figure: dict[str, Any]) -> str:
    """A true positive rate with its interval; one that so few samples cannot show is named inconclusive."""
    text = f"{percent(figure['value'], figure['count'])} ({percent(figure['low'])} to {percent(figure['high'])})"
    return text if figure["status"] == "ok" else "inconclusive"


def sentences(record: dict[str, Any]) -> list[str]:
    """What came of it, in words."""
    best = ranked(record)[0]
    figure, area = best["tpr"][-1], best["auc"]
    train, test = record["gap"]["train"], record["gap"]["test"]
    found = []
    if figure["status"] != "ok":
        found.append(
            f"Inconclusive: {figure['others']} non-members cannot show a false positive rate of {percent(_FPR)}. Use more samples."
        )
    else:
        some = "more than chance, even at the low end of its interval" if figure["low"] > _FPR else "no more than chance can do"
        found.append(
            f"The strongest of {len(record['attacks'])} attacks, {title(best['name'])}, finds {percent(figure['value'], figure['count'])} of the "
            f"{figure['count']:,} members ({percent(figure['low'])} to {percent(figure['high'])}) at {percent(_FPR)} false alarms, "
            f"{figure['value'] / _FPR:.1f} times what guessing finds: {some}. Its AUC is {area['value']:.3f} ({area['low']:.3f} to "
            f"{area['high']:.3f})."
        )
    found.append(
        f"The model is right on {percent(train['value'])} of the members and {percent(test['value'])} of the others, a gap of "
        f"{100 * (train['value'] - test['value']):.1f} points. Leakage grows with that gap: compare models at equal training accuracy alone."
    )
    if record["eps"] is not None:
        eps = record["eps"]
        found.append(
            f"{eps['correct']} of {eps['guesses']} guesses by {title(eps['attack'])} are right: any (ε, 10⁻⁵) guarantee of this training has an ε "
            f"of at least {eps['lower']:.2f} (95 % confidence)."
        )
    if record["chips"] is not None:
        chips = record["chips"]
        rows = [
            f"{title(row['name'])} AUC {row['median']:.3f} (median; {row['least']:.3f} to {row['worst']:.3f} over the chips)"
            for row in chips["attacks"]
        ]
        found.append(f"On {chips['count']} chips of {chips['twin']}: {'; '.join(rows)}.")
    if record["gate"] is not None:
        gate = record["gate"]
        verdict = {0: "holds", 1: "FAILS", 3: "cannot be decided on so few samples"}[gate["exit_code"]]
        found.append(
            f"Gate: at most {percent(gate['bound'])} of the members at 1 % false alarms, found {percent(gate['value'])}: {verdict}."
        )
    return found


def roc(record: dict[str, Any]) -> str:
    """The ROC curves of the strongest attacks as SVG."""

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        colours = [*SERIES, REST, INK]
        left = 1 / max(1, record["data"]["count"] - record["members"])
        for place, row in enumerate(ranked(record)[:_MOST_LINES]):
            points = [point for point in row["roc"] if point["fpr"] >= left]  # below it nothing can be seen
            at = [point["fpr"] for point in points]
            low, value, high = ([max(point[key], left / 10) for point in points] for key in ("low", "value", "high"))
            panel.fill_between(at, low, high, color=colours[place % len(colours)], alpha=0.12, linewidth=0)
            panel.plot(at, value, color=colours[place % len(colours)], linewidth=2, label=title(row["name"]))
        panel.plot([left, 1], [left, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="guessing")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(left, 1)
        panel.set_ylim(left, 1.05)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(lambda value, position: f"{100 * value:g}")
        panel.set_xlabel("others that are taken for members, %", color=MUTED)
        panel.set_title("members that are found, %", loc="left", color=MUTED, fontsize=12, pad=8)
        panel.grid(color=LINE, linewidth=1)
        panel.tick_params(length=0, labelcolor=MUTED, pad=6, which="both")
        panel.legend(frameon=False, fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor=INK)

    return svg(draw, (1, 1), (820, 400), "roc")
