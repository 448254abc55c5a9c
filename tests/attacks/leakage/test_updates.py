"""Updates: what a client sends, what it can do to it first, and the file that it lies in."""

from __future__ import annotations

import pytest
import torch

from trustsnn.attacks.leakage.labels import inferred_labels
from trustsnn.attacks.leakage.update_defences import Defence, poisson_coded
from trustsnn.attacks.leakage.updates import Update, check_update, read_update, simulate, write_update
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, DataError, UnsafeArtifactError
from trustsnn.models import build
from trustsnn.rng import Draws


@pytest.fixture
def model():
    return build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, norm="none").eval()


@pytest.fixture
def samples(digits_test):
    x, y = digits_test.batch(range(6))
    return torch.from_numpy(x.copy()), torch.from_numpy(y.copy())


@pytest.fixture
def update(model, samples):
    return simulate(model, samples[0][:2], samples[1][:2])


def flat(update: Update) -> torch.Tensor:
    return torch.cat([each.flatten() for each in update.gradients.values()])


def test_an_update_is_the_gradient_of_a_training_step(model, samples):
    x, y = samples
    before = model_hash(model)
    found = simulate(model, x, y)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    assert list(found.gradients) == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found.gradients.values(), wanted, strict=True))
    assert found.samples == 6
    assert found.model == before == model_hash(model)


def test_the_statistics_of_a_batch_change_its_update_and_no_model(samples):
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1).eval()
    before = model_hash(model)
    frozen, batch = (flat(simulate(model, *samples, statistics=each)) for each in ("frozen", "batch"))
    assert (frozen - batch).abs().max() > 0.01 * frozen.abs().max()
    assert model_hash(model) == before
    assert not any(module.training for module in model.modules())


def test_a_poisson_update_depends_on_the_sample_alone(model, samples):
    coded = poisson_coded(model, 3)
    x, y = samples
    one, same, other = (
        flat(simulate(coded, x[:1], y[:1], draws=Draws(seed, "update", (name,)))) for seed, name in ((0, "a"), (0, "a"), (0, "b"))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (coded.spec.encoder, coded.spec.steps, coded.architecture["arguments"]["steps"]) == ("poisson", 3, 3)
    assert model.spec.encoder == "direct"
    with pytest.raises(ConfigError, match="one stream a sample"):
        simulate(coded, x, y)


def test_defences_do_what_they_say(update):
    bare = flat(update)
    clipped, noisy, largest, rounded = (
        flat(Defence.parse(line)(update, 0, "a")) for line in ("clip=0.5", "noise=0.1", "topk=0.1", "bits=4")
    )
    assert bare.norm() > 0.5
    assert clipped.norm() == pytest.approx(0.5, rel=1e-5)
    assert torch.nn.functional.cosine_similarity(clipped, bare, dim=0) == pytest.approx(1, abs=1e-5)
    assert torch.equal(flat(Defence.parse("clip=1e6")(update, 0, "a")), bare)
    assert (noisy - bare).std() == pytest.approx(0.1, rel=0.1)
    assert (noisy - bare).mean() == pytest.approx(0, abs=0.01)
    kept = largest != 0
    assert kept.sum() == round(0.1 * len(bare))
    assert torch.equal(largest[kept], bare[kept])
    assert bare[kept].abs().min() >= bare[~kept].abs().max()
    for each, whole in zip(Defence.parse("bits=4")(update, 0, "a").gradients.values(), update.gradients.values(), strict=True):
        unit = (whole.abs().max() / 7).clamp_min(1e-30)
        assert torch.allclose(each / unit, (each / unit).round(), atol=1e-4)
        assert (each - whole).abs().max() <= 0.51 * unit
    assert rounded.unique().numel() <= 15 * len(update.gradients)
    assert torch.equal(flat(Defence.parse("none")(update, 0, "a")), bare)


def test_noise_is_keyed_by_seed_and_samples(update):
    noise = Defence.parse("noise=0.1")
    first, same, other, seeded = (flat(noise(update, seed, key)) for seed, key in ((0, "a"), (0, "a"), (0, "b"), (1, "a")))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, seeded)


def test_parts_of_a_defence_come_one_after_the_other(model, update):
    both = Defence.parse("clip=0.5+noise=0.1+poisson=3")
    apart = Defence.parse("noise=0.1")(Defence.parse("clip=0.5")(update, 0, "a"), 0, "a")
    assert torch.equal(flat(both(update, 0, "a")), flat(apart))
    assert both.model(model).spec.steps == 3
    assert Defence.parse("clip=0.5").model(model) is model


@pytest.mark.parametrize(
    "line",
    [
        "clip",
        "clip=",
        "clip=0",
        "clip=-1",
        "clip=nan",
        "topk=2",
        "bits=1",
        "bits=2.5",
        "noise=x",
        "poisson=0",
        "dp=1",
        "",
        "none+",
    ],
)
def test_a_wrong_defence_is_refused(line):
    with pytest.raises(ConfigError, match=r"Unknown defence|Expected (clip|topk|bits|noise|poisson)="):
        Defence.parse(line)


def test_a_network_that_cannot_be_poisson_coded_is_refused(model):
    latency = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, encoder="latency")
    with pytest.raises(ConfigError, match="direct or Poisson"):
        poisson_coded(latency)
    with pytest.raises(ConfigError, match="tied to its 4 steps"):
        poisson_coded(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, norm="bntt"), 3)


def test_a_written_update_comes_back(model, update, tmp_path):
    write_update(update, tmp_path / "u.safetensors")
    found = read_update(tmp_path / "u.safetensors", model)
    assert (found.samples, found.model) == (update.samples, update.model)
    assert list(found.gradients) == list(update.gradients)
    assert all(torch.equal(found.gradients[name], each) for name, each in update.gradients.items())


@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (lambda content: content[:-1], UnsafeArtifactError, "cut short"),
        (lambda content: content + b"x", UnsafeArtifactError, "cut short"),
        (lambda content: b"\x80\x04" + content, UnsafeArtifactError, "does not begin as"),
        (lambda content: b"\xff" * 8 + content[8:], UnsafeArtifactError, "does not begin as"),
        (lambda content: b"", UnsafeArtifactError, "does not begin as"),
    ],
)
def test_a_damaged_file_is_refused(model, update, tmp_path, damage, error, told):
    path = tmp_path / "u.safetensors"
    write_update(update, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(error, match=told):
        read_update(path, model)


def test_updates_that_do_not_belong_to_a_model_are_refused(model, update, tmp_path):
    path = tmp_path / "u.safetensors"
    other = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, norm="none", seed=1).eval()
    write_update(update, path)
    with pytest.raises(ConfigError, match="taken at the model"):
        read_update(path, other)
    with pytest.raises(UnsafeArtifactError, match="not those of an update of this model"):
        read_update(path, build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.2, norm="none"))
    with pytest.raises(ConfigError, match="Could not read the update"):
        read_update(tmp_path / "nowhere", model)
    with pytest.raises(ConfigError, match="taken at the model"):
        check_update(other, update)
    for wrong, told in (
        ({}, "0 samples"),
        ({"layers.1.bias": torch.full_like(update.gradients["layers.1.bias"], float("nan"))}, "NaN"),
    ):
        write_update(Update({**update.gradients, **wrong}, 1 if wrong else 0, update.model), path)
        with pytest.raises(DataError, match=told):
            read_update(path, model)


def test_mistakes_of_a_client_have_one_message(model, samples):
    x, y = samples
    with pytest.raises(ConfigError, match="at least one sample and one label"):
        simulate(model, x, y[:2])
    with pytest.raises(ConfigError, match="statistics of the update"):
        simulate(model, x, y, statistics="own")
    normal = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1)
    with pytest.raises(ConfigError, match="no statistics of its own"):
        simulate(normal, x[:1], y[:1], statistics="batch")


@pytest.mark.parametrize("readout", ["membrane", "spike-count"])
def test_the_last_bias_gives_one_label_away(samples, readout):
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, readout=readout, surrogate="sigmoid")
    for x, y in zip(*samples, strict=True):
        assert inferred_labels(model, simulate(model, x[None], y[None])).tolist() == [int(y)]


@pytest.mark.parametrize("labels", [[3, 1, 4, 1, 5, 9], [2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 0, 0]])
def test_the_last_bias_gives_the_labels_of_a_batch_away(model, samples, labels):
    found = inferred_labels(model, simulate(model, samples[0], torch.tensor(labels)))
    assert sorted(found.tolist()) == sorted(labels)
