"""A whole federation in this process: killed anywhere, with bad clients, under privacy and secure aggregation, against slow references."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, PrivacyBudgetError, RunError
from trustsnn.federated.arrays import arrays_of, load_arrays
from trustsnn.federated.client import Site, judge, work
from trustsnn.federated.coding import parse
from trustsnn.federated.compression import compress, payload_size
from trustsnn.federated.poison import BACKDOORS, POISONS
from trustsnn.federated.rounds import own_before, read, resume
from trustsnn.federated.server import Server
from trustsnn.federated.summing import settings_of
from trustsnn.rng import stream
from trustsnn.training import train


class KilledError(BaseException):
    """The process ends here."""


class Cut:
    """A grid that ends the process as soon as the first message of a kind in a round has been answered."""

    def __init__(self, round_, kind):
        self.round, self.kind = round_, kind

    def __call__(self, grid):
        self.grid = grid
        return self

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, timeout=None):
        answers = []
        for message in messages:
            answers += self.grid.send_and_receive([message])
            if message.metadata.message_type == self.kind and message.content["config"]["round"] == self.round:
                raise KilledError
        return answers


def cut_told(round_):
    """Ends the process when the round is done."""

    def told(row):
        if row["round"] == round_:
            raise KilledError

    return told


DP = {"sigma": 1.0, "accountant": "rdp", "seeded": True}
SAMPLES = {"unit": "sample", **DP}
HALF = {"clients": 4, "fraction": 0.5, "rounds": 3}
KINDS = {
    "plain": {},
    "conv, fedlec, dirichlet": {"model": "conv", "loss": "fedlec", "partition": "dirichlet:1:minimum=10"},
    "top-k": {"compression": "top-k:0.05"},
    "local statistics, top-k, fraction": {"statistics": "local", "compression": "top-k:0.1", **HALF},
    "clients' privacy": {"privacy": {**DP, "sigma": 0.15, "adaptive": True}, **HALF},
    "samples' privacy": {"norm": "none", "privacy": {**SAMPLES, "budget": 6.0}, **HALF},
    "secure": {"secure": {}, "rounds": 3},
    "secure, clients' privacy": {"secure": {}, "privacy": DP},
    "devices": {"clients": 4, "fleet": {"noise": 0.3, "dropout": 0.3, "stragglers": 0.5, "straggler_work": 0.5},
                "local": {"batch_size": 16, "epochs": 2}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_that_is_killed_ends_as_one_that_is_not(begun, ended, outcome, tmp_path, kind):
    """In the middle of every round, while clients measure the model, and after it."""
    config, start = begun(**KINDS[kind])
    whole = ended(config, start, tmp_path / "whole")
    stages = ["train.unmask", "train.masked", "train.shares"] if config.secure is not None else ["train"] * 3
    deaths = 0
    for round_, stage in enumerate(stages[: config.rounds], 1):
        for cut in ({"grid": Cut(round_, stage)}, {"grid": Cut(round_, "evaluate")}, {"told": cut_told(round_)}):
            try:
                ended(config, start, tmp_path / "killed", **cut)
            except KilledError:
                deaths += 1
                kept = resume(tmp_path / "killed" / "rounds", config.sha256)
                assert (0 if kept is None else kept.round) == (round_ if "told" in cut else round_ - 1)
    server = ended(config, start, tmp_path / "killed")
    assert deaths >= 6
    assert outcome(server) == outcome(whole)
    assert server.rounds.round == config.rounds
    if config.privacy is not None:
        assert server.collector.ledger.rows() == whole.collector.ledger.rows()


# Bad clients.


class Bad:
    """The app of the clients, of whom number 1 answers messages of one type otherwise: by `changes` of its answer and of the message, one
    after the other in each round."""

    def __init__(self, kind, *changes):
        self.kind, self.changes = kind, changes

    def __call__(self, app):
        def answer(message, context):
            found = app(message, context)
            if context.node_config["partition-id"] != 1 or message.metadata.message_type != self.kind:
                return found
            round_ = message.content["config"].get("round", 1)
            return self.changes[(round_ - 1) % len(self.changes)](found, message)

        return answer


def fails(answer, message):
    raise RuntimeError("no power")


def says(**records):
    """Its answer with other records; None takes one away."""

    def change(answer, message):
        content = {**{name: answer.content[name] for name in answer.content}, **records}
        return Message(RecordDict({name: each for name, each in content.items() if each is not None}), reply_to=message)

    return change


def tells(**figures):
    """Its answer with other figures; None takes one away."""

    def change(answer, message):
        told = {**answer.content["metrics"], **{name.replace("_", "-"): each for name, each in figures.items()}}
        return says(metrics=MetricRecord({name: each for name, each in told.items() if each is not None}))(answer, message)

    return change


def sends(data, kind="numpy.ndarray"):
    """Its tensors with these bytes for each."""

    def change(answer, message):
        arrays = {
            name: Array(dtype="float32", shape=each.shape, stype=kind, data=data)
            for name, each in answer.content["arrays"].items()
        }
        return says(arrays=ArrayRecord(arrays))(answer, message)

    return change


def stored(save, *what):
    stream = io.BytesIO()
    save(stream, *what)
    return stream.getvalue()


def in_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"x" * 100)
    return stream.getvalue()


HUGE = stored(np.save, np.zeros(3, np.float32)).replace(b"(3,), }" + b" " * 14, b"(3000000000000000,), }")[:200]

USELESS = {
    "is another": tells(client=2),
    "is nobody": tells(client=None),
    "is a fraction": tells(client=1.0),
    "is several": tells(client=[1, 1]),
    "has no figures": says(metrics=None),
    "has no records": says(metrics=None, arrays=None),
    "has no tensors": says(arrays=None),
    "has figures for tensors": says(arrays=MetricRecord({"a": 1.0})),
    "has tensors for figures": says(metrics=ArrayRecord({"client": Array(np.ones(1))})),
    "has tensors for a record": says(record=ArrayRecord({"payload": Array(np.ones(1))})),
    "has a text for a payload": says(record=ConfigRecord({"payload": "x" * 100})),
    "sends junk": sends(b"junk"),
    "sends nothing": sends(b""),
    "sends a zip": sends(in_zip()),
    "sends a broken zip": sends(b"PK\x03\x04junk"),
    "sends several arrays": sends(stored(np.savez, np.zeros(3, np.float32))),
    "sends a pickle": sends(stored(lambda stream, each: np.save(stream, each, allow_pickle=True), np.array([{}], dtype=object))),
    "sends more than there is memory": sends(HUGE),
    "sends another kind": sends(b"junk", "torch.tensor"),
    "sends text": sends(stored(np.save, np.array("abc"))),
}  # fmt: skip


CONSTANT = {"batch_size": 16, "last_rate": 1.0}  # rounds of a shorter and of a longer federation are the same


@pytest.fixture(scope="module")
def without_1(begun, ended, tmp_path_factory):
    """A function: the weights after a round of a federation of which client 1 never answers."""
    folder = tmp_path_factory.mktemp("without")
    ended(*begun(rounds=len(USELESS), local=CONSTANT), folder, app=Bad("train", fails), keep=True)
    return lambda round_: read(folder / "rounds" / f"global-{round_:05d}.safetensors")[0]


def same(one, two):
    return one.keys() == two.keys() and all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_the_rounds_go_on_without_a_client_whose_answer_is_of_no_use(begun, ended, tmp_path, without_1):
    config, start = begun(rounds=len(USELESS), local=CONSTANT)
    server = ended(config, start, tmp_path, app=Bad("train", *USELESS.values()), look=range(1, config.rounds + 1))
    for kind, row in zip(USELESS, server.rounds.rows, strict=True):
        left_out = {**row["failed"], **row["refused"]}
        assert (kind, row["asked"], row["combined"], list(left_out)) == (kind, [0, 1, 2], 2, ["1"])
        assert len(left_out["1"]) < 600, kind
        assert set(row["own"]) == {"0", "1", "2"}
    assert same(server.rounds.arrays, without_1(config.rounds))
    assert json.dumps(server.rounds.rows, allow_nan=False)


ODD = {
    "a figure that is none": {"loss": float("nan"), "norm": float("inf"), "joules": float("nan")},
    "lists for figures": {"loss": [1.0] * 1000, "joules": [0.5], "train_accuracy": []},
    "many figures": {f"x{place}": float(place) for place in range(1000)},
    "figures of odd names": {"<script>alert(1)</script>": 1, "=cmd()": 2.0, "long" * 1000: 3},
    "no figures": dict.fromkeys(("loss", "norm", "joules", "train_accuracy", "device_seconds", "seconds")),
}


def test_odd_figures_change_no_weight_and_are_not_kept(begun, ended, tmp_path):
    config, start = begun(rounds=len(ODD))
    plain = ended(config, start, tmp_path / "plain")
    server = ended(config, start, tmp_path / "odd", app=Bad("train", *(tells(**each) for each in ODD.values())))
    assert same(server.rounds.arrays, plain.rounds.arrays)
    for kind, row, other in zip(ODD, server.rounds.rows, plain.rounds.rows, strict=True):
        told = row["clients"]["1"]
        assert all(type(each) in (int, float) and np.isfinite(each) for each in told.values()), kind
        assert len(told) < 40, kind
        assert all(len(name) < 40 and name.replace("-", "_").isidentifier() for name in told), kind
        assert row["combined"] == 3
        assert row["clients"]["0"].keys() == other["clients"]["0"].keys()
    assert json.dumps(server.rounds.rows, allow_nan=False)


JUDGED = {
    "fails": fails,
    "says nothing": says(metrics=None),
    "more right than there are": tells(successes=100),
    "fewer than none": tells(successes=-1),
    "no number": tells(successes=float("nan")),
    "a list": tells(successes=[1, 2], count=[3]),
    "other samples": tells(count=10**6),
    "none": tells(successes=None, count=None),
    "is another": tells(client=0),
}


def test_what_a_client_says_of_its_own_accuracy_is_left_out_where_it_cannot_be(begun, ended, tmp_path):
    server = ended(*begun(rounds=len(JUDGED)), tmp_path, app=Bad("evaluate", *JUDGED.values()))
    for kind, row in zip(JUDGED, server.rounds.rows, strict=True):
        assert (kind, set(row["own"]), row["combined"]) == (kind, {"0", "2"}, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fails, "A client could not begin: RuntimeError: no power"),
        (tells(client=2), "Two nodes say that they are client 2"),
        (tells(client=3), "Expected a client from 0 to 2 .* got client 3"),
        (tells(client=-1), "Expected a client from 0 to 2 .* got client -1"),
        (tells(client=None), "does not say which client it is"),
        (tells(num_examples=None), "got client 1 with None and 4"),
        (tells(num_examples=0), "got client 1 with 0 and 4"),
        (tells(num_examples=float("nan")), "got client 1 with nan and 4"),
        (tells(held=-3), "got client 1 with 36 and -3"),
        (tells(held=[1] * 10**5), r"got client 1 with 36 and \[1, 1, 1, 1, 1, 1, \.\.\.\]"),
    ],
)  # fmt: skip
def test_a_federation_does_not_begin_with_a_client_that_does_not_say_who_it_is(begun, ended, tmp_path, change, message):
    with pytest.raises(RunError, match=message):
        ended(*begun(), tmp_path, app=Bad("query", change))


class Silent:
    """A grid on which client 1 never answers messages of one type."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, grid):
        self.grid = grid
        return self

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, timeout=None):
        kept = [
            each for each in messages if each.metadata.dst_node_id != 3 or not each.metadata.message_type.startswith(self.kind)
        ]
        return self.grid.send_and_receive(kept)


def test_the_rounds_go_on_without_a_client_that_does_not_answer(begun, ended, tmp_path, without_1):
    server = ended(*begun(local=CONSTANT), tmp_path, grid=Silent("train"))
    assert same(server.rounds.arrays, without_1(2))
    assert all(row["failed"] == {"1": "it did not answer in time"} for row in server.rounds.rows)
    server = ended(*begun(rounds=1), tmp_path / "evaluate", grid=Silent("evaluate"))
    assert set(server.rounds.rows[0]["own"]) == {"0", "2"}


def test_a_client_that_does_not_come_is_named(begun, ended, tmp_path):
    with pytest.raises(RunError, match="Expected 3 clients; 1 did not come in time"):
        ended(*begun(), tmp_path, grid=Silent("query"), timeout=0.3)


class Away:
    """A grid of clients 0 and 2 with a stranger that answers nothing, and of client 1 where `first` has a node for it: when the clients are
    met, and before each round."""

    def __init__(self, *first):
        self.first = list(first)

    def __call__(self, grid):
        self.grid = grid
        return self

    def get_node_ids(self):
        self.here = [2, *[node for node in [self.first.pop(0)] if node], 4, 99]
        return self.here

    def send_and_receive(self, messages, timeout=None):
        answers = []
        for message in messages:
            node = message.metadata.dst_node_id
            assert node in self.here
            message.metadata.dst_node_id = 3 if node == 30 else node
            answers += [] if node == 99 else self.grid.send_and_receive([message])
            if node == 30:
                answers[-1].metadata._src_node_id = node
        return answers


def test_a_client_that_leaves_may_come_back_with_another_node(begun, ended, tmp_path):
    server = ended(*begun(rounds=4), tmp_path, grid=Away(3, 3, None, None, 30))
    assert [row["failed"] for row in server.rounds.rows] == [{}, {"1": "it is not here"}, {"1": "it is not here"}, {}]
    assert [set(row["own"]) for row in server.rounds.rows] == [{"0", "1", "2"}, {"0", "2"}, {"0", "2"}, {"0", "1", "2"}]


def test_a_federation_is_taken_up_without_a_client_that_stays_away(begun, ended, tmp_path):
    config, start = begun(rounds=3)
    with pytest.raises(KilledError):
        ended(config, start, tmp_path, told=cut_told(1))
    server = ended(config, start, tmp_path, grid=Silent("query"), timeout=0.3)
    assert [row["failed"] for row in server.rounds.rows] == [{}, {"1": "it is not here"}, {"1": "it is not here"}]
    assert [row["combined"] for row in server.rounds.rows] == [3, 2, 2]


def test_answers_in_another_order_change_nothing(begun, ended, outcome, tmp_path):
    class Backwards(Silent):
        def send_and_receive(self, messages, timeout=None):
            return list(reversed(self.grid.send_and_receive(list(reversed(list(messages))))))

        def get_node_ids(self):
            return list(reversed(self.grid.get_node_ids()))

    config, start = begun()
    assert outcome(ended(config, start, tmp_path / "a", grid=Backwards(""))) == outcome(ended(config, start, tmp_path / "b"))


SEEN = ["nan", "inf", "million", "negative-samples", "shape"]


@pytest.mark.parametrize("kind", [*POISONS, *BACKDOORS])
def test_a_bad_client_is_refused_where_the_layer_can_see_it(begun, ended, tmp_path, without_1, kind):
    server = ended(*begun(poison={1: kind}, rounds=1, local=CONSTANT), tmp_path)
    (row,) = server.rounds.rows
    if kind in SEEN:
        assert same(server.rounds.arrays, without_1(1))
        assert (list(row["refused"]), row["combined"]) == (["1"], 2)
    else:
        assert not same(server.rounds.arrays, without_1(1))
        assert (row["refused"], row["combined"]) == ({}, 3)
        assert list(row["capped"]) == (["1"] if kind == "many-samples" else [])
    assert all(np.isfinite(each).all() for each in server.rounds.arrays.values())


@pytest.mark.filterwarnings("ignore:.*value encountered:RuntimeWarning")  # the network of a model that is infinite
@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        *((kind, "fedavg") for kind in POISONS),
        ("nan", "krum:malicious=0"),
        ("inf", "fedtrimmedavg"),
        ("shape", "bulyan:malicious=0"),
    ],
)
def test_without_the_layer_a_bad_client_may_win_but_breaks_nothing(
    begun, ended, few_digits, tmp_path, digits_test, kind, strategy
):
    server = ended(*begun(poison={1: kind}, limits={"on": False}, strategy=strategy), tmp_path, test=digits_test.take(50))
    assert server.rounds.round == 2
    assert [list(row["refused"]) for row in server.rounds.rows] == [
        ["1"] if kind == "shape" else []
    ] * 2  # what no strategy can take
    assert json.dumps(server.rounds.rows, allow_nan=False)


def test_negative_counts_that_cancel_out_leave_the_model_as_it_was(begun, ended, tmp_path):
    config, start = begun(clients=2, poison={1: "negative-samples"}, limits={"on": False})
    server = ended(config, start, tmp_path)
    assert same(server.rounds.arrays, arrays_of(start))
    assert [row["combined"] for row in server.rounds.rows] == [0, 0]


@pytest.mark.parametrize("kind", SEEN)
def test_the_model_stays_where_every_client_is_bad(begun, ended, tmp_path, kind):
    limits = {"norm": 100.0} if kind == "million" else {}  # they agree with one another: only a fixed bound can tell
    config, start = begun(rounds=1, poison=dict.fromkeys(range(3), kind), limits=limits)
    server = ended(config, start, tmp_path)
    assert same(server.rounds.arrays, arrays_of(start))
    assert model_hash(server.network()) == model_hash(start)
    assert [(row["combined"], sorted(row["refused"])) for row in server.rounds.rows] == [(0, ["0", "1", "2"])]


def test_the_model_stays_where_every_client_fails(begun, ended, tmp_path):
    config, start = begun()

    def none(app):
        return lambda message, context: app(message, context) if message.metadata.message_type != "train" else fails(None, None)

    server = ended(config, start, tmp_path, app=none)
    assert same(server.rounds.arrays, arrays_of(start))
    assert [(row["combined"], sorted(row["failed"])) for row in server.rounds.rows] == [(0, ["0", "1", "2"])] * 2


def test_the_model_stays_where_the_strategy_gets_too_few(begun, ended, tmp_path):
    config, start = begun(strategy="krum:malicious=1")
    server = ended(config, start, tmp_path)
    assert same(server.rounds.arrays, arrays_of(start))
    assert [(row["combined"], len(row["clients"])) for row in server.rounds.rows] == [(0, 3)] * 2


@pytest.mark.parametrize(("client", "kind"), [(3, "nan"), (-1, "nan"), (0, "sign")])
def test_bad_clients_that_cannot_be_are_refused(begun, tmp_path, client, kind):
    config, start = begun(poison={client: kind})
    with pytest.raises(ConfigError, match=r"Expected bad clients from 0 to 2|Unknown kind of bad client 'sign'"):
        Server(config, start, tmp_path)


# Against slow references.


def updates_of(config, start, round_=1):
    """The updates of all clients in a round that begins from `start`, and their numbers of samples."""
    site, arrays = Site(config), arrays_of(start)
    done = [work(site, client, round_, arrays)[0] for client in range(config.clients)]
    return [each.update for each in done], np.array([each.samples for each in done], np.float64)


def flat(arrays):
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in sorted(arrays)])


def moved(server, start):
    return flat(server.rounds.arrays) - flat(arrays_of(start))


UNEVEN = {"partition": "dirichlet:1:minimum=10", "rounds": 1}


def test_the_model_moves_by_the_mean_of_the_updates_by_samples(begun, ended, tmp_path):
    config, start = begun(**UNEVEN)
    updates, samples = updates_of(config, start)
    assert len(set(samples)) > 1
    expected = sum(n * flat(update) for n, update in zip(samples, updates, strict=True)) / samples.sum()
    np.testing.assert_allclose(moved(ended(config, start, tmp_path / "a"), start), expected, atol=1e-6)
    half, _ = begun(**UNEVEN, server_rate=0.5)
    np.testing.assert_allclose(moved(ended(half, start, tmp_path / "b"), start), expected / 2, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_one_client_alone_is_training_without_a_federation(begun, ended, tmp_path, model):
    """Bit for bit, with its change added to the weights; and its first round is `train` up to the rounding of that addition."""
    config, start = begun(model=model, clients=1, local={"batch_size": 16, "epochs": 2, "augmentation": "none"})
    server = ended(config, start, tmp_path)
    data, _ = Site(config).samples(0)
    arrays, trained = arrays_of(start), []
    for round_ in (1, 2):
        plain = Site(config).network(0)
        load_arrays(plain, arrays)
        train(plain, data, config.training(0, round_))
        trained.append(arrays_of(plain))
        arrays = {name: each + (trained[-1][name] - each) for name, each in arrays.items()}
    assert same(server.rounds.arrays, arrays)
    assert [row["combined"] for row in server.rounds.rows] == [1, 1]
    np.testing.assert_allclose(flat(arrays), flat(trained[-1]), rtol=1e-6, atol=1e-6)


def test_the_rows_say_what_was_measured(begun, ended, digits_test, tmp_path):
    config, start = begun()
    test = digits_test.take(60)
    rows = ended(config, start, tmp_path, test=test).rounds.rows
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        assert row["test"]["count"] == 60
        assert all(count == 4 and 0 <= right <= 4 for right, count in row["own"].values())
        assert all(
            told["num-examples"] == 36 and told["norm"] > 0 and told["bytes_up"] > 11000 for told in row["clients"].values()
        )


def test_compression_sends_its_payload_and_keeps_the_rest_for_the_next_round(begun, ended, tmp_path):
    config, start = begun(clients=1, compression="top-k:0.05")
    server = ended(config, start, tmp_path)
    scheme, arrays, residual = parse(config.compression), arrays_of(start), None
    for round_ in (1, 2):
        update = work(Site(config), 0, round_, arrays)[0].update
        packed = compress(update, scheme, stream(0, "unused"), residual)
        residual = packed.residual
        arrays = {name: each + packed.seen[name] for name, each in arrays.items()}
    assert same(server.rounds.arrays, arrays)
    size = payload_size(scheme, {name: each.shape for name, each in arrays.items()})
    assert all(size < row["clients"]["0"]["bytes_up"] < size + 200 for row in server.rounds.rows)


def test_local_statistics_stay_with_the_clients(begun, ended, digits_test, tmp_path):
    config, start = begun(statistics="local", holdout=0.5, local={"batch_size": 8, "epochs": 12, "optimizer": "adamw"})
    server = ended(config, start, tmp_path, test=digits_test.take(50))
    staying = {name for name in arrays_of(start) if name.endswith(("running_mean", "running_var"))}
    assert staying
    assert not staying & server.rounds.arrays.keys()
    assert all("test" not in row for row in server.rounds.rows)  # there is no global model
    owns = [own_before(tmp_path / "clients" / f"{client:04d}", 3) for client in range(3)]
    assert all(own.keys() == staying for own in owns)
    assert len({flat(own).tobytes() for own in owns}) == 3
    right = [judge(Site(config), client, server.rounds.arrays, own)["successes"] for client, own in enumerate(owns)]
    before = [own_before(tmp_path / "clients" / f"{client:04d}", 2) for client in range(3)]
    assert right != [judge(Site(config), client, server.rounds.arrays, own)["successes"] for client, own in enumerate(before)]
    assert server.rounds.rows[-1]["own"] == {str(client): [each, 20] for client, each in enumerate(right)}
    model = arrays_of(server.network())
    assert same({name: model[name] for name in staying}, {name: arrays_of(start)[name] for name in staying})


# Secure aggregation.


class Drops(Bad):
    """Some clients fail from a stage on."""

    def __init__(self, kind, clients):
        self.kind, self.clients = kind, clients

    def __call__(self, app):
        def answer(message, context):
            if context.node_config["partition-id"] in self.clients and message.metadata.message_type == self.kind:
                raise RuntimeError("no power")
            return app(message, context)

        return answer


@pytest.mark.parametrize("stage", [None, "keys", "shares", "masked", "unmask"])
def test_the_secure_sum_is_the_plain_mean_within_its_bound(begun, ended, tmp_path, stage):
    config, start = begun(**UNEVEN, clients=4, secure={})
    server = ended(config, start, tmp_path, app=Drops(f"train.{stage}", [2]))
    updates, samples = updates_of(config, start)
    if stage in ("keys", "shares", "masked"):
        samples[2] = 0
    expected = sum(n * flat(update) for n, update in zip(samples, updates, strict=True)) / samples.sum()
    settings = settings_of(config)
    bound = np.count_nonzero(samples) * settings.step / 2 * settings.max_weight / samples.sum()
    assert np.abs(moved(server, start) - expected).max() <= bound + 1e-6
    (row,) = server.rounds.rows
    assert row["combined"] == np.count_nonzero(samples)
    assert list(row["failed"]) == ([] if stage is None else ["2"])
    assert stage is None or "no power" in row["failed"]["2"]
    assert all(("joules" in told) == (samples[int(client)] > 0) for client, told in row["clients"].items())


@pytest.mark.parametrize("stage", ["keys", "shares", "masked", "unmask"])
def test_a_secure_sum_of_too_few_is_none_and_the_model_stays(begun, ended, tmp_path, stage):
    config, start = begun(clients=4, secure={})
    server = ended(config, start, tmp_path, app=Drops(f"train.{stage}", [0, 2]))
    assert same(server.rounds.arrays, arrays_of(start))
    assert [row["combined"] for row in server.rounds.rows] == [0, 0]
    assert all("no power" in row["failed"]["0"] and "threshold is 3" in row["failed"]["1"] for row in server.rounds.rows)


@pytest.mark.parametrize("kind", POISONS)
def test_a_bad_client_breaks_no_secure_sum(begun, ended, tmp_path, kind):
    config, start = begun(clients=4, rounds=1, secure={}, poison={1: kind})
    server = ended(config, start, tmp_path)
    (row,) = server.rounds.rows
    assert list(row["failed"]) == (["1"] if kind in ("nan", "inf", "shape", "negative-samples") else [])
    assert np.abs(moved(server, start)).max() <= config.secure.clip
    assert np.isfinite(flat(server.rounds.arrays)).all()


GARBAGE = {
    "no record": says(record=None),
    "another kind": says(record=ConfigRecord({"kind": "Unmasking", "run": "x", "round": 1})),
    "no kind": says(record=ConfigRecord({"a": [1, 2]})),
    "figures for a record": says(record=MetricRecord({"kind": 1})),
    "tensors for a record": says(record=ArrayRecord({"vector": Array(np.ones(3))})),
    "cut short": lambda answer, message: says(
        record=ConfigRecord({
            name: each[:-1] if isinstance(each, bytes | list) else each for name, each in answer.content["record"].items()
        })
    )(answer, message),
}  # fmt: skip


@pytest.mark.parametrize("stage", ["keys", "shares", "masked", "unmask"])
def test_a_secure_sum_goes_on_without_one_who_answers_garbage(begun, ended, tmp_path, stage):
    config, start = begun(clients=4, rounds=len(GARBAGE), secure={}, holdout=0.0)
    server = ended(config, start, tmp_path, app=Bad(f"train.{stage}", *GARBAGE.values()))
    for kind, row in zip(GARBAGE, server.rounds.rows, strict=True):
        assert (kind, row["combined"], list(row["failed"])) == (kind, 4 if stage == "unmask" else 3, ["1"])
        assert f"(stage {stage})" in row["failed"]["1"]


@pytest.mark.parametrize("settings", [{"strategy": "fedmedian"}, {"compression": "top-k:0.1"}, {"clients": 1}])
def test_what_does_not_go_with_a_sum_is_refused(begun, tmp_path, settings):
    config, start = begun(secure={}, **settings)
    with pytest.raises(ConfigError, match=r"gives a sum alone|at least 2 clients"):
        Server(config, start, tmp_path)


# Privacy.


def test_with_privacy_of_clients_the_model_moves_by_the_plain_mean_of_clipped_updates_and_known_noise(begun, ended, tmp_path):
    config, start = begun(**UNEVEN, privacy={**DP, "sigma": 0.05, "clip": 100.0})
    updates, samples = updates_of(config, start)
    assert len(set(samples)) > 1
    found = {}
    for clip in (100.0, 0.7):
        config, _ = begun(**UNEVEN, privacy={**DP, "sigma": 0.05, "clip": clip})
        server = ended(config, start, tmp_path / f"{clip}")
        drawn = server.collector.source.normal(2, len(flat(updates[0])))
        found[clip] = moved(server, start) - 0.05 * clip / 3 * drawn
    np.testing.assert_allclose(found[100.0], sum(map(flat, updates)) / 3, atol=1e-6)
    sizes = [np.linalg.norm(flat(update)) for update in updates]
    assert min(sizes) > 0.7
    short = sum(0.7 / size * flat(update) for size, update in zip(sizes, updates, strict=True)) / 3
    np.testing.assert_allclose(found[0.7], short, atol=1e-6)


def test_a_clip_that_adapts_follows_the_share_of_the_norms_below_it(begun, ended, tmp_path):
    private = {**DP, "sigma": 0.1, "clip": 0.3, "adaptive": True, "quantile": 0.6, "clip_rate": 2.0}
    config, start = begun(rounds=3, local=CONSTANT, privacy=private)
    server = ended(config, start, tmp_path)
    clip = 0.3
    for row in server.rounds.rows:
        said, told = row["privacy"], row["clients"].values()
        assert said["clip"] == pytest.approx(clip)
        assert all(each["within"] == (each["norm"] <= clip) for each in told)
        noise = 3 / 20 * server.collector.source.normal(2 * row["round"] + 1, 1)[0]
        share = (sum(each["within"] - 0.5 for each in told) + noise) / 3 + 0.5
        assert said["share_within"] == pytest.approx(share)
        clip *= np.exp(-2.0 * (share - 0.6))
        assert said["next_clip"] == pytest.approx(clip)
    assert clip > 0.6  # no norm was below it in the first round


def test_privacy_of_clients_under_a_secure_sum_is_the_same_up_to_its_rounding(begun, ended, tmp_path):
    private = {**DP, "sigma": 0.05, "clip": 1.0}
    one, start = begun(**UNEVEN, privacy=private)
    two, _ = begun(**UNEVEN, privacy=private, secure={})
    plain, secure = (ended(each, start, tmp_path / each.sha256[:8]) for each in (one, two))
    settings = settings_of(two)
    assert np.abs(moved(plain, start) - moved(secure, start)).max() < settings.step + 1e-6


@pytest.mark.parametrize("kind", POISONS)
def test_a_bad_client_moves_a_private_model_by_its_clip_at_most(begun, ended, tmp_path, kind):
    private = {**DP, "sigma": 1e-3, "clip": 0.5}
    config, start = begun(rounds=1, privacy=private, poison={1: kind})
    server = ended(config, start, tmp_path / "bad")
    less = ended(begun(rounds=1, privacy=private)[0], start, tmp_path / "less", app=Bad("train", fails))
    assert np.linalg.norm(moved(server, start) - moved(less, start)) <= 0.5 / 3 * (1 + 1e-4)


def test_a_round_without_clients_releases_its_noise(begun, ended, tmp_path):
    config, start = begun(clients=2, fraction=0.01, rounds=1, privacy=DP)
    server = ended(config, start, tmp_path)
    (row,) = server.rounds.rows
    assert (row["asked"], row["combined"]) == ([], 0)
    drawn = server.collector.source.normal(2, len(moved(server, start)))
    np.testing.assert_allclose(moved(server, start), drawn / 0.02, rtol=1e-4, atol=1e-4)


def test_clients_are_charged_before_a_round_and_no_round_runs_beyond_the_budget(begun, ended, tmp_path):
    config, start = begun(rounds=4, privacy={**DP, "sigma": 2.0, "budget": 3.5})
    with pytest.raises(PrivacyBudgetError, match=r"Round 3 would take .* beyond the budget of 3.5"):
        ended(config, start, tmp_path)
    asked = []

    def watched(app):
        return lambda message, context: (asked.append(message.metadata.message_type), app(message, context))[1]

    with pytest.raises(PrivacyBudgetError):
        ended(config, start, tmp_path, app=watched)
    assert set(asked) == {"query"}
    rounds = Server(config, start, tmp_path / "rounds").rounds
    assert rounds.round == 2
    assert rounds.rows[-1]["privacy"]["eps"] == pytest.approx(3.189, abs=1e-3)


@pytest.mark.parametrize("kind", ["client", "sample", "sample, secure"])
def test_a_round_that_is_killed_is_charged_again_where_its_noise_is_drawn_anew(begun, ended, tmp_path, kind):
    """Clients have seen the model of the killed round, or the server an update: with fresh noise the next is one more release."""
    private = {**DP, "unit": kind.partition(",")[0], "seeded": False}
    config, start = begun(norm="none", privacy=private, **({"secure": {}} if "secure" in kind else {}))
    with pytest.raises(KilledError):
        ended(config, start, tmp_path, grid=Cut(2, "evaluate"))
    ledger = ended(config, start, tmp_path).collector.ledger
    accounts = {row["account"] for row in ledger.rows()}
    assert len(accounts) == (1 if kind == "client" else 3)
    for account in accounts:
        assert [(row["round"], row["attempt"]) for row in ledger.rows() if row["account"] == account] == [(1, 0), (2, 0), (2, 1)]


@pytest.mark.parametrize("epochs", [1, 4])
def test_clients_train_with_the_noise_that_they_are_charged_for(begun, ended, tmp_path, monkeypatch, epochs):
    """Stragglers as well, who do less of a round, and clients with fewer samples than a batch."""
    used = set()

    def watched(model, data, settings, privacy):
        used.add((privacy.sigma, settings.batch_size / len(data)))

    monkeypatch.setattr("trustsnn.federated.client.train_private", watched)
    monkeypatch.setattr(
        "trustsnn.defenses.dp.privacy.noise_for", lambda eps, accountant, *, rate, steps, delta: 1.0 + steps / 100
    )
    monkeypatch.setattr("trustsnn.defenses.dp.privacy.epsilon", lambda accountant, **spent: 1.0)
    monkeypatch.setattr("trustsnn.federated.ledger._eps", lambda accountant, history, delta: 1.0)
    config, start = begun(
        norm="none", clients=5, partition="dirichlet:0.5:minimum=4", privacy={"unit": "sample", "eps": 8.0, "accountant": "rdp"},
        local={"batch_size": 16, "epochs": epochs}, fleet={"stragglers": 0.5, "straggler_work": 0.5},
    )  # fmt: skip
    server = ended(config, start, tmp_path)
    assert used
    assert used <= {(row["sigma"], row["rate"]) for row in server.collector.ledger.rows()}


def test_what_private_clients_tell_says_nothing_of_the_samples_that_they_trained_on(begun, ended, tmp_path):
    for holdout in (0.1, 0.0):
        config, start = begun(norm="none", rounds=1, privacy=SAMPLES, holdout=holdout)
        (row,) = ended(config, start, tmp_path / f"{holdout}").rounds.rows
        for told in row["clients"].values():
            named = {"num-examples", "norm", "seconds", "bytes_up", "bytes_down", "radio_joules"}
            assert told.keys() == named | ({"joules", "device_seconds"} if holdout else set())


def test_what_clients_tell_beside_a_masked_update_says_nothing_of_it(begun, ended, tmp_path):
    (row,) = ended(*begun(rounds=1, secure={}), tmp_path).rounds.rows
    for told in row["clients"].values():
        assert told.keys() == {"joules", "device_seconds", "seconds", "bytes_up", "bytes_down", "radio_joules"}


def test_privacy_of_clients_goes_with_a_mean_alone(begun, tmp_path):
    for settings in ({"strategy": "krum"}, {"secure": {}, "fraction": 0.5, "clients": 4}):
        config, start = begun(privacy=DP, **settings)
        with pytest.raises(ConfigError, match=r"fedavg|every client in every round"):
            Server(config, start, tmp_path)
