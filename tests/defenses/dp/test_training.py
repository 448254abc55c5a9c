"""Private training: what a step does, resuming, what the checkpoint says, and what the log does not."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("opacus")

from trustsnn.data import from_arrays
from trustsnn.defenses.dp import PrivacyConfig, epsilon, train_private
from trustsnn.defenses.dp.gradients import clipped_sum_of
from trustsnn.defenses.dp.noise import Seeded
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig

SEEDED = PrivacyConfig(eps=4.0, delta=1e-3, clip=0.5, accountant="rdp", seeded=True)
CONFIG = TrainConfig(epochs=2, batch_size=16, learning_rate=0.01, seed=3)


@pytest.fixture
def command(capsys):
    """Runs `trustsnn train dp` on digits in this process; gives its exit code, standard output and error."""
    with warnings.catch_warnings(action="ignore"):  # typer's, on import
        from trustsnn.cli.main import main

    def run(out, *arguments):
        with pytest.raises(SystemExit) as left:
            main(["train", "dp", "--data", "digits", "--out", str(out), "--threads", "1", *arguments])
        return left.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def data(digits_train):
    return digits_train.take(64)


def small(norm="group", **options):
    return build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1, norm=norm, steps=2, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_steps_are_the_noisy_clipped_sums_over_the_expected_size(data):
    """Plain descent in two epochs of four steps, against the equations; batches differ in size from the expected one."""
    model, mine = small(), small().train()
    config = TrainConfig(epochs=2, batch_size=16, optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.1, seed=3)
    _, promise = train_private(model, data, config, SEEDED)
    assert (promise.rate, promise.steps) == (0.25, 8)
    sizes = []
    for step in range(8):
        rows = np.flatnonzero(Seeded(3).uniform(step, 64) < 0.25)
        sizes.append(len(rows))
        x, y = (torch.from_numpy(a) for a in data.batch(rows))
        total = clipped_sum_of(mine, x, y, 0.5, draws=Draws(3, "", tuple(data.ids[i] for i in rows)))
        drawn = torch.from_numpy(Seeded(3).normal(step, len(weights(mine)))).float()
        noisy = torch.cat([each.flatten() for each in total.values()]) + 0.5 * promise.sigma * drawn
        moved = weights(mine) - 0.05 * (1 + np.cos(np.pi * step / 8)) * noisy / 16
        torch.nn.utils.vector_to_parameters(moved, mine.parameters())
    assert len(set(sizes)) > 2
    torch.testing.assert_close(weights(model), weights(mine), rtol=1e-4, atol=1e-5)


def test_a_seeded_run_is_repeatable_and_taken_up_bit_for_bit(data, tmp_path):
    whole, again, broken = small(), small(), small()
    log, promise = train_private(whole, data, CONFIG, SEEDED)
    train_private(again, data, CONFIG, SEEDED)
    assert torch.equal(weights(whole), weights(again))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_private(broken, data, CONFIG, SEEDED, folder=tmp_path, on_epoch=stop)
    resumed = small()
    assert train_private(resumed, data, CONFIG, SEEDED, folder=tmp_path) == (log, promise)
    assert torch.equal(weights(whole), weights(resumed))
    with pytest.raises(ConfigError, match="privacy differ"):
        train_private(small(), data, CONFIG, PrivacyConfig(eps=5.0, delta=1e-3, seeded=True), folder=tmp_path)


def test_secret_noise_is_another_each_time(data):
    one, two = small(), small()
    for model in (one, two):
        promise = train_private(model, data, CONFIG, PrivacyConfig(sigma=1.0, delta=1e-3, accountant="rdp"))[1]
        assert (promise.randomness, promise.sigma) == ("operating system", 1.0)
    assert not torch.equal(weights(one), weights(two))


def test_the_log_tells_eps_and_nothing_of_the_training_data(data):
    rows, promise = train_private(small(), data, CONFIG, SEEDED, test=data)
    assert [set(row) for row in rows] == [{"epoch", "eps", "test_accuracy"}] * 2
    assert rows[0]["eps"] < rows[1]["eps"] == promise.eps <= 4.0


def test_an_empty_batch_is_a_step_of_noise_alone(data):
    """Batches of two in the mean, some of which are empty."""
    model, start = small(), small()
    config = TrainConfig(epochs=1, batch_size=2, optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.1, seed=5)
    some = data.take(40)
    empty = [step for step in range(20) if not len(Seeded(5).batch(step, 40, 0.05))]
    assert empty
    train_private(model, some, config, PrivacyConfig(sigma=1.0, delta=1e-3, accountant="rdp", seeded=True))
    assert bool(torch.isfinite(weights(model)).all())
    assert not torch.equal(weights(model), weights(start))


def test_it_learns(digits_train, digits_test):
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, norm="group", steps=2)
    config = TrainConfig(epochs=4, batch_size=256, learning_rate=0.01)
    privacy = PrivacyConfig(eps=8.0, accountant="rdp", seeded=True)
    assert train_private(model, digits_train, config, privacy, test=digits_test)[0][-1]["test_accuracy"] > 0.5


def test_networks_and_data_that_do_not_fit_are_refused(data):
    with pytest.raises(ConfigError, match="--norm group"):
        train_private(small("batch"), data, CONFIG, SEEDED)
    x = np.zeros((20, 1, 9, 9), dtype=np.float32)
    other = from_arrays(x + np.arange(20).reshape(-1, 1, 1, 1) / 20, np.arange(20) % 10, name="other")
    with pytest.raises(ConfigError, match="does not fit the model"):
        train_private(small(), other, CONFIG, SEEDED)


def test_the_command_writes_what_the_guarantee_rests_on(tmp_path, command, digits_train):
    small = ("--model", "mlp", "--channels", "0.1", "--epochs", "1", "--steps", "2")
    code, out, _ = command(tmp_path / "model", *small, "--accountant", "rdp", "--seed-noise", "--quiet")
    assert code == 0
    text = (tmp_path / "model" / "config.json").read_text()
    assert not any(
        digest in text for digest in (digits_train.sha256, digits_train.samples_sha256)
    )  # a guess could be tested by it
    said = json.loads(text)["training"]["privacy"]
    account = {"sigma": said["sigma"], "rate": said["rate"], "steps": said["steps"], "delta": said["delta"]}
    assert said["eps"] == pytest.approx(epsilon(said["accountant"], **account), abs=1e-9)
    assert (said["clip"], said["randomness"], said["adjacency"]) == (1.0, "seed", "add or remove one sample")
    assert f"eps {said['eps']:.4f} at delta 1e-05" in out
    assert "nothing is guaranteed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm", "batch"], "--norm group"),
        (["--eps", "0"], "--eps"),
        (["--clip", "-1"], "--clip"),
        (["--model", "onestep", "--encoder", "poisson"], "--encoder"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, tmp_path, command):
    code, _, error = command(tmp_path / "model", "--model", "mlp", *arguments)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert not (tmp_path / "model").exists()
