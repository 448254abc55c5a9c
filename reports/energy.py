"""energy.html, and the same tables as lines: operations, energy by several conventions, latency, memory, and what attacks raise."""

from __future__ import annotations

from typing import Any

from trustsnn.reports.html import render
from trustsnn.reports.wording import percent

FORMAT = "trustsnn-energy/1"
POOLED = {
    "multiply": "an average of spikes is multiplied by its weight, as NeuroBench counts it",
    "add": "every spike before a pooling adds its share of a weight",
}
_MOST_LAYERS = 40


def page(record: dict[str, Any]) -> str:
    """The record of an energy run as one HTML page. Equal records give equal bytes."""
    return render("energy.html.j2", record=record, energies=shown(record), number=number, figure=figure)


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    synaptic, found = record["metrics"]["SynapticOperations"], []
    count = record["data"]["count"]
    found.append(
        f"synaptic operations: {figure(record['intervals']['Effective_MACs'])} MACs and {figure(record['intervals']['Effective_ACs'])} ACs "
        f"of {number(synaptic['Dense'])}, means of {count} samples"
    )
    for name in ("ActivationSparsity", "ConnectionSparsity", "ParameterCount", "Footprint", "MembraneUpdates"):
        value = record["metrics"][name]
        found.append(f"{name}: {'not known' if value is None else number(value)}")
    for table in shown(record):
        found.append(f"microjoules of an inference, {table['what']}:")
        found.append(
            f"  {'convention':<11}{'numbers':<8}{'spiking':>12}{'every product':>15}{table['bits']:>18}{'zeros left out':>16}"
        )
        for row in table["rows"]:
            values = (row["spiking"], row["dense"], row["quantised"], row["quantised_sparse"])
            cells = [
                ("-" if each is None else number(each)).rjust(width) for each, width in zip(values, (12, 15, 18, 16), strict=True)
            ]
            found.append(f"  {row['convention']:<11}{row['precision']:<8}{''.join(cells)}")
    for row in record["tables"]["operations"]:
        found.append(f"  {row['precision']}: {row['mac_pj']} pJ a MAC, {row['ac_pj']} pJ an AC")
    banks = ", ".join(f"{row['access_pj']:g} pJ up to {row['bytes'] >> 10} KiB" for row in record["tables"]["memory"])
    found.append(f"  an access to memory: {banks} ({record['tables']['source']})")
    for row in record["latency"][:_MOST_LAYERS]:
        found.append(
            f"latency of {row['layer']}: {number(row['operations'])} operations one after the other, {number(row['most'])} at most "
            f"({percent(row['share'])} of all)"
        )
    for row in record["memory"][:_MOST_LAYERS]:
        found.append(
            f"memory of {row['layer']}: {row['bytes']['fp32']:,} bytes of weights in fp32, {row['bytes']['int8']:,} in int8"
        )
    for attack in record["attacks"]:
        found.append(
            f"{attack['settings']['aim']} attack within {attack['settings']['norm']} {attack['settings']['eps']:g}: energy times "
            f"{figure(attack['energy'])}, spikes times {figure(attack['spikes'])}, busiest layer times {figure(attack['latency'])}; "
            f"{percent(attack['same_prediction'], count)} of the predictions as before"
        )
    if record["gate"] is not None:
        gate = record["gate"]
        held, value = "holds" if gate["holds"] else "FAILS", "not known" if gate["value"] is None else f"{gate['value']:.3f}"
        found.append(f"gate: energy ratio {value}, at most {gate['bound']:g}: {held}")
    return found


def shown(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of energy: one, or where layers get averages of spikes one for each way to count them."""
    ways = list(record["energies"]) if record["averages"] else ["multiply"]
    bits = f"{record['bits']}-bit network"
    return [{"what": POOLED[way] if record["averages"] else "", "bits": bits, "rows": record["energies"][way]} for way in ways]


def number(value: float) -> str:
    """A number with four digits, or whole with thousands apart."""
    if value == int(value) or abs(value) >= 10_000:
        return f"{round(value):,}"
    return f"{value:.4g}"


def figure(mean: dict[str, Any]) -> str:
    """A mean with its interval, `1.2 (1.1 to 1.3)`."""
    if mean["value"] is None:
        return "not known: 0 before"
    if mean["low"] is None:
        return f"{number(mean['value'])} (interval not known)"
    return f"{number(mean['value'])} ({number(mean['low'])} to {number(mean['high'])})"
