"""federated.html, and its main figures as lines: what came of a federation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.reports.charts import INK, LINE, MUTED, SERIES, svg
from trustsnn.reports.html import render
from trustsnn.reports.partition import partition
from trustsnn.reports.wording import count_text, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = "trustsnn-federated/1"
_WIDE = 820


def page(record: dict[str, Any]) -> str:
    """The record of a federation as one HTML page. Equal records give equal bytes."""
    return render("federated.html.j2", record=record, sentences=sentences(record), **sections(record))


def sections(record: dict[str, Any]) -> dict[str, Any]:
    """What the template federation.html.j2 shows of a record: figures and tables of rounds, samples, clients and trouble."""
    from markupsafe import Markup

    dealt = partition(record["partition"]["counts"], record["data"]["classes"], _WIDE, "partition")
    return {
        "accuracy": Markup(_curve(record)), "partition": Markup(dealt), "clients": _clients(record), "trouble": _trouble(record),
    }  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    return sentences(record)


def sentences(record: dict[str, Any]) -> list[str]:
    """What came of it, in words."""
    last, config = record["rounds"][-1], record["config"]
    found = []
    if "test" in last:
        test = last["test"]
        found.append(
            f"After {count_text(len(record['rounds']), 'round')} with {count_text(config['clients'], 'client')} the global model is right on "
            f"{percent(test['value'], test['count'])} of {test['count']:,} test samples ({percent(test['low'])} to {percent(test['high'])})."
        )
    else:
        found.append(
            "Statistics of batch norms stay with each client, so that there is no global model to measure on the test split."
        )
    own = [right / count for right, count in last["own"].values() if count]
    if own:
        found.append(
            f"On what the clients hold out, each on its own, it is right on {percent(min(own))} to {percent(max(own))}, "
            f"{percent(sum(own) / len(own))} in the mean over clients."
        )
    trouble = {name: sum(len(row[name]) for row in record["rounds"]) for name in ("failed", "refused", "capped")}
    if any(trouble.values()):
        found.append(
            f"Of the updates asked for, {trouble['failed']} never came, {trouble['refused']} were refused and {trouble['capped']} had their weight "
            "cut back; the rounds went on without them."
        )
    found += _costs(record) + _privacy(record)
    if skipped := [row["round"] for row in record["rounds"] if not row["combined"]]:
        noise = config["privacy"] is not None and config["privacy"]["unit"] == "client" and config["secure"] is None
        what = (
            "no update was there, so that the model moved by the noise alone"
            if noise
            else "too few updates were left to combine, so that the model stayed as it was"
        )
        found.append(
            f"In {len(skipped)} of the rounds {what}: {', '.join(map(str, skipped[:10]))}{', ...' * (len(skipped) > 10)}."
        )
    if record["gate"] is not None:
        verdict = {0: "holds", 1: "FAILS", 3: "cannot be decided without a global model"}[record["gate"]["exit_code"]]
        found.append(f"Gate: test accuracy of at least {percent(record['gate']['bound'])}: {verdict}.")
    return found


def _costs(record: dict[str, Any]) -> list[str]:
    down, up, compute, radio = (
        sum(told.get(name, 0) for row in record["rounds"] for told in row["clients"].values())
        for name in ("bytes_down", "bytes_up", "joules", "radio_joules")
    )
    return [
        f"In all the clients got {down / 1e6:,.1f} MB and sent {up / 1e6:,.1f} MB of tensors and records, and spent an estimated {compute:,.3g} J on "
        f"training and {radio:,.3g} J on the radio. What that rests on is below."
    ]


def _privacy(record: dict[str, Any]) -> list[str]:
    given = record["config"]["privacy"]
    spent = next((row["privacy"]["eps"] for row in reversed(record["rounds"]) if "privacy" in row), None)
    if given is None or spent is None:
        return []
    eps = spent if isinstance(spent, float) else max(spent.values(), default=0.0)
    whom = "every client" if given["unit"] == "client" else "every sample of one client"
    seeded = "; the noise is seeded, which is no guarantee against whoever knows the seed" if given["seeded"] else ""
    return [
        f"By the ledger the models of all rounds are ({eps:.3g}, {given['delta']:g}) differentially private for {whom}{seeded}."
    ]


def _clients(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each client: samples, rounds in which its update was used, its accuracy on its own at the end, its last loss."""
    found = []
    for client, counts in enumerate(record["partition"]["counts"]):
        name = str(client)
        told = [row["clients"].get(name, {}) for row in record["rounds"]]
        losses = [each["loss"] for each in told if "loss" in each]
        right, count = record["rounds"][-1]["own"].get(name, [0, 0])
        device = record["devices"][client] if record["devices"] else None
        found.append({
            "client": client, "samples": sum(counts), "classes": sum(each > 0 for each in counts),
            "used": sum(_used(row, name) for row in record["rounds"]),
            "up": sum(each.get("bytes_up", 0) for each in told) / 1e6,
            "joules": sum(each.get("joules", 0) + each.get("radio_joules", 0) for each in told),
            "device": _device(device, record["model"]["spec"]["steps"]),
            "own": right / count if count else None, "loss": losses[-1] if losses else None,
        })  # fmt: skip
    return found


def _used(row: dict[str, Any], name: str) -> bool:
    """Whether a client's update went into the model in a round."""
    return bool(row["combined"]) and name in row["clients"] and name not in row["refused"] and name not in row["failed"]


def _device(device: dict[str, Any] | None, steps: int) -> str:
    if device is None:
        return ""
    noise = f", noise {device['noise']:g}" if device["noise"] else ""
    return f"T {device['steps'] or steps}{', ' + device['twin'] if device['twin'] else ''}{noise}"


def _trouble(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every update that was not used as it came, a row for each client and reason with the rounds."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in record["rounds"]:
        for kind in ("failed", "refused", "capped"):
            for client, reason in row[kind].items():
                found.setdefault((client, kind, _without_figures(reason) if kind != "failed" else reason), []).append(
                    row["round"]
                )
    return [
        {"client": client, "kind": kind, "reason": reason, "rounds": rounds}
        for (client, kind, reason), rounds in sorted(found.items(), key=lambda each: (int(each[0][0]), each[0][1:]))
    ]


def _without_figures(reason: str) -> str:
    """The reason up to the figures that differ from round to round."""
    return reason.partition(" of ")[0] if reason.startswith("its norm") else reason


def _curve(record: dict[str, Any]) -> str:
    """Test accuracy by round, and the clients' own: their median, quartiles, least and most."""
    rounds = [row["round"] for row in record["rounds"]]
    own = [sorted(right / count for right, count in row["own"].values() if count) for row in record["rounds"]]

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        at = [(x, each) for x, each in zip(rounds, own, strict=True) if each]
        if at:
            xs = [x for x, _ in at]
            panel.fill_between(
                xs, [100 * e[0] for _, e in at], [100 * e[-1] for _, e in at], color=SERIES[1], alpha=0.14, linewidth=0
            )
            panel.plot(
                xs,
                [100 * e[len(e) // 2] for _, e in at],
                color=SERIES[1],
                linewidth=2,
                label="clients on their own: median, range",
            )
        if "test" in record["rounds"][-1]:
            panel.plot(
                rounds,
                [100 * row["test"]["value"] for row in record["rounds"]],
                color=SERIES[0],
                linewidth=2.2,
                label="test split",
            )
        panel.set_ylim(0, 104)
        panel.set_yticks([0, 25, 50, 75, 100])
        panel.set_xlabel("round", color=MUTED)
        panel.set_title("correct, %", loc="left", color=MUTED, fontsize=12, pad=8)
        panel.grid(axis="y", color=LINE)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="best", frameon=False, labelcolor=INK)

    return svg(draw, (1, 1), (_WIDE, 340), "federated")
