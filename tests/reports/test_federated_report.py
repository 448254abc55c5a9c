"""The page and the lines of a federation: made from plain values, of which some come from strangers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from trustsnn.reports.federated import FORMAT, lines, page
from trustsnn.statistics import proportion


def row_of(round_, *, told=(0, 1, 2), combined=3, test=30, own=True, **more):
    clients = {
        str(client): {"loss": 1.0 / round_, "num-examples": 40, "bytes_up": 10**6, "bytes_down": 2 * 10**6, "joules": 0.5}
        for client in told
    }
    row = {
        "round": round_,
        "asked": [0, 1, 2],
        "combined": combined,
        "clients": clients,
        "failed": {},
        "refused": {},
        "capped": {},
    }
    row["own"] = {"0": [3, 4], "1": [1, 4], "2": [4, 4]} if own else {}
    if test is not None:
        row["test"] = dict(proportion(test, 50))
    return {**row, **more}


def record_of(*rows, gate=None, **config):
    settings = {
        "clients": 3,
        "strategy": "fedavg",
        "partition": "iid",
        "privacy": None,
        "secure": None,
        "data": "digits",
        **config,
    }
    return {
        "format": FORMAT, "config": settings, "rounds": list(rows or [row_of(1), row_of(2)]),
        "model": {"name": "mlp", "hash": "ab" * 32, "parameters": 12, "spec": {"steps": 4}},
        "data": {"name": "digits", "split": "train", "sha256": "cd" * 32, "count": 120, "classes": [str(each) for each in range(10)]},
        "test": {"name": "digits", "split": "test", "count": 50},
        "partition": {"settings": {"scheme": "iid"}, "sha256": "ef" * 32, "counts": [[4] * 10, [40] + [0] * 9, [0] * 5 + [8] * 5]},
        "devices": None, "assumptions": ["Energy: a guess."], "gate": gate, "environment": {"torch": "2"},
    }  # fmt: skip


def table_of(text):
    """The rows of the table of clients: their cells."""
    part = text[text.index('aria-labelledby="clients"') :]
    rows = re.findall(r"<tr role=\"row\">(.*?)</tr>", part[: part.index("</table>")], re.S)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row, re.S)] for row in rows[1:]]


def said(record):
    return " ".join(lines(record))


def test_equal_records_are_the_same_bytes_and_refer_to_nothing_outside():
    one, two = page(record_of()), page(record_of())
    assert one == two
    assert not re.search(r"(?:https?:)?//[\w.]", one.replace("http://www.w3.org", ""))
    assert not re.search(r"<(?:script|link|iframe|object|img)\b", one)
    assert "default-src 'none'" in one


def test_it_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import trustsnn.reports.federated"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lines_say_the_figures_with_their_counts():
    text = said(record_of())
    assert "After 2 rounds with 3 clients the global model is right on 60.0 % of 50 test samples" in text
    assert "on 25.0 % to 100.0 %, 66.7 % in the mean over clients" in text
    assert "got 12.0 MB and sent 6.0 MB" in text
    assert "3 J on training" in text
    for word in ("refused", "Gate", "private", "too few"):
        assert word not in text


def test_what_strangers_wrote_is_text():
    hostile = "<script>alert(1)</script><img src=//evil.example onerror=x>"
    text = page(record_of(row_of(1, refused={"1": hostile}, failed={"2": hostile}, capped={"0": hostile})))
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


def test_a_client_counts_as_used_where_its_update_went_into_the_model():
    rows = [
        row_of(1),
        row_of(2, refused={"1": "its norm of 1e+06 is above 12"}, combined=2),
        row_of(3, failed={"1": "no power"}, combined=2),
        row_of(4, told=(0, 1), capped={"0": "10 samples counted as 5"}, combined=2),
        row_of(5, combined=0),
    ]
    rows[2]["clients"]["1"] = {"bytes_down": 2 * 10**6, "bytes_up": 0}  # it was asked, and its device got the model
    rows[3]["clients"]["1"]["loss"] = 0.125
    table = table_of(page(record_of(*rows)))
    assert [cells[0] for cells in table] == ["0", "1", "2"]
    assert [int(cells[3]) for cells in table] == [4, 2, 3]
    assert [cells[1:3] for cells in table] == [["40", "10"], ["40", "1"], ["40", "5"]]
    assert table[1][5] == "0.200"  # of the last round in which it told one


def test_a_client_that_never_answered_has_no_loss():
    table = table_of(page(record_of(row_of(1, told=(0, 2), failed={"1": "gone"}, combined=2, own=False))))
    assert table[1][3:6] == ["0", "no samples", "none told"]


def test_trouble_is_a_row_for_each_client_and_reason():
    rows = [row_of(r, refused={"1": f"its norm of {r}e+06 is above 12"}, failed={"2": "gone"}, combined=1) for r in range(1, 8)]
    text = page(record_of(*rows))
    assert "7 never came, 7 were refused and 0 had their weight cut back" in said(record_of(*rows))
    part = text[text.index('aria-labelledby="trouble"') : text.index('id="how"')]
    assert len(re.findall(r'scope="row"', part)) == 2
    assert part.index(">1<") < part.index(">2<")
    assert 'aria-labelledby="trouble"' not in page(record_of())


def test_skipped_rounds_are_said():
    skipped = [row_of(r, combined=0, told=(), failed=dict.fromkeys("012", "gone")) for r in range(1, 13)]
    assert "In 12 of the rounds too few updates were left to combine, so that the model stayed as it was: 1, 2, 3" in said(
        record_of(*skipped)
    )
    private = {"privacy": {"unit": "client", "delta": 1e-5, "seeded": False}}
    rows = [row_of(1, combined=0, told=(), privacy={"eps": 1.5}), row_of(2, privacy={"eps": 2.5})]
    text = said(record_of(*rows, **private))
    assert "no update was there, so that the model moved by the noise alone: 1." in text
    assert "(2.5, 1e-05) differentially private for every client." in text
    assert "stayed as it was: 1." in said(record_of(*rows, **private, secure={}))


def test_the_privacy_of_samples_is_that_of_the_client_that_spent_most():
    rows = [
        row_of(1, privacy={"eps": {"client 0": 1.0, "client 1": 3.0}}),
        row_of(2, privacy={"eps": {"client 0": 2.0, "client 1": 3.5}}),
    ]
    text = said(record_of(*rows, privacy={"unit": "sample", "delta": 1e-5, "seeded": True}))
    assert (
        "(3.5, 1e-05) differentially private for every sample of one client; the noise is seeded, which is no guarantee" in text
    )


@pytest.mark.parametrize(("code", "word"), [(0, "holds"), (1, "FAILS"), (3, "cannot be decided")])
def test_the_gate_says_what_came_of_it(code, word):
    gate = {"bound": 0.9, "value": 0.6, "exit_code": code}
    assert re.search(rf"Gate: test accuracy of at least 90(?:\.0)? %: {word}", said(record_of(gate=gate)))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("test", [30, None])
def test_the_page_is_drawn_with_what_there_is(own, test):
    rows = [row_of(1, own=own, test=test)]
    text = page(record_of(*rows))
    assert "<svg" in text
    assert ("no global model to measure" in text.replace("\u00a0", " ")) == (test is None)


def test_devices_are_shown_where_they_differ():
    device = {"client": 0, "steps": None, "twin": None, "noise": 0.0}
    record = record_of()
    record["devices"] = [device, {**device, "steps": 2}, {**device, "twin": "pcm@1month"}]
    assert [cells[1] for cells in table_of(page(record))] == ["T 4", "T 2", "T 4, pcm@1month"]
