"""`trustsnn leakage report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders that `trustsnn leakage` or `trustsnn backdoor scan` wrote, of any kind and in any number."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for leakage-report.json and leakage-report.html.")],
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            help="A bound on one of membership (members found at 1 % false alarms), class (class images that are recognised), gradients (PSNR "
            "without a defence, dB), extract (agreement of the copy), attribute (features given away), property (models told right) and "
            "backdoor (0 or 1), such as 'membership <= 0.05' or 'upper(class) <= 0.3'; repeat it. By default the runs' own gates.",
        ),
    ] = None,
) -> None:
    """Join leakage runs into one page with one verdict. Exits with 1 where a gate does not hold, with 3 where a gate or a run cannot say."""
    from trustsnn.files import write_text
    from trustsnn.reports import leakage_report

    found = leakage_report.read(runs)
    record = leakage_report.report(found, gate or None)
    write_text(out / "leakage-report.html", leakage_report.page(found, record, out))
    write_text(out / "leakage-report.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    for run in record["runs"]:
        typer.echo(f"{run['kind']} ({run['folder']}): {run['outcome']}")
    typer.echo(f"{record['verdict']}: {' '.join(record['sentences'])}")
    typer.echo(str(out / "leakage-report.html"))
    raise typer.Exit(record["exit_code"])
