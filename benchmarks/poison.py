"""Bad clients: how far each strategy's update of a round is from the honest one, with and without the validation layer in front of it.

    python benchmarks/poison.py

Honest clients train the same global model once; then some of them turn bad in each of the ways of `trustsnn.federated.poison`. The error is
the distance of the combined update from that of the honest clients alone under the same strategy, over the norm of theirs. "lost" is an
update that is no number any more, "crash" an exception, "skipped" a round with too few updates left.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
from harness import begin, options
from report import Report

from trustsnn.checkpoint import model_hash
from trustsnn.data import splits
from trustsnn.federated.arrays import Arrays, arrays_of, difference, norm
from trustsnn.federated.catalogue import STRATEGIES
from trustsnn.federated.client import Site, work
from trustsnn.federated.config import Limits, parsed
from trustsnn.federated.poison import BACKDOORS, POISONS, poisoned
from trustsnn.federated.strategies import Strategy, strategy
from trustsnn.federated.validation import Answer, unfit, validate
from trustsnn.models import build

Answers = dict[int, Answer]
Sent = dict[str, Answers]
Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    """One table without the validation layer, one with it."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.25, help="(default %(default)s)")
    parser.add_argument("--clients", type=int, default=11, help="(default %(default)s)")
    parser.add_argument("--bad", type=int, default=2, help="of them, as many as Krum and Bulyan are told (default %(default)s)")
    parser.add_argument("--warm", type=int, default=2, help="honest rounds before (default %(default)s)")
    parser.add_argument("--alpha", default="0.5", help="of the partition (default %(default)s)")
    given = begin(parser)
    answers, shapes = honest(given)
    report = Report(f"Bad clients: {given.bad} of {given.clients}, {given.network} on {given.data}, alpha {given.alpha}", given)
    for title, on in (("Without the validation layer", False), ("With it", True)):
        rows = []
        for kind in [*POISONS, *BACKDOORS]:
            told = _told(kind, answers, given)
            good = {c: a for c, a in answers[""].items() if c >= given.bad}
            rows.append([kind, *(_error(name, told, good, shapes, given.bad, on) for name in STRATEGIES)])
        refused = (
            f" Refused: {', '.join(_refused(answers, shapes, given))}."
            if on
            else " An update of a wrong shape never reaches a strategy."
        )
        note = f"Error of the update of one round. A backdoor differs from honest training, which is no error of a strategy.{refused}"
        report.table(title, ["bad clients send", *STRATEGIES], rows, note)


def honest(given: Namespace) -> tuple[Sent, Shapes]:
    """What every client sends when it is honest (""), and when it trains a backdoor, by that name."""
    data = splits(given.data)["train"]
    start = build(given.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels)
    base: dict[str, Any] = {
        "architecture": start.architecture, "start": model_hash(start), "data": given.data, "clients": given.clients,
        "rounds": given.warm + 1, "partition": f"dirichlet:{given.alpha}",
    }  # fmt: skip
    config = parsed(base, "benchmarks/poison.py")
    arrays = arrays_of(start)
    shapes = {name: array.shape for name, array in arrays.items()}
    site = Site(config)
    for round_ in range(1, given.warm + 1):
        done = {client: work(site, client, round_, arrays)[0] for client in range(given.clients)}
        update = strategy("fedavg").combine({c: w.update for c, w in done.items()}, {c: w.samples for c, w in done.items()})
        arrays = {name: np.asarray(arrays[name] + update[name]) for name in arrays}
        print(f"  honest round {round_}", flush=True)
    found = {}
    for kind in ("", *BACKDOORS):
        bad = parsed({**base, "poison": dict.fromkeys(range(given.bad), kind) if kind else {}}, "benchmarks/poison.py")
        there = Site(bad)
        who = range(given.bad) if kind else range(given.clients)
        done = {client: work(there, client, given.warm + 1, arrays)[0] for client in who}
        found[kind] = {client: Answer(each.update, each.samples) for client, each in done.items()}
    return found, shapes


def _error(name: str, told: Answers, good: Answers, shapes: Shapes, bad: int, on: bool) -> str:
    chosen = strategy(f"{name}:{bad}" if name in ("krum", "multikrum", "bulyan") else name)
    reference = _combined(chosen if len(good) >= chosen.least else strategy("fedmedian"), good)
    try:
        if on:
            verdict = validate(told, shapes, Limits())
            updates, samples = verdict.updates, verdict.samples
        else:  # as a federation without the layer does
            taken = {client: answer for client, answer in told.items() if unfit(answer, shapes) is None}
            updates, samples = {c: dict(a.update) for c, a in taken.items()}, {c: a.samples for c, a in taken.items()}
        if len(updates) < chosen.least:
            return "skipped"
        found = chosen.combine(updates, samples)
    except Exception as error:  # noqa: BLE001
        return f"crash ({type(error).__name__})"
    off = norm(difference(found, reference)) / norm(reference)
    return f"{off:.3g}" if np.isfinite(off) else "lost"


def _combined(chosen: Strategy, answers: Answers) -> Arrays:
    return chosen.combine({c: dict(a.update) for c, a in answers.items()}, {c: a.samples for c, a in answers.items()})


def _told(kind: str, answers: Sent, given: Namespace) -> Answers:
    """What comes in where the first clients are bad in this way."""
    own = answers[kind if kind in BACKDOORS else ""]
    bad = {c: Answer(*poisoned(kind, dict(own[c].update), own[c].samples, given.clients)) for c in range(given.bad)}
    return {**answers[""], **bad}


def _refused(answers: Sent, shapes: Shapes, given: Namespace) -> list[str]:
    found = []
    for kind in [*POISONS, *BACKDOORS]:
        verdict = validate(_told(kind, answers, given), shapes, Limits())
        refused, capped = (sum(c < given.bad for c in each) for each in (verdict.refused, verdict.capped))
        found.append(f"{kind} {refused} of {given.bad}{', their weight cut back' * bool(capped)}")
    return found


if __name__ == "__main__":
    main()
