"""Reading run folders: what is refused, and what a crash leaves behind."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from trustsnn.errors import RunError
from trustsnn.reports import load_samples, summarise, write
from trustsnn.reports.record import read


def two_cells(builder, **more):
    run = builder(gates=[], count=4, **more)
    keys = run.cell(), run.cell("fgsm", "linf", 0.1)
    run.done(keys[0], [1, 1, 1, 0])
    run.done(keys[1], [1, 0, 1, 0])
    return run, keys


def test_a_torn_last_line_is_the_cell_in_flight(builder):
    run, keys = two_cells(builder)
    folder = run.write()
    whole = (folder / "cells.jsonl").read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole) - 1, 37):
        (folder / "cells.jsonl").write_bytes(whole[:cut])
        assert read(folder).missing == [keys[1]]
    summary = summarise(folder)
    assert (summary["verdict"], summary["exit_code"]) == ("inconclusive", 3)
    assert "1 of 2 evaluations has not finished" in summary["sentence"]


def test_a_line_torn_within_a_character_is_left_out(builder):
    run, _ = two_cells(builder)
    folder = run.write()
    with open(folder / "cells.jsonl", "ab") as stream:
        stream.write('{"key": "∞'.encode()[:-1])
    assert read(folder).missing == []


def test_a_damaged_line_in_the_middle_is_refused(builder):
    run, _ = two_cells(builder)
    folder = run.write()
    text = (folder / "cells.jsonl").read_text()
    (folder / "cells.jsonl").write_text(text[40:])
    with pytest.raises(RunError, match=r"line 1 of .*cells.jsonl"):
        read(folder)


def test_of_two_lines_for_a_cell_the_later_counts_once(builder):
    run, keys = two_cells(builder)
    run.lines.insert(1, {**run.lines[1], "status": "inconclusive"})
    record = read(run.write())
    assert list(record.lines) == list(keys)
    assert record.lines[keys[1]]["status"] == "ok"


def test_lines_come_in_the_order_of_the_plan(builder):
    run, keys = two_cells(builder)
    run.lines.reverse()
    folder = run.write()
    assert [line["key"] for line in summarise(folder)["cells"]] == list(keys)
    assert list(dict.fromkeys(load_samples(folder)["cell"])) == list(keys)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"Expected a run folder with a run\.json"):
        summarise(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "other/1"}')
    with pytest.raises(RunError, match=r"trustsnn-run/1.*got 'other/1'"):
        summarise(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\x00{")
    with pytest.raises(RunError, match="Expected JSON"):
        summarise(tmp_path)


def test_lines_of_another_run_are_refused(builder):
    run, _ = two_cells(builder)
    run.lines[1]["key"] = "0" * 64
    with pytest.raises(RunError, match="belongs to another run"):
        read(run.write())


def test_a_changed_plan_is_refused(builder):
    run, _ = two_cells(builder)
    folder = run.write()
    head = json.loads((folder / "run.json").read_text())
    head["cells"][1]["cell"]["threat"]["eps"] = 0.2
    (folder / "run.json").write_text(json.dumps(head))
    with pytest.raises(RunError, match="changed after it was written"):
        read(folder)


@pytest.mark.parametrize("where", ["config", "model", "data", "environment", "gates", "cells"])
def test_a_head_without_a_part_is_refused(builder, where):
    run, _ = two_cells(builder)
    folder = run.write()
    head = json.loads((folder / "run.json").read_text())
    del head[where]
    (folder / "run.json").write_text(json.dumps(head))
    with pytest.raises(RunError, match=f"'{where}'"):
        read(folder)


def test_nan_never_becomes_a_number(builder):
    run, _ = two_cells(builder)
    folder = run.write()
    text = (folder / "cells.jsonl").read_text().replace('"value":0.5', '"value":NaN')
    (folder / "cells.jsonl").write_text(text)
    summary = summarise(folder)
    assert summary["cells"][1]["status"] == "error"
    assert summary["cells"][1]["accuracy"] is None
    assert summary["robust_accuracy"][0]["value"] is None
    assert summary["exit_code"] == 3


def test_nan_among_diagnostics_is_null(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1], diagnostics={"loss": "LOSS"})
    folder = run.write()
    text = (folder / "cells.jsonl").read_text()
    (folder / "cells.jsonl").write_text(text.replace('"LOSS"', "-Infinity"))
    assert '"loss": null' in write(folder, ["json"])["json"].read_text()


def test_nan_margins_make_a_cell_inconclusive(builder):
    run = builder(gates=[], count=4)
    clean, attack = run.cell(), run.cell("fgsm", "linf", 0.1)
    run.done(clean, [1, 1, 1, 1])
    run.done(attack, [1, 1, 1, 1], margin=[1.0, float("nan"), 1.0, 1.0])
    summary = summarise(run.write())
    assert summary["robust_accuracy"][0]["status"] == "inconclusive"
    assert [finding["type"] for finding in summary["findings"]] == ["not-a-number"]
    assert summary["exit_code"] == 3


def test_damaged_or_foreign_tables_are_refused(builder):
    run, keys = two_cells(builder)
    folder = run.write()
    path = folder / "cells" / f"{keys[1]}.parquet"
    table = pd.read_parquet(path)
    table.assign(correct=True).to_parquet(path)
    with pytest.raises(RunError, match="2 correct of 4"):
        summarise(folder)
    table.assign(sample=["s0000", "s0001", "s0002", "other"]).to_parquet(path)
    with pytest.raises(RunError, match="the same 4 samples"):
        summarise(folder)
    table.drop(columns="margin").to_parquet(path)
    with pytest.raises(RunError, match="margin not found"):
        summarise(folder)
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(RunError, match="cannot be read"):
        summarise(folder)


def test_merged_samples_stand_in_for_the_cells(builder):
    run, keys = two_cells(builder)
    folder = run.write()
    before = summarise(folder)
    load_samples(folder).to_parquet(folder / "samples.parquet")
    for key in keys:
        (folder / "cells" / f"{key}.parquet").unlink()
    assert summarise(folder) == before
