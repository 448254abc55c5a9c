"""The fleet and what a round costs it: shares kept, draws that depend on nothing but seed, round and client, joules by hand."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trustsnn.canonical import sha256_of
from trustsnn.energy.conventions import Work
from trustsnn.errors import ConfigError
from trustsnn.federated.costs import RADIOS, Cost, CostSettings, Radio, closes_after, round_cost, total
from trustsnn.federated.devices import Fleet, FleetSettings, Turn, by_share, settings_of


def fleet_settings(given):
    return settings_of(FleetSettings, given, "the fleet")


MIXED = """
dropout: 0.2
stragglers: {0.5: 0.5, 1: 0.1}
straggler_work: 0.4
joins: {5: 0.25}
steps: {8: 0.5, 4: 0.5}
slowdown: {3: 0.1}
twins: {pcm@1month+adc:output_bits=8: 0.3, loihi: 0.2}
"""


@pytest.fixture(scope="module")
def mixed():
    return fleet_settings(yaml.safe_load(MIXED))


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 60), max_size=5), st.integers(1, 60), st.integers(1, 300))
def test_each_kind_has_its_share(parts, rest, count):
    whole = sum(parts.values()) + rest
    shares = {value: part / whole for value, part in parts.items()}
    found = Counter(by_share(shares, -1, count))
    assert sum(found.values()) == count
    for value, share in {**shares, -1: rest / whole}.items():
        assert abs(found[value] - share * count) < 1 + 1e-6


def test_thirds_and_halves_are_exact():
    assert by_share({4: 0.5, 8: 0.5}, 0, 5) == [4, 4, 4, 8, 8]
    assert by_share({1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, 0, 6) == [1, 1, 2, 2, 3, 3]
    assert by_share({1: 0.1, 2: 0.2, 3: 0.7}, 0, 10) == [1, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert by_share({}, "all", 3) == ["all"] * 3


def test_a_fleet_has_the_shares_of_its_settings(mixed):
    fleet = Fleet.draw(mixed, 40, seed=1)
    assert [device.client for device in fleet.devices] == list(range(40))
    for trait, expected in {
        "dropout": {0.2: 40},
        "straggling": {0.5: 20, 1.0: 4, 0.0: 16},
        "straggler_work": {0.4: 40},
        "first_round": {5: 10, 1: 30},
        "steps": {4: 20, 8: 20},
        "slowdown": {3.0: 4, 1.0: 36},
        "twin": {"pcm@1month+adc:output_bits=8": 12, "loihi": 8, None: 20},
    }.items():
        assert Counter(getattr(device, trait) for device in fleet.devices) == expected
    assert Fleet.draw(mixed, 40, seed=1) == fleet
    assert Fleet.draw(mixed, 40, seed=2).devices != fleet.devices
    assert fleet.devices[0].steps is not None
    assert Fleet.draw(FleetSettings(), 3, 0).devices[2].steps is None


def test_the_order_of_the_settings_and_a_round_trip_change_nothing(mixed):
    backwards = yaml.safe_load(MIXED)
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in reversed(backwards.items())
    }
    again = fleet_settings(json.loads(json.dumps(mixed.model_dump(mode="json"), sort_keys=True)))
    for other in (fleet_settings(backwards), again):
        assert other == mixed
        assert sha256_of(other.model_dump(mode="json")) == sha256_of(mixed.model_dump(mode="json"))
        assert Fleet.draw(other, 40, 1) == Fleet.draw(mixed, 40, 1)


def test_traits_are_drawn_apart(mixed):
    """Another share of one trait leaves the others where they were; and one trait says nothing about another."""
    changed = fleet_settings({**yaml.safe_load(MIXED), "twins": {"loihi": 0.5}})
    before, after = Fleet.draw(mixed, 40, 1), Fleet.draw(changed, 40, 1)
    assert [device.steps for device in before.devices] == [device.steps for device in after.devices]
    both = sum(device.steps == 4 and device.straggling == 0.5 for device in Fleet.draw(mixed, 400, 1).devices)
    assert abs(both - 100) < 30


def test_a_turn_is_of_seed_round_and_client_alone(mixed):
    fleet = Fleet.draw(mixed, 20, 3)
    turns = {(round_, client): fleet.turn(round_, client) for round_ in range(1, 9) for client in range(20)}
    resumed = Fleet.draw(mixed, 20, 3)
    for round_, client in reversed(turns):
        assert resumed.turn(round_, client) == turns[round_, client]
    assert resumed.turns(4, [7, 3]) == {3: turns[4, 3], 7: turns[4, 7]}
    assert Fleet(fleet.devices, 4).turns(6, range(20)) != fleet.turns(6, range(20))
    assert fleet.turns(6, range(20)) != fleet.turns(7, range(20))


def test_devices_drop_out_and_straggle_as_often_as_they_should():
    settings = fleet_settings({"dropout": 0.3, "stragglers": 0.5, "straggler_work": 0.5})
    fleet = Fleet.draw(settings, 50, 0)
    reasons = Counter(fleet.turn(round_, client).reason for round_ in range(1, 101) for client in range(50))
    for reason, chance in (("dropped out", 0.3), ("straggler", 0.35), ("", 0.35)):
        assert abs(reasons[reason] - 5000 * chance) < 4 * np.sqrt(5000 * chance * (1 - chance))
    every = Fleet.draw(FleetSettings(), 5, 0)
    assert all(every.turn(round_, client) == Turn(1.0) for round_ in range(1, 30) for client in range(5))
    none = Fleet.draw(fleet_settings({"dropout": 1}), 5, 0)
    assert not any(none.turn(round_, client).answers for round_ in range(1, 30) for client in range(5))


def test_noise_on_an_update_is_that_of_its_tensor_and_round():
    fleet = Fleet.draw(fleet_settings({"noise": {0.5: 0.5}}), 2, 0)
    noisy = next(device.client for device in fleet.devices if device.noise)
    update = {"small": np.full((200, 300), 0.01, np.float32), "large": np.linspace(-6, 2, 60_000, dtype=np.float32)}
    assert fleet.noisy(update, 1, 1 - noisy) is update
    found = fleet.noisy(update, 1, noisy)
    for name, value in update.items():
        off = found[name] - value
        assert found[name].dtype == np.float32
        assert abs(off.mean()) < 0.01 * np.abs(value).mean()
        assert off.std() == pytest.approx(0.5 * np.abs(value).mean(), rel=0.02)
    again, later = fleet.noisy(dict(reversed(update.items())), 1, noisy), fleet.noisy(update, 2, noisy)
    assert all((again[name] == found[name]).all() and (later[name] != found[name]).any() for name in update)


def test_who_joins_late_is_not_there_before():
    fleet = Fleet.draw(fleet_settings({"joins": {4: 0.5}}), 10, 0)
    there = [sum(turn.answers for turn in fleet.turns(round_, range(10)).values()) for round_ in (1, 3, 4, 9)]
    assert there == [5, 5, 10, 10]
    assert {turn.reason for turn in fleet.turns(1, range(10)).values()} == {"", "not joined"}


def test_a_share_of_the_epochs_is_whole_epochs():
    assert [Turn(0.5, "straggler").epochs(local) for local in (1, 2, 3, 5, 10)] == [1, 1, 1, 2, 5]
    assert [Turn(work).epochs(100) for work in (0.29, 0.57, 1.0, 0.0)] == [29, 57, 100, 0]
    assert not Turn(0.0, "straggler").answers  # FedSNN's straggler: its update is lost


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dropout": 1.1}, "dropout: .*got 1.1"),
        ({"dropout": float("nan")}, "dropout"),
        ({"dropout": True}, "dropout"),
        ({"dropot": 0.1}, "dropot: unknown key"),
        ({"steps": {4: 0.7, 8: 0.7}}, "steps: .*at most, got 1.4"),
        ({"steps": {4: 0}}, "steps"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": [4]}, "steps"),
        ({"joins": "soon"}, "joins"),
        ({"slowdown": 0}, "slowdown"),
        ({"slowdown": float("inf")}, "slowdown"),
        ({"twins": "pcx"}, "Did you mean 'pcm'"),
        ({"twins": {"loihi": 0.5, "pcm@soon": 0.5}}, "Expected a time"),
        ({"twins": None}, "twins"),
        ({1: 2}, "the fleet"),
    ],
)
def test_settings_that_are_wrong_are_named(given, told):
    with pytest.raises(ConfigError, match=told):
        fleet_settings(given)


WORK = [
    Work("first", macs=100.0, acs=0.0, dense=100.0, once=100.0, weights=50, inputs=10, outputs=8, neuron_steps=0),
    Work("second", macs=0.0, acs=30.0, dense=80.0, once=20.0, weights=80, inputs=8, outputs=10, neuron_steps=0),
    Work("neurons", 0.0, 0.0, 0.0, 0.0, 0, 8, 8, 32),
]


def price(settings, **more):
    return round_cost(WORK, 4, settings, **{"samples": 10, "epochs": 2, "received": 1000, "sent": 100, **more})


def test_joules_and_seconds_by_hand():
    settings = CostSettings(memory=False, radio=Radio(up_nj=3, down_nj=2, base_w=0.5, up_mbps=1, down_mbps=4))
    cost = price(settings)
    forward, backward = 100 * 4.6 + 30 * 0.9, 4 * 180 * 4.6  # pJ: Horowitz's fp32; every product at each of 4 steps
    assert cost.compute_joules == pytest.approx(20 * (forward + 2 * backward) * 1e-12, rel=1e-12)
    assert cost.compute_seconds == pytest.approx(20 * (130 + 2 * 4 * 180) / 1e9, rel=1e-12)
    assert cost.radio_seconds == pytest.approx(800e-6 + 2000e-6, rel=1e-12)
    assert cost.radio_joules == pytest.approx(800 * 3e-9 + 8000 * 2e-9 + 0.5 * 2800e-6, rel=1e-12)
    assert cost.joules == cost.compute_joules + cost.radio_joules
    assert cost.seconds == cost.compute_seconds + cost.radio_seconds
    sparse = price(settings.model_copy(update={"backward_over": "spikes"}))
    assert sparse.compute_joules == pytest.approx(20 * 3 * forward * 1e-12, rel=1e-12)
    assert sparse.compute_seconds == pytest.approx(20 * 3 * 130 / 1e9, rel=1e-12)


def test_cost_grows_with_what_is_done():
    settings = CostSettings()
    base = price(settings)
    assert price(settings, samples=20).compute_joules == pytest.approx(2 * base.compute_joules)
    assert price(settings, epochs=0).compute_joules == 0
    slow = price(settings, slowdown=3)
    assert slow.compute_seconds == pytest.approx(3 * base.compute_seconds)
    assert slow.joules == base.joules
    assert price(settings, sent=200).radio_joules > base.radio_joules
    assert base.compute_joules > price(CostSettings(memory=False)).compute_joules
    assert base.compute_joules > price(CostSettings(precision="fp16")).compute_joules


def test_radios_are_of_the_size_that_others_measured():
    """A phone of 2011 spent 281 nJ on a bit received over Wi-Fi at 5 Mbit/s: 6.45e-7 - 1.27e-10 * (5000 - 2130) J, the fit of Perrucci and
    Fitzek's measurements (mobiledevices.kom.aau.dk, energy measurements on mobile phones)."""
    wifi = RADIOS["wifi"]
    assert 281 / 2 < wifi.down_nj + wifi.base_w * 1e9 / 5e6 < 281 * 2
    assert RADIOS["ble"].up_nj == pytest.approx(6.40e-3 * 3 / 0.7e6 * 1e9, rel=0.01)
    assert RADIOS["ble"].down_nj == pytest.approx(6.26e-3 * 3 / 0.7e6 * 1e9, rel=0.01)
    assert all(radio.source != "set by hand" for radio in RADIOS.values())


def test_every_assumption_is_said():
    settings = CostSettings(radio="ble", backward=1.5, operations_per_second=2e6)
    assert settings.radio == RADIOS["ble"]
    said = settings.assumptions()
    assert said["radio"] == RADIOS["ble"].source
    assert "1.5 products" in said["backward"]
    assert "2e+06" in said["operations_per_second"]
    own = CostSettings(radio={"up_nj": 1, "down_nj": 1, "up_mbps": 1, "down_mbps": 1})
    assert own.assumptions()["radio"] == "set by hand"
    assert CostSettings(**own.model_dump(mode="json")) == own
    for wrong in (
        {"radio": "wire"},
        {"radio": {"up_nj": 1}},
        {"backward": -1},
        {"operations_per_second": 0},
        {"precision": "int8"},
        {"watt": 1},
    ):
        with pytest.raises(ConfigError, match=f"the costs: {next(iter(wrong))}: "):
            settings_of(CostSettings, wrong, "the costs")


def test_sums_do_not_depend_on_the_order():
    draws = np.random.default_rng(0)
    costs = [Cost(*draws.lognormal(0, 20, 4)) for _ in range(50)]
    assert total(costs) == total(reversed(costs)) == total(sorted(costs, key=lambda cost: cost.seconds))
    assert total([]) == Cost()
    assert closes_after({}) == 0
    assert closes_after(dict(enumerate(costs))) == max(cost.seconds for cost in costs)


def test_a_real_network_can_be_priced(digits_test):
    from trustsnn.energy import count
    from trustsnn.energy.costs import work_of
    from trustsnn.models import build

    model = build("mlp", input_shape=(1, 8, 8), classes=10)
    counted = count(model, digits_test.take(5))
    cost = round_cost(work_of(counted), model.spec.steps, CostSettings(), samples=100, epochs=1, received=10_000, sent=10_000)
    low = round_cost(
        work_of(counted),
        model.spec.steps,
        CostSettings(backward_over="spikes"),
        samples=100,
        epochs=1,
        received=10_000,
        sent=10_000,
    )
    assert 0 < low.compute_joules < cost.compute_joules < 1
