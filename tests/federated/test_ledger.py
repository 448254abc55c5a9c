"""The privacy ledger: totals, restarts at any point, idempotence, the budget, other runs, edits and lost lines."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.errors import ConfigError, PrivacyBudgetError, RunError, UnsafeArtifactError
from trustsnn.federated.ledger import FEDERATION, Charge, Ledger

accountants = pytest.importorskip("opacus.accountants")

TERMS = {"unit": "sample", "delta": 1e-5, "eps": None, "accountant": "rdp", "run": {"seed": 1, "clients": 3}}
STRONG, WEAK = Charge(1.5, 0.1, 20), Charge(0.9, 0.2, 5)
ROUNDS = [{"a": STRONG, "b": WEAK}, {"a": STRONG}, {"a": WEAK, "b": Charge(1.5, 0.1, 7)}, {"b": STRONG}, {"a": STRONG, "b": WEAK}]


def opened(path, **changed):
    return Ledger(path, **{**TERMS, **changed})


def truth(rounds, account, accountant="rdp", delta=1e-5):
    """Opacus's accountant, told step by step: as they came, or by noise for PRV, whose Fourier transforms differ by 2e-9 with the order."""
    counted = accountants.create_accountant(mechanism=accountant)
    charges = [charges[account] for charges in rounds if account in charges]
    if accountant == "prv":
        charges.sort(key=lambda charge: (charge.sigma, charge.rate))
    for charge in charges:
        for _ in range(charge.steps):
            counted.step(noise_multiplier=charge.sigma, sample_rate=charge.rate)
    return float(counted.get_epsilon(delta))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "privacy.jsonl"


@pytest.fixture
def filled(path):
    ledger = opened(path)
    for number, charges in enumerate(ROUNDS):
        ledger.charge(number, charges)
    return ledger


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_totals_are_the_accountant_s_after_restarts(path, accountant):
    for number, charges in enumerate(ROUNDS):
        if number != 2:  # the first time, and three restarts
            ledger = opened(path, accountant=accountant)
        ledger.charge(number, charges)
    found = opened(path, accountant=accountant).spent()
    assert found == {a: pytest.approx(truth(ROUNDS, a, accountant), abs=1e-9) for a in "ab"}
    assert ledger.eps("nobody") == 0
    assert ledger.rows()[-1]["eps"] == found["b"]


def test_rows_say_what_each_account_has_spent_after_each_round(filled):
    rows = filled.rows()
    assert [(row["round"], row["account"]) for row in rows] == [(n, a) for n, c in enumerate(ROUNDS) for a in sorted(c)]
    for row in rows:
        assert row["eps"] == pytest.approx(truth(ROUNDS[: row["round"] + 1], row["account"]), abs=1e-9)
    assert Charge(rows[0]["sigma"], rows[0]["rate"], rows[0]["steps"]) == STRONG


def test_totals_do_not_depend_on_the_order_of_rounds(tmp_path):
    found = set()
    for place, order in enumerate(itertools.islice(itertools.permutations(range(5)), 0, 120, 17)):
        ledger = opened(tmp_path / f"{place}.jsonl", accountant="prv")
        for number in order:
            ledger.charge(number, ROUNDS[number])
        found.add(tuple(ledger.spent().values()))
    assert len(found) == 1


def killed_in(monkeypatch, name, act):
    """Run `act` in a process that dies, as by a power cut, when `os.<name>` is called."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, name, lambda *a, **k: os._exit(7))
        try:
            act()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_it_survives_being_killed_anywhere(path, monkeypatch):
    killed_in(monkeypatch, "fsync", lambda: opened(path))  # written, and not yet renamed
    assert not path.exists()
    opened(path).charge(0, ROUNDS[0])
    killed_in(monkeypatch, "fsync", lambda: opened(path).charge(1, ROUNDS[1]))  # the line is there, unless the power went too
    written = path.read_bytes()
    assert opened(path).spent()["a"] == pytest.approx(truth(ROUNDS[:2], "a"), abs=1e-9)
    path.write_bytes(written[:-9])  # as it had
    ledger = opened(path)
    assert "cut short was dropped" in ledger.notes[0]
    for number in (1, 2, 3, 4):
        ledger.charge(number, ROUNDS[number])
    assert opened(path).spent() == {a: pytest.approx(truth(ROUNDS, a), abs=1e-9) for a in "ab"}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_loses_whole_rounds_from_the_end_or_is_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "privacy.jsonl"
        ledger = opened(path)
        sizes = [path.stat().st_size]
        for number, charges in enumerate(ROUNDS):
            ledger.charge(number, charges)
            sizes.append(path.stat().st_size)
        cut = data.draw(st.integers(0, sizes[-1]))
        path.write_bytes(path.read_bytes()[:cut])
        if cut < sizes[0]:
            with pytest.raises(UnsafeArtifactError, match="line 1,"):
                opened(path)
            return
        kept = sum(size <= cut for size in sizes) - 1
        again = opened(path)
        assert bool(again.notes) == (cut not in sizes)
        assert path.stat().st_size == sizes[kept]
        assert again.history("a") == opened(path).history("a")
        for number in range(kept, 5):
            again.charge(number, ROUNDS[number])
        assert again.head == ledger.head
        assert again.history("b") == ledger.history("b")


def test_a_line_is_on_the_disk_before_charge_returns(path, monkeypatch):
    ledger, synced = opened(path), []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.read_bytes()), real(fd)))
    for _ in range(2):  # the second time somebody else may have written it and died
        ledger.charge(0, ROUNDS[0])
    assert len(synced) == 2
    assert all(json.loads(content.splitlines()[-1])["round"] == 0 for content in synced)


def test_a_round_charged_again_counts_once_and_otherwise_is_refused(filled, path):
    before = path.read_bytes()
    filled.charge(2, dict(reversed(ROUNDS[2].items())))
    opened(path).charge(2, ROUNDS[2])
    for other in ({"a": WEAK}, {**ROUNDS[2], "c": WEAK}, {**ROUNDS[2], "a": STRONG}):
        with pytest.raises(
            RunError, match=r"Round 2 \(attempt 0\) is already charged otherwise .* a sigma 0\.9, rate 0\.2, 5 steps; b"
        ):
            filled.charge(2, other)
    assert path.read_bytes() == before


def test_another_attempt_of_a_round_adds_up(filled, path):
    filled.charge(2, ROUNDS[2], attempt=1)
    again = opened(path)
    again.charge(2, ROUNDS[2], attempt=1)
    assert again.eps("a") == pytest.approx(truth([*ROUNDS, ROUNDS[2]], "a"), abs=1e-9)


def test_beyond_the_budget_nothing_is_written(path):
    budget = truth([{"a": STRONG}] * 3, "a")
    ledger = opened(path, eps=budget)
    for number in range(3):
        ledger.charge(number, {"a": STRONG})
    before = path.read_bytes()
    both = {"a": Charge(50.0, 0.01), "b": STRONG}
    assert ledger.affordable(both) == ["b"]
    for each in (ledger, opened(path, eps=budget)):
        with pytest.raises(
            PrivacyBudgetError, match=r"Round 3 would take 1 account\(s\), a first, .* beyond the budget .* at delta 1e-05"
        ):
            each.charge(3, both)
    assert path.read_bytes() == before
    ledger.charge(2, {"a": STRONG})  # charged before
    ledger.charge(3, {"b": STRONG})


def test_an_eps_that_is_not_a_number_is_beyond_any_budget(path, monkeypatch):
    ledger = opened(path, eps=1.0)
    monkeypatch.setattr("trustsnn.federated.ledger.composed", lambda *_: float("nan"))
    with pytest.raises(PrivacyBudgetError):
        ledger.charge(0, {"a": Charge(1.23, 0.45, 6)})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"run": {"seed": 2, "clients": 3}}, "run"),
        ({"delta": 1e-6}, "delta"),
        ({"eps": 8.0}, "eps"),
        ({"accountant": "prv", "unit": "client"}, "accountant, unit"),
    ],
)
def test_the_ledger_of_another_run_is_refused_and_left(filled, path, changed, named):
    before = path.read_bytes()
    with pytest.raises(RunError, match=rf"another run \({named} differ\)"):
        opened(path, **changed)
    assert path.read_bytes() == before


def edited(lines):
    """Each way in which lines can be edited by hand, by name."""
    yield "a smaller sigma", [*lines[:2], lines[2].replace("1.5", "9.5"), *lines[3:]]
    yield "a digit of the hash", [*lines[:2], lines[2].replace('"sha256":"', '"sha256":"0', 1), *lines[3:]]
    yield "a round left out", [*lines[:2], *lines[3:]]
    yield "two rounds changed over", [lines[0], lines[2], lines[1], *lines[3:]]
    yield "a round repeated", [*lines, lines[-1]]
    yield "no first line", lines[1:]
    yield "a larger delta", [lines[0].replace("1e-05", "0.001"), *lines[1:]]
    yield "a key twice", [*lines[:-1], lines[-1].replace('"attempt":0', '"attempt":3,"attempt":0')]
    yield "spaces", [*lines[:-1], lines[-1].replace(":", ": ", 1)]
    yield "an empty line", [*lines[:3], "", *lines[3:]]
    yield "another thing", [*lines[:3], "[]", *lines[3:]]
    entry = json.loads(lines[3])
    entry["charges"]["a"][2] = 1
    digest = sha256_of(["", {key: value for key, value in entry.items() if key != "sha256"}])
    yield "hashed anew, by itself", [*lines[:3], canonical_json({**entry, "sha256": digest}), *lines[4:]]


def test_edits_are_found(filled, path):
    lines = path.read_text().splitlines()
    for what, changed in edited(lines):
        assert changed != lines, what
        path.write_text("".join(line + "\n" for line in changed))
        with pytest.raises(UnsafeArtifactError, match=r"line \d, is not what this ledger wrote"):
            opened(path)
        with pytest.raises(UnsafeArtifactError):  # while it is open, as well
            filled.charge(9, {"a": WEAK})


def test_whole_lines_lost_from_the_end_are_found_by_the_head_alone(filled, path):
    head = filled.head
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in lines[:-1]))
    assert opened(path).head != head
    for look in (lambda: opened(path, head=head), lambda: filled.charge(9, {"a": WEAK})):
        with pytest.raises(UnsafeArtifactError, match="has lost rounds that it held before"):
            look()
    path.unlink()
    with pytest.raises(UnsafeArtifactError, match="found none"):
        opened(path, head=head)
    with pytest.raises(RunError, match="Could not write"):
        filled.charge(9, {"a": WEAK})


def test_a_head_of_before_is_in_a_ledger_that_went_on(path):
    first = opened(path)
    head = first.head
    first.charge(0, ROUNDS[0])
    assert opened(path, head=head).head == first.head


def test_two_holders_do_not_overwrite_one_another(path):
    one, other = opened(path), opened(path)
    one.charge(0, ROUNDS[0])
    other.charge(1, ROUNDS[1])
    one.charge(1, ROUNDS[1])
    assert one.history("a") == other.history("a") == opened(path).history("a") == ((1.5, 0.1, 40),)


def test_a_disk_that_is_full_leaves_a_ledger_that_can_go_on(path, monkeypatch):
    ledger = opened(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left"):
            ledger.charge(0, ROUNDS[0])
    path.write_bytes(before + b'{"att')
    ledger.charge(0, ROUNDS[0])
    assert len(ledger.notes) == 1
    assert opened(path).history("a") == ((1.5, 0.1, 20),)


def test_a_ledger_of_clients_has_one_account(path):
    ledger = opened(path, unit="client")
    for number in range(4):
        ledger.charge(number, {FEDERATION: Charge(1.2, 0.3)})
    with pytest.raises(ConfigError, match="one charge to 'federation'"):
        ledger.charge(4, {"a": Charge(1.2, 0.3)})
    assert ledger.spent() == {FEDERATION: pytest.approx(truth([{"a": Charge(1.2, 0.3, 4)}], "a"), abs=1e-9)}


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(0.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.1, 0), (float("nan"), 0.1, 1), (float("inf"), 0.1, 1), (1.0, 0.1, 2.0)],
)
def test_a_charge_out_of_range_is_refused(sigma, rate, steps):
    with pytest.raises(ConfigError, match="Expected sigma > 0"):
        Charge(sigma, rate, steps)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unit": "device"}, "unit of client, sample"),
        ({"accountant": "moments"}, "accountant of prv, rdp"),
        ({"delta": 0.0}, "delta in"),
        ({"eps": 0.0}, "positive, finite eps"),
        ({"eps": float("nan")}, "positive, finite eps"),
    ],
)
def test_terms_out_of_range_are_refused(path, changed, message):
    with pytest.raises(ConfigError, match=message):
        opened(path, **changed)
    assert not path.exists()


@pytest.mark.parametrize(
    ("number", "charges", "attempt"), [(-1, {"a": WEAK}, 0), (0, {}, 0), (0, {"": WEAK}, 0), (True, {"a": WEAK}, 0)]
)
def test_a_charge_of_no_round_or_account_is_refused(path, number, charges, attempt):
    with pytest.raises(ConfigError, match="Expected charges by account"):
        opened(path).charge(number, charges, attempt)
