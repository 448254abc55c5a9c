"""What a federation promises, held against a plain sum, a test of randomness, an attack and an accountant.

    python benchmarks/guarantees.py

Sums: the updates of real clients under secure aggregation, with drop-outs at every stage. View: what the server holds of one client, and
what gradient inversion makes of it. Ledger: its eps after three restarts, beside Opacus's accountant told the same steps one by one.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from harness import begin, options, quartiles
from opacus.accountants import create_accountant
from poison import honest
from report import Report

from trustsnn.attacks.leakage.analytic import analytic
from trustsnn.attacks.leakage.similarity import EXACT, psnr, spread
from trustsnn.attacks.leakage.updates import Update, simulate
from trustsnn.checkpoint import model_hash
from trustsnn.data import splits
from trustsnn.errors import ProtocolError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.ledger import FEDERATION, Charge, Ledger
from trustsnn.federated.secure import STAGES, Client, Message, Server, Settings, aggregate, layout_of, quantise
from trustsnn.federated.secure.keys import add_mask
from trustsnn.federated.view import looks_random, seen_by_server
from trustsnn.models import build
from trustsnn.rng import Draws, stream
from trustsnn.training import TrainConfig, train

CLIP = 1.0


def main() -> None:
    """The tables."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--clients", type=int, default=9, help="of a sum (default %(default)s)")
    parser.add_argument("--threshold", type=int, default=6, help="(default %(default)s)")
    parser.add_argument("--images", type=int, default=32, help="whose one-sample updates are inverted (default %(default)s)")
    parser.add_argument("--masks", type=int, default=100_000, help="keys whose masks are compared (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="that the ledger is charged for (default %(default)s)")
    given = begin(parser)
    report = Report(f"Guarantees of a federation on {given.data}", given)
    sums(report, given)
    cost(report, given)
    view(report, given)
    masks(report, given)
    ledger(report, given)


def sums(report: Report, given: Namespace) -> None:
    """The error of the sum over its bound, for every set of clients that drops out at a stage."""
    training = Namespace(data=given.data, network="conv", channels=0.25, clients=given.clients, bad=0, warm=1, alpha="0.5")
    answers = honest(training)[0][""]
    updates = {client: dict(each.update) for client, each in answers.items()}
    weights = {client: int(each.samples or 0) for client, each in answers.items()}
    settings = Settings(given.clients, given.threshold, CLIP, max_weight=max(weights.values()), ring=64)
    numbers = range(given.clients - given.threshold + 2)
    rows, raw = [], {}
    for stage in STAGES:
        cells = []
        for number in numbers:
            sets = list(combinations(range(given.clients), number))
            worst = [_off(updates, weights, settings, stage, gone) for gone in sets]
            aborted = sum(each is None for each in worst)
            raw[f"{stage}, {number}"] = [each for each in worst if each is not None]
            kept = f"{max(raw[f'{stage}, {number}']):.2f} of the bound" if aborted < len(sets) else ""
            cells.append(", ".join(filter(None, [kept, f"{aborted} of {len(sets)} stopped" if aborted else f"{len(sets)} sums"])))
        rows.append([stage, *cells])
        print(f"  {stage}", flush=True)
    size = sum(array.size for array in updates[0].values())
    report.table(
        f"Secure sums of {given.clients} updates, threshold {given.threshold}",
        ["clients drop out before", *(f"{number} of them" for number in numbers)], rows,
        f"Updates of conv, a quarter of its channels ({size:,} values), of one local epoch, weighted by samples. The largest error of a value "
        f"over the bound of rounding, half a step of {settings.step:.3g} for each client; each set of clients once. A sum that is stopped gives "
        "an error and no value.", raw,
    )  # fmt: skip


def _off(
    updates: dict[int, Arrays], weights: dict[int, int], settings: Settings, stage: str, gone: tuple[int, ...]
) -> float | None:
    """The largest error of a value over its bound; None where the sum was stopped."""
    try:
        total = aggregate(updates, settings, {stage: gone}, weights=weights)
    except ProtocolError:
        return None
    bound = len(total.clients) * settings.step / 2
    off = 0.0
    for name, found in total.sums.items():
        plain = sum(
            np.clip(updates[c][name].astype(float), -settings.clip, settings.clip) * (weights[c] / settings.max_weight)
            for c in total.clients
        )
        off = max(off, float(np.abs(found - plain).max()))
    return off / bound


def cost(report: Report, given: Namespace) -> None:
    """Seconds and bytes of the protocol as clients grow."""
    rows, raw = [], {}
    update = {"w": stream(0, "cost").normal(0, 0.1, 100_000).astype(np.float32)}
    for clients in (5, 20, 50, 100):
        settings = Settings(clients, clients // 2 + 1, CLIP)
        begun = time.process_time()
        server = Server(settings, "cost", 0, range(clients), layout_of(update))
        parties = {i: Client(i, settings, "cost", 0) for i in range(clients)}
        sent, seconds = 0, 0.0  # of all clients
        gone = set(range(clients // 10))  # these drop out when their masks are in the others' vectors

        def answered(act: Callable[[int], Message], without: set[int] | None = None) -> None:
            nonlocal sent, seconds
            for i in server.expected:  # noqa: B023
                if i not in (without or ()):
                    started = time.process_time()
                    answer = act(i)
                    seconds += time.process_time() - started
                    sent += sum(len(value) if isinstance(value, bytes | str) else 8 for value in answer.to_record().values())
                    server.receive(i, answer)  # noqa: B023

        answered(lambda i: parties[i].advertise_keys())  # noqa: B023
        cohort = server.cohort()
        answered(lambda i: parties[i].share_keys(cohort))  # noqa: B023
        boxes = server.relayed()
        answered(lambda i: parties[i].masked_input(boxes[i], update), gone)  # noqa: B023
        request = server.unmask_request()
        answered(lambda i: parties[i].unmask(request))  # noqa: B023
        server.total()
        servers = time.process_time() - begun - seconds
        raw[str(clients)] = {"clients": seconds, "server": servers, "bytes": sent}
        rows.append([str(clients), f"{seconds / clients:.3f} s", f"{servers:.2f} s", f"{sent / clients / 4e5:.2f}"])
    report.table(
        "Cost of secure aggregation, 100,000 values", ["clients", "a client", "the server", "bytes that a client sends, over those of float32"],
        rows, "Processor seconds of all four stages. A tenth of the clients drops out before its masked input, the dearest case for the server.",
        raw,
    )  # fmt: skip


def view(report: Report, given: Namespace) -> None:
    """What the server holds of one client's one-sample update, and what the analytic attack makes of it."""
    data = splits(given.data)
    model = build("mlp", input_shape=data["train"].sample_shape, classes=len(data["train"].classes), norm="none")
    train(model, data["train"].take(5000, 0), TrainConfig(epochs=1))
    some = data["test"].take(given.images, 0)
    x, y = (torch.from_numpy(each.copy()) for each in some.batch(np.arange(len(some))))
    base = {"architecture": model.architecture, "start": model_hash(model), "data": given.data, "clients": 5}
    settings = {
        "plain": {}, "clipped to 1": {"privacy": {"sigma": 1.0, "clip": 1.0}}, "top-k, 1 %": {"compression": "top-k:0.01"},
        "8 bits": {"compression": "quantised:8"}, "secure aggregation": {"secure": {}},
    }  # fmt: skip
    rows, raw = [], {}
    for name, chosen in settings.items():
        config = FederatedConfig(**base, **chosen)
        images, chances, alike = torch.empty_like(x), [], []
        for row in range(len(x)):
            bare = simulate(model, x[row : row + 1], y[row : row + 1], draws=Draws(0, "update", (some.ids[row],)))
            truth = {key: -each.detach().numpy() for key, each in bare.gradients.items()}
            seen, vector = seen_by_server(config, truth)
            images[row] = analytic(model, Update({k: torch.from_numpy(-seen[k]) for k in truth}, 1, model_hash(model))).images[0]
            flat = [np.concatenate([np.ravel(each[k]) for k in sorted(truth)]) for each in (seen, truth)]
            alike.append(abs(float(np.corrcoef(*flat)[0, 1])))
            chances += [looks_random(vector)] if vector else []
        figure = spread(psnr(images, x), 0.0, EXACT)
        raw[name] = {"psnr": figure, "p": chances, "correlation": alike}
        random = f"{min(chances):.2g} to {max(chances):.2g}" if chances else "no"
        rows.append([
            name, f"{figure['value']:.1f} ({figure['low']:.1f} to {figure['high']:.1f})", f"{quartiles(alike).median:.4f}", random,
        ])  # fmt: skip
    plain = looks_random(quantise(flat[1], Settings(5, 3, CLIP)).tobytes())
    report.table(
        "The server's view of a client", ["", "PSNR of the analytic attack, dB", "correlation with the update", "bytes look uniform, p"], rows,
        f"{len(x)} updates of one sample of {given.data}, mlp without normalisation, five clients. Medians; PSNR with its 95 % interval. p of a "
        f"chi-square test over the {len(x)} masked vectors; of an update that is quantised and not masked it is {plain:.1g}.", raw,
    )  # fmt: skip


def masks(report: Report, given: Namespace) -> None:
    """Whether two keys ever give the same words of a mask."""
    draws = stream(0, "masks")
    words = np.zeros((given.masks, 4), np.uint32)
    for row in range(given.masks):
        add_mask(words[row], draws.bytes(32), 1)
    distinct = len(np.unique(words, axis=0))
    ones = np.unpackbits(words.view(np.uint8)).mean()
    report.table(
        "Masks", ["keys", "distinct masks of 128 bits", "share of ones"], [[f"{given.masks:,}", f"{distinct:,}", f"{ones:.5f}"]],
        f"Keys at random; the share of ones is within {1.96 * 0.5 / np.sqrt(words.size * 32):.5f} of a half in 95 of 100 cases.",
    )  # fmt: skip


def ledger(report: Report, given: Namespace) -> None:
    """The eps of a ledger that is opened again after three crashes, and the accountant's."""
    rows, raw = [], {}
    for accountant in ("rdp", "prv"):
        for unit, charge in (("client", Charge(1.0, 0.2)), ("sample", Charge(0.8, 0.01, 100))):
            account = FEDERATION if unit == "client" else "client 0"
            counted = create_accountant(mechanism=accountant)
            with tempfile.TemporaryDirectory() as folder:
                settings = {"unit": unit, "delta": 1e-5, "eps": None, "accountant": accountant, "run": {"benchmark": 1}}
                book = Ledger(Path(folder) / "ledger.jsonl", **settings)
                for round_ in range(given.rounds):
                    if round_ in (given.rounds // 4, given.rounds // 2, 3 * given.rounds // 4):
                        with open(book.path, "ab") as file:
                            file.write(b'{"attempt": 0, "char')  # a crash while it writes
                        book = Ledger(book.path, **settings)
                    book.charge(round_, {account: charge})
                    for _ in range(charge.steps):
                        counted.step(noise_multiplier=charge.sigma, sample_rate=charge.rate)
                found, expected = book.eps(account), float(counted.get_epsilon(1e-5))
            rows.append(
                [
                    accountant,
                    unit,
                    f"{given.rounds * charge.steps:,}",
                    f"{found:.9f}",
                    f"{expected:.9f}",
                    f"{abs(found - expected):.1g}",
                ]
            )
            raw[f"{accountant}, {unit}"] = [found, expected]
    report.table(
        "The ledger after three restarts", ["accountant", "protects", "steps", "eps of the ledger", "of Opacus", "apart"], rows,
        "Clients: sigma 1, a fifth of them in a round. Samples: sigma 0.8, rate 0.01, 100 steps a round. delta 1e-5. Before each restart a crash "
        "leaves half a line.", raw,
    )  # fmt: skip


if __name__ == "__main__":
    main()
