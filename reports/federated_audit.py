"""audit.html of a federation, and its main figures as lines: what it tells about its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.reports import federated
from trustsnn.reports.charts import INK, LINE, MUTED, SERIES, svg
from trustsnn.reports.html import render
from trustsnn.reports.membership import rate
from trustsnn.reports.pictures import pixels, uri
from trustsnn.reports.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FORMAT = "trustsnn-federated-audit/1"
_WIDE = 820
_RECOVERED = 20.0  # dB


def page(record: dict[str, Any], pictures: dict[str, NDArray[Any]], federation: dict[str, Any]) -> str:
    """The record of an audit and that of its federation as one HTML page; `pictures` are images [B, C, H, W] in [0, 1] by row. Equal records
    give equal bytes."""
    from markupsafe import Markup

    rows = [(name, [uri(pixels(image)) for image in images]) for name, images in pictures.items()]
    return render(
        "federated_audit.html.j2", record=record, sentences=sentences(record), curve=Markup(_curve(record)), rows=rows, rate=rate,
        exposed=sorted((each for each in record["clients"] if each["auc"]), key=lambda each: -each["auc"]["value"]),
        federation=federation, trained=federated.sentences(federation), **federated.sections(federation),
    )  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    return [*sentences(record), *record["posture"]]


def sentences(record: dict[str, Any]) -> list[str]:
    """What came of it, in words."""
    last, config = record["rounds"][-1], record["config"]
    found = [
        f"After round {last['round']} the loss attack tells {record['members']:,} training samples of all clients from as many test samples with "
        f"an AUC of {_range(last['auc'], 3)}; at 1 % false alarms it finds {rate(last['tpr'])} of them. It has no shadow models: a stronger "
        "attack finds more."
    ]
    exposed = [each for each in record["clients"] if each["auc"]]
    if exposed:
        worst = max(exposed, key=lambda each: each["auc"]["value"])
        found.append(
            f"Client {worst['client']} is the most exposed, with an AUC of {_range(worst['auc'], 3)} on its samples against test samples of its "
            "classes."
        )
    for cell in record["inversion"]["cells"]:
        reached = "recovers them" if cell["psnr"]["value"] >= _RECOVERED else "does not recover them"
        random = (
            ""
            if cell["randomness"] is None
            else f" The masked vectors look random (least p of a chi-square test {cell['randomness']:.2g})."
        )
        found.append(
            f"From one-sample updates, {cell['view']}, gradient inversion ({record['inversion']['attack']}) reaches {cell['psnr']['value']:.1f} dB "
            f"(median of {cell['psnr']['count']} images): it {reached}.{random}"
        )
    if record["observed"]:
        best = max(record["observed"], key=lambda each: each["psnr"] - each["mean_image"])
        found.append(
            f"From {len(record['observed'])} whole updates as they were sent, it reaches {best['psnr']:.1f} dB at best (client {best['client']}, "
            f"{best['samples']} samples), where the mean image of the test split, which needs no update, reaches {best['mean_image']:.1f} dB."
        )
    if record["backdoor"]:
        end = record["backdoor"][-1]
        found.append(
            f"Bad clients plant a backdoor: after round {end['round']} {percent(end['value'], end['count'])} of the test samples of other classes "
            "are taken for its target once the trigger is on them."
        )
    if config["privacy"] is None and config["secure"] is None:
        found.append("Neither differential privacy nor secure aggregation is on.")
    if record["gate"] is not None:
        verdict = {0: "holds", 1: "FAILS", 3: "cannot be decided on so few samples"}[record["gate"]["exit_code"]]
        found.append(f"Gate: at most {percent(record['gate']['bound'])} of the members at 1 % false alarms: {verdict}.")
    return found


def _range(figure: dict[str, Any], digits: int) -> str:
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def _curve(record: dict[str, Any]) -> str:
    """The area under the curve of the loss attack by round, and the success of a backdoor where there is one."""
    rounds = record["rounds"]

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        at = [row["round"] for row in rounds]
        panel.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="guessing")
        panel.fill_between(
            at, [r["auc"]["low"] for r in rounds], [r["auc"]["high"] for r in rounds], color=SERIES[0], alpha=0.16, linewidth=0
        )
        panel.plot(
            at,
            [row["auc"]["value"] for row in rounds],
            "o-",
            color=SERIES[0],
            linewidth=2.2,
            markersize=5,
            label="membership: AUC",
        )
        if record["backdoor"]:
            planted = record["backdoor"]
            panel.plot(
                [r["round"] for r in planted],
                [r["value"] for r in planted],
                color=SERIES[1],
                linewidth=2,
                label="backdoor: success",
            )
        panel.set_ylim(0, 1.04)
        panel.set_xlabel("round", color=MUTED)
        panel.grid(axis="y", color=LINE)
        panel.legend(loc="best", frameon=False, labelcolor=INK)

    return svg(draw, (1, 1), (_WIDE, 320), "audit")
