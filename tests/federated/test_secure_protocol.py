"""The whole protocol: the sum whoever drops out, what the server sees, and every request that an honest party refuses."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st
from scipy.stats import chisquare

from trustsnn.errors import ConfigError, ProtocolError
from trustsnn.federated.secure import (
    STAGES,
    Client,
    Cohort,
    MaskedInput,
    PublicKeys,
    SealedShares,
    Server,
    Settings,
    Unmasking,
    UnmaskRequest,
    aggregate,
    flatten,
    layout_of,
    quantise,
)
from trustsnn.federated.secure.keys import add_mask, pair_key, pair_sign, self_key, session_of
from trustsnn.federated.secure.shamir import SHARE_BYTES, combine

ROOT = Path(__file__).resolve().parents[2]
IDS = (0, 3, 10, 2**63, 2**64 - 1)
SETTINGS = Settings(clients=5, threshold=3, clip=1.0, max_weight=9)
KEYS, SHARES, INPUT, UNMASKING, DONE = range(5)


def updates_of(ids, seed: int = 0) -> dict[int, dict[str, np.ndarray]]:
    draws = np.random.default_rng(seed)
    return {i: {"w": draws.normal(0, 0.5, (2, 3)).astype("f4"), "a": draws.normal(0, 0.5, 4).astype("f4")} for i in ids}


def weights_of(ids) -> dict[int, int]:
    return {i: k % 9 + 1 for k, i in enumerate(ids)}


class Round:
    """Five clients and a server, run up to a stage; what is sent and asked is kept."""

    def __init__(self, stage: int = DONE, late=(), *, update=None, settings=SETTINGS, run="r", round=1, seed=0, order=1):
        source = random.Random(seed).randbytes
        layout = layout_of(update or updates_of(IDS)[0])
        self.server = Server(settings, run, round, IDS, layout)
        self.clients = {i: Client(i, settings, run, round, random=source) for i in IDS}
        self.late = late  # those whose masked input does not reach the server
        self.order = order
        if stage > KEYS:
            self.advertised = self.gather(lambda i: self.clients[i].advertise_keys())
            self.cohort = self.server.cohort()
        if stage > SHARES:
            self.sealed = self.gather(lambda i: self.clients[i].share_keys(self.cohort))
            self.boxes = self.server.relayed()
        if stage > INPUT:
            updates = dict.fromkeys(IDS, update) if update else updates_of(IDS)
            weights = weights_of(IDS)
            self.inputs = self.gather(lambda i: self.clients[i].masked_input(self.boxes[i], updates[i], weights[i]), late)
            self.request = self.server.unmask_request()
        if stage > UNMASKING:
            self.unmaskings = self.gather(lambda i: self.clients[i].unmask(self.request))
            self.total = self.server.total()

    def gather(self, answer, late=()):
        answers = {i: answer(i) for i in self.server.expected}
        for i in self.server.expected[:: self.order]:
            if i not in late:
                self.server.receive(i, answers[i])
        return answers


def check_sum(total, updates, weights, settings) -> None:
    scale = {i: weights[i] / settings.max_weight for i in total.clients}
    for name, values in total.sums.items():
        plain = sum(np.clip(updates[i][name].astype(float), -settings.clip, settings.clip) * scale[i] for i in total.clients)
        assert np.all(np.abs(values - plain) <= len(total.clients) * settings.step / 2 * (1 + 1e-6))
    assert total.weight == sum(weights[i] for i in total.clients)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_sum_is_that_of_those_who_sent_an_input_whoever_drops_out(stage, number):
    updates, weights = updates_of(IDS), weights_of(IDS)
    for gone in combinations(IDS, number):
        total = aggregate(updates, SETTINGS, {stage: gone}, weights=weights)
        assert total.clients == tuple(i for i in IDS if i not in gone or stage == "unmask")
        check_sum(total, updates, weights, SETTINGS)


@configured(deadline=None, max_examples=40)
@given(st.integers(2, 7), st.data())
def test_drop_outs_at_every_stage_at_once(n, data):
    threshold = data.draw(st.integers(n // 2 + 1, n))
    ids = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n, unique=True))
    gone = data.draw(st.dictionaries(st.sampled_from(ids), st.sampled_from(STAGES), max_size=n - threshold))
    settings = Settings(n, threshold, 0.7, 12, 9, data.draw(st.sampled_from([32, 64])))
    updates, weights = updates_of(ids, seed=n), weights_of(ids)
    drops = {stage: {i for i in gone if gone[i] == stage} for stage in STAGES}
    total = aggregate(updates, settings, drops, weights=weights)
    assert total.clients == tuple(sorted(i for i in ids if gone.get(i, "unmask") == "unmask"))
    check_sum(total, updates, weights, settings)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [3, 4, 5])
def test_below_the_threshold_the_round_stops_with_stage_number_and_threshold(stage, number):
    message = f"at the stage '{stage}' of run 'aggregate', round 7: {5 - number} of 5 clients answered, the threshold is 3"
    with pytest.raises(ProtocolError, match=message):
        aggregate(updates_of(IDS), SETTINGS, {stage: IDS[:number]}, round=7)


def test_a_server_that_stopped_goes_no_further():
    server = Server(SETTINGS, "r", 1, IDS, {})
    with pytest.raises(ProtocolError, match="0 of 5"):
        server.cohort()
    assert server.expected == ()
    with pytest.raises(ProtocolError, match="after the end"):
        server.receive(0, PublicKeys(run="r", round=1, keys=b""))
    with pytest.raises(ProtocolError, match="is at 'ended'"):
        server.relayed()


def test_the_mean_is_weighted():
    updates, weights = updates_of(IDS), weights_of(IDS)
    mean = aggregate(updates, SETTINGS, {"masked input": {3}}, weights=weights).mean()
    kept = [i for i in IDS if i != 3]
    for name in ("a", "w"):
        clipped = [np.clip(updates[i][name], -1, 1) for i in kept]
        expected = np.average(clipped, axis=0, weights=[weights[i] for i in kept])
        assert mean[name].dtype == np.float32
        assert np.allclose(mean[name], expected, atol=4 * 9 / sum(weights[i] for i in kept) * SETTINGS.step)
    with pytest.raises(ConfigError, match="no mean"):
        aggregate(updates, SETTINGS, weights=dict.fromkeys(IDS, 0)).mean()


def test_the_order_of_answers_and_the_randomness_do_not_change_the_sum():
    first = Round(late=(3,)).total
    for other in (Round(late=(3,), order=-1).total, Round(late=(3,), seed=9).total):
        assert other.clients == first.clients
        assert all(np.array_equal(other.sums[name], first.sums[name]) for name in first.sums)


def test_clients_go_on_from_their_saved_state():
    updates, saved = updates_of(IDS), {i: Client(i, SETTINGS, "r", 1).save() for i in IDS}
    server = Server(SETTINGS, "r", 1, IDS, layout_of(updates[0]))

    def step(i, act):
        client = Client.load(saved[i], SETTINGS)
        server.receive(i, act(client))
        saved[i] = client.save()

    for i in server.expected:
        step(i, lambda client: client.advertise_keys())
    cohort = server.cohort()
    for i in server.expected:
        step(i, lambda client: client.share_keys(cohort))
    boxes = server.relayed()
    for i in server.expected[1:]:
        step(i, lambda client: client.masked_input(boxes[i], updates[i], 2))  # noqa: B023
    request = server.unmask_request()
    for i in server.expected:
        step(i, lambda client: client.unmask(request))
    check_sum(server.total(), updates, dict.fromkeys(IDS, 2), SETTINGS)
    with pytest.raises(ProtocolError, match="is at 'ended'"):
        Client.load(saved[3], SETTINGS).unmask(request)


# What the server sees


def looks_random(view: np.ndarray, truth: np.ndarray) -> bool:
    """Chi-square over the values of the bytes, and no correlation with the truth beyond 5 standard errors."""
    p = chisquare(np.bincount(np.frombuffer(view.tobytes(), np.uint8), minlength=256)).pvalue
    correlation = np.corrcoef(view.view("<i4").astype(float), truth)[0, 1]
    return p > 1e-4 and abs(correlation) < 5 / np.sqrt(truth.size)


def views_are_random() -> bool:
    """Of one client's masked input, what the server has, and what is left when it takes off the masks whose secrets it may learn: its own
    where the client survives, or those of the pairs where its input comes too late. Never both."""
    update = {"w": np.linspace(-0.5, 0.5, 4095).astype("f4")}
    truth = np.append(update["w"], 0).astype(float)
    session = session_of(SETTINGS, "r", 1)
    views = []
    for late in (), (3,):
        done = Round(update=update, late=late)
        got = np.frombuffer(done.inputs[3].vector, "<u4").copy()
        views.append(got.copy())
        if late:
            private = combine({i: done.unmaskings[i].keys[3] for i in IDS[2:]})
            for peer in set(IDS) - {3}:
                add_mask(got, pair_key(session, private, 3, peer, done.cohort.keys), -pair_sign(3, peer))
        else:
            add_mask(got, self_key(session, combine({i: done.unmaskings[i].seeds[3] for i in IDS[2:]}), 3), -1)
        views.append(got)
    return all(looks_random(view, truth) for view in views)


def test_what_the_server_sees_of_one_client_is_random():
    assert views_are_random()


@pytest.mark.parametrize("missing", ["self_key", "pair_key"])
def test_a_client_without_one_kind_of_mask_would_be_seen(monkeypatch, missing):
    module = "trustsnn.federated.secure.client"
    monkeypatch.setattr(f"{module}.{missing}", lambda *arguments: b"none")
    monkeypatch.setattr(f"{module}.add_mask", lambda vector, key, sign: None if key == b"none" else add_mask(vector, key, sign))
    monkeypatch.setattr("trustsnn.federated.secure.server.dequantise", lambda *arguments: (np.zeros(4095), 0))
    assert not views_are_random()


def test_the_plain_vector_would_be_seen():
    update = np.linspace(-0.5, 0.5, 4095).astype("f4")
    assert not looks_random(quantise(update, SETTINGS), np.append(update, 0).astype(float))


def test_equal_updates_give_different_vectors_and_again_in_each_round():
    update = updates_of([0])[0]
    vectors = [each.vector for done in (Round(update=update), Round(update=update, seed=1)) for each in done.inputs.values()]
    assert len(set(vectors)) == len(vectors)
    words = np.array([np.frombuffer(vector, "<u4") for vector in vectors])
    assert all(len(set(column)) == len(column) for column in words.T)


def test_the_same_randomness_in_another_round_or_run_gives_other_masks():
    vectors = {Round(round=r, run=run).inputs[3].vector for r, run in ((1, "r"), (2, "r"), (1, "s"))}
    assert len(vectors) == 3


def test_the_server_is_sent_one_share_of_each_client_and_reads_no_sealed_one():
    done = Round(late=(3,))
    for unmasking in done.unmaskings.values():
        assert set(unmasking.keys) == {3}
        assert set(unmasking.seeds) == set(IDS) - {3}
    sealed = b"".join(box for each in done.sealed.values() for box in each.sealed.values())
    assert not any(share in sealed for each in done.unmaskings.values() for share in [*each.seeds.values(), *each.keys.values()])


def test_seeds_and_keys_are_fresh_in_every_round_and_forgotten_when_they_are_used():
    seeds, keys, kept = [], [], Round(UNMASKING).clients[3].save()
    assert not any(kept[name] for name in ("channel", "mask", "seed", "keys"))
    for seed in (0, 1):
        done = Round(seed=seed)
        seeds += [combine({i: done.unmaskings[i].seeds[who] for i in IDS[:3]}) for who in IDS]
        keys += [half for each in done.advertised.values() for half in (each.keys[:32], each.keys[32:])]
    assert len(set(seeds)) == 10
    assert len(set(keys)) == 20
    assert Client(3, SETTINGS, "r", 1).advertise_keys() != Client(3, SETTINGS, "r", 1).advertise_keys()


# What a client refuses


def requested(survivors, dropped=(), **of) -> UnmaskRequest:
    return UnmaskRequest(**{"run": "r", "round": 1, "survivors": tuple(survivors), "dropped": tuple(dropped), **of})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (requested(IDS, (10,)), "the share of the seed and of the key of client 10, which together"),
        (requested(IDS[:4]), "others than the 5"),
        (requested((*IDS[:4], 77), ()), "others than the 5"),
        (requested(IDS, (77,)), "others than the 5"),
        (requested((*IDS, 0)), "others than the 5"),
        (requested(IDS[2:], IDS[:2]), "as if it had sent no masked input"),
        (requested(IDS[:2], IDS[2:]), "2 of 5 clients answered, the threshold is 3"),
        (requested(IDS, run="s"), "Expected a message of run 'r', round 1 at client 3, got one of run 's'"),
        (requested(IDS, round=2), "round 2"),
        (Cohort(run="r", round=1, keys={}), "kind UnmaskRequest at client 3, got Cohort"),
    ],
)
def test_a_request_to_unmask_that_is_not_as_agreed_ends_the_round_for_the_client(request_, message):
    client = Round(UNMASKING).clients[3]
    with pytest.raises(ProtocolError, match=message):
        client.unmask(request_)
    with pytest.raises(ProtocolError, match="is at 'ended'"):
        client.unmask(requested(IDS))
    assert {name: value for name, value in client.save().items() if value} == {
        "kind": "ClientState", "run": "r", "round": 1, "id": 3, "stage": "ended",
    }  # fmt: skip


def test_each_stage_is_answered_once():
    done, update = Round(), updates_of([0])[0]
    late = Round(UNMASKING)
    with pytest.raises(ProtocolError, match="was asked for the stage 'unmask', but is at 'ended': each is answered once"):
        done.clients[3].unmask(done.request)
    with pytest.raises(ProtocolError, match="is at 'unmask'"):
        late.clients[3].masked_input(late.boxes[3], update)  # two vectors under the same masks would show their difference
    with pytest.raises(ProtocolError, match="is at 'unmask'"):
        late.clients[3].share_keys(late.cohort)
    with pytest.raises(ProtocolError, match="is at 'unmask'"):
        late.clients[3].advertise_keys()
    assert late.clients[3].unmask(late.request) == done.unmaskings[3]  # a request out of turn ends nothing


def without(items: dict, key) -> dict:
    return {k: v for k, v in items.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda keys: dict(list(keys.items())[:2]), "at the stage 'share keys' of run 'r', round 1: 2 of 5"),
        (lambda keys: {**keys, 77: bytes(64)}, "at most 5 clients in the cohort of client 3, got 6"),
        (lambda keys: without(keys, 3), "does not hold the public keys that client 3"),
        (lambda keys: {**keys, 3: keys[3][::-1]}, "does not hold the public keys that client 3"),
        (lambda keys: {**keys, 10: keys[0]}, "the same"),
        (lambda keys: {**keys, 10: keys[0][32:] + keys[10][32:]}, "the same"),
        (lambda keys: {**keys, 10: keys[10][:63]}, "64 bytes"),
        (lambda keys: {**keys, 10: bytes(32) + keys[10][32:]}, "public key of client 10 is not one of X25519"),
    ],
)
def test_a_cohort_that_is_not_as_agreed_is_refused(change, message):
    done = Round(SHARES)
    with pytest.raises(ProtocolError, match=message):
        done.clients[3].share_keys(replace(done.cohort, keys=change(done.cohort.keys)))


@pytest.mark.parametrize("byte", [0, 11, 12, 77, 93])
def test_an_altered_share_is_refused(byte):
    done = Round(INPUT)
    box = done.boxes[3].sealed
    altered = bytearray(box[10])
    altered[byte] ^= 1
    with pytest.raises(ProtocolError, match="as from client 10 do not open: they were altered, replayed"):
        done.clients[3].masked_input(replace(done.boxes[3], sealed={**box, 10: bytes(altered)}), updates_of([0])[0])


@pytest.mark.parametrize("source", ["round", "run", "settings", "pair", "reflected", "cut", "empty"])
def test_a_share_of_elsewhere_is_refused_even_under_the_same_keys(source):
    done = Round(INPUT)
    there = {
        "round": lambda: Round(INPUT, round=2).boxes[3].sealed[10],
        "run": lambda: Round(INPUT, run="s").boxes[3].sealed[10],
        "settings": lambda: Round(INPUT, settings=replace(SETTINGS, bits=19)).boxes[3].sealed[10],
        "pair": lambda: done.boxes[0].sealed[10],
        "reflected": lambda: done.boxes[10].sealed[3],
        "cut": lambda: done.boxes[3].sealed[10][:-1],
        "empty": lambda: b"",
    }[source]()
    again = Round(INPUT)  # the same randomness, hence the same keys: only the binding differs
    assert again.cohort == done.cohort
    with pytest.raises(ProtocolError, match="do not open"):
        again.clients[3].masked_input(replace(again.boxes[3], sealed={**again.boxes[3].sealed, 10: there}), updates_of([0])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda box: {0: box[0]}, "at the stage 'masked input' of run 'r', round 1: 2 of 5"),
        (lambda box: {**box, 3: box[0]}, "from itself or from one who is not of its cohort"),
        (lambda box: {**box, 77: box[0]}, "from itself or from one who is not of its cohort"),
    ],
)
def test_a_box_of_shares_that_is_not_as_agreed_is_refused(change, message):
    done = Round(INPUT)
    with pytest.raises(ProtocolError, match=message):
        done.clients[3].masked_input(replace(done.boxes[3], sealed=change(done.boxes[3].sealed)), updates_of([0])[0])


def test_a_bad_update_leaves_the_client_where_it_was():
    done, update = Round(INPUT), updates_of([0])[0]
    with pytest.raises(ConfigError, match="finite"):
        done.clients[3].masked_input(done.boxes[3], {**update, "a": np.full(4, np.nan, np.float32)})
    assert done.clients[3].masked_input(done.boxes[3], update)


@pytest.mark.parametrize(("id_", "round_"), [(-1, 1), (2**64, 1), (1.0, 1), (1, -1), (True, 1)])
def test_ids_and_rounds_have_64_bits(id_, round_):
    with pytest.raises(ConfigError, match="from 0 to 2"):
        Client(id_, SETTINGS, "r", round_)


# What the server refuses


def test_the_server_refuses_and_goes_on():
    ready, done = Round(KEYS), Round(late=(3,))
    server, of = ready.server, {"run": "r", "round": 1}

    def refuses(sender, message, match):
        with pytest.raises(ProtocolError, match=match):
            server.receive(sender, message)

    def take(messages, senders=IDS):
        for i in senders:
            server.receive(i, messages[i])
            refuses(i, messages[i], f"second message from client {i}")
        refuses(77, messages[0], "client 77 at the server, who is not among those asked")

    keys = done.advertised[0]
    refuses(0, replace(keys, round=2), "got one of run 'r', round 2")
    refuses(0, replace(keys, run="s"), "got one of run 's'")
    refuses(0, done.sealed[0], "kind PublicKeys from client 0 at the server, got SealedShares")
    refuses(0, replace(keys, keys=keys.keys[:63]), "two public keys")
    refuses(0, replace(keys, keys=keys.keys[:32] * 2), "two public keys")
    with pytest.raises(ProtocolError, match="told to close the stage 'unmask', but is at 'advertise keys'"):
        server.total()
    take(done.advertised, IDS[:4])
    refuses(IDS[4], replace(keys, keys=keys.keys[:32] + bytes(32)), "that no other has")
    server.receive(IDS[4], done.advertised[IDS[4]])
    assert server.cohort() == done.cohort

    sealed = done.sealed[0].sealed
    refuses(0, keys, "kind SealedShares")
    refuses(0, SealedShares(**of, sealed=without(sealed, 3)), "for each other client of the cohort")
    refuses(0, SealedShares(**of, sealed={**sealed, 77: sealed[3]}), "for each other client of the cohort")
    refuses(0, SealedShares(**of, sealed={**sealed, 3: sealed[3][:-1]}), "Expected 94 bytes")
    take(done.sealed)
    assert server.relayed() == done.boxes

    refuses(0, MaskedInput(**of, vector=done.inputs[0].vector[:-1]), "masked vector of 44 bytes from client 0, got 43. Do all")
    take(done.inputs, [i for i in IDS if i != 3])
    assert server.unmask_request() == done.request

    refuses(3, done.inputs[3], "client 3 at the server, who is not among those asked for the stage 'unmask'")  # too late
    good = done.unmaskings[0]
    refuses(0, replace(good, seeds=without(good.seeds, 10)), "for each that was asked for")
    refuses(0, replace(good, keys={**good.keys, 0: good.keys[3]}), "for each that was asked for")
    refuses(0, replace(good, keys={3: good.keys[3] + b"0"}), "33 bytes")
    take(done.unmaskings, [i for i in IDS if i != 3])
    total = server.total()
    check_sum(total, updates_of(IDS), weights_of(IDS), SETTINGS)
    with pytest.raises(ProtocolError, match="is at 'ended'"):
        server.total()


@pytest.mark.parametrize(("of", "message"), [("seeds", "outside of what"), ("keys", "mask key of client 3 do not give it")])
def test_a_wrong_share_gives_an_error_and_no_sum(of, message):
    done = Round(UNMASKING, late=(3,))
    for i in done.server.expected:
        answer: Unmasking = done.clients[i].unmask(done.request)
        if i == 0:
            wrong = {
                who: (int.from_bytes(share, "big") ^ 1).to_bytes(SHARE_BYTES, "big") for who, share in getattr(answer, of).items()
            }
            answer = replace(answer, **{of: wrong})
        done.server.receive(i, answer)
    with pytest.raises(ProtocolError, match=f"{message}|do not fit together"):
        done.server.total()


@pytest.mark.parametrize("ids", [(1, 2), range(6), (1, 2, -1), (1, 1, 2), (1, 2, 3.0)])
def test_a_server_of_too_few_or_too_many_is_refused(ids):
    with pytest.raises(ConfigError, match="Expected 3 to 5 clients"):
        Server(SETTINGS, "r", 1, tuple(ids), {})


def test_the_driver_refuses_what_does_not_fit():
    updates = updates_of(IDS)
    with pytest.raises(ConfigError, match="got mask"):
        aggregate(updates, SETTINGS, {"mask": {0}})
    with pytest.raises(ConfigError, match="same names and shapes"):
        aggregate({**updates, 3: {"w": updates[3]["w"]}}, SETTINGS)


def test_the_example_of_the_documentation_runs():
    text = (ROOT / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102
    assert names["total"].clients == (1, 3, 4)


def test_the_vector_is_that_of_the_sorted_names():
    done = Round(late=(3,))
    updates, weights = updates_of(IDS), weights_of(IDS)
    kept = [i for i in IDS if i != 3]
    integers = sum(quantise(flatten(updates[i]), SETTINGS, weights[i]).view("<i4").astype(int) for i in kept)
    assert np.array_equal(flatten(done.total.sums), (integers[:-1] * SETTINGS.step).astype("f4"))
