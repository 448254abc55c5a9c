"""attributes.html and properties.html, and their figures as lines."""

from __future__ import annotations

from typing import Any

from trustsnn.reports.html import render
from trustsnn.reports.wording import percent

FORMATS = {"attributes": "trustsnn-attributes/1", "properties": "trustsnn-properties/1"}


def page(record: dict[str, Any]) -> str:
    """The record of an attribute or property run as one HTML page. Equal records give equal bytes."""
    about = record["model"]["name"] if "model" in record else record["recipe"]["architecture"]["name"]
    kind = next(name for name, form in FORMATS.items() if form == record["format"])
    columns, rows = (_attributes if kind == "attributes" else _properties)(record)
    return render(
        "inference.html.j2", record=record, title=f"{kind.capitalize()} of the training data of {about}", sentences=lines(record),
        columns=columns, rows=rows,
    )  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """What came of it."""
    if record["format"] == FORMATS["properties"]:
        right, shares = record["right"], record["property"]["shares"]
        above = right["low"] > 0.5
        return [
            f"Of {right['count']} models that were put aside, {right['successes']} are told right ({figure(right)}): whether {percent(shares[1])} "
            f"or {percent(shares[0])} of the training data is of the class {record['property']['class']}. Guessing gets half. "
            + ("The property leaks." if above else "That is no more than chance can do."),
            f"The attacker trained {record['known']} shadow models on other samples; AUC {record['auc']['value']:.3f} "
            f"({record['auc']['low']:.3f} to {record['auc']['high']:.3f}).",
        ]
    rows = record["features"]
    told = []
    for side, name in (("members", "members"), ("others", "others, which nothing was trained on")):
        pooled = {attack: _pooled([row[side][attack] for row in rows]) for attack in record["attacks"]}
        gained, lost = (sum(row[side]["gain"][key] for row in rows) for key in ("gained", "lost"))
        told.append(
            f"On {name}: without the model {percent(pooled['imputation'])} of the secrets are guessed right, with it "
            f"{percent(pooled['both'])} ({gained} gained, {lost} lost), by its confidence alone {percent(pooled['confidence'])}, by the "
            f"commoner value {percent(pooled['prior'])}."
        )
    found = leaking(record)
    told.append(
        f"The model adds to what other records tell for the features {', '.join(map(str, found))} (exact McNemar test, Bonferroni's correction)."
        if found
        else f"For none of {len(rows)} features does the model add more to what other records tell than chance can (exact McNemar test, "
        "Bonferroni's correction)."
    )
    return told


def leaking(record: dict[str, Any]) -> list[int]:
    """The features of an attribute run for which the model adds more to what other records tell of members than chance can (exact McNemar
    test, Bonferroni's correction)."""
    rows = record["features"]
    return [row["feature"] for row in rows if row["members"]["gain"]["p"] * len(rows) < 0.05 and _gains(row)]


def figure(found: dict[str, Any]) -> str:
    """A proportion with its interval."""
    return f"{percent(found['value'], found['count'])}, {percent(found['low'])} to {percent(found['high'])}"


def _gains(row: dict[str, Any]) -> bool:
    return bool(row["members"]["gain"]["gained"] > row["members"]["gain"]["lost"])


def _pooled(figures: list[dict[str, Any]]) -> float:
    return float(sum(each["successes"] for each in figures) / sum(each["count"] for each in figures))


def _attributes(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = ["Feature", "Whose", *record["attacks"], "gained, lost (p)"]
    rows = []
    for row in record["features"]:
        for side in ("members", "others"):
            gain = row[side]["gain"]
            cells = [figure(row[side][attack]) for attack in record["attacks"]]
            rows.append([str(row["feature"]), side, *cells, f"{gain['gained']}, {gain['lost']} ({gain['p']:.2g})"])
    return columns, rows


def _properties(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            str(number),
            "yes" if each["has"] else "no",
            f"{each['score']:.2f}",
            "yes" if (each["score"] > 0) == each["has"] else "no",
        ]
        for number, each in enumerate(record["scores"])
    ]
    return ["Model", "Has the property", "Log-odds", "Told right"], rows
