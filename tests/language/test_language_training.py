"""Training a language model: it learns, resumes bit for bit, and its checkpoints hold and are refused when altered."""

from __future__ import annotations

import json

import pytest
import torch

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.defenses.seal import seal
from trustsnn.errors import ConfigError, DataError, ModelContractError, UnsafeArtifactError
from trustsnn.keys import Key
from trustsnn.language import (
    Corpus,
    LanguageConfig,
    NGram,
    SpikeGPTConfig,
    Uniform,
    bits_per_character,
    load,
    save,
    train_language,
)
from trustsnn.runners.inspect import describe_model

SMALL = SpikeGPTConfig(width=16, layers=1, context=32)


def state_of(model):
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def test_a_text_is_learnt_better_than_by_a_trigram(corpus):
    size = SpikeGPTConfig(width=32, layers=2, context=32)
    model, log = train_language(corpus, size, LanguageConfig(epochs=4, batch_size=8, learning_rate=1e-2, warm_up=20))
    found = bits_per_character(model, corpus, block=100)
    trigram = NGram.fit(corpus.part("train"), len(corpus.alphabet), 3, corpus.part("validation"))
    assert found["high"] < bits_per_character(trigram, corpus, block=100)["value"]
    assert found["high"] < 0.5 * bits_per_character(Uniform.over(corpus.alphabet), corpus, block=100)["value"]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert log[-1]["validation_bits"] < log[0]["validation_bits"]
    assert log[-1]["train_bits"] < log[0]["train_bits"]


def test_training_is_deterministic_and_resumes_bit_for_bit(tmp_path, sentences):
    corpus = Corpus.of(sentences[:3000])
    config = LanguageConfig(epochs=3, batch_size=8, seed=1)
    unbroken, log = train_language(corpus, SMALL, config, folder=tmp_path / "a")

    steps = iter(range(12))  # the callback fails in the second of three epochs, of nine steps each

    with pytest.raises(StopIteration):
        train_language(corpus, SMALL, config, folder=tmp_path / "b", on_step=lambda _: next(steps))
    seen = []
    resumed, again = train_language(corpus, SMALL, config, folder=tmp_path / "b", on_epoch=seen.append)
    assert again == log
    assert [row["epoch"] for row in seen] == [2, 3]
    assert torch.equal(state_of(resumed), state_of(unbroken))
    assert (tmp_path / "a/state.safetensors").read_bytes() == (tmp_path / "b/state.safetensors").read_bytes()
    other, _ = train_language(corpus, SMALL, LanguageConfig(epochs=3, batch_size=8, seed=2))
    assert not torch.equal(state_of(other), state_of(unbroken))
    with pytest.raises(ConfigError, match="text differ"):
        train_language(Corpus.of(sentences[1:3001]), SMALL, config, folder=tmp_path / "a")


def test_a_checkpoint_comes_back(tmp_path, network, corpus):
    network.float()
    save(network, tmp_path / "model", training={"recipe": "spikegpt"})
    loaded = load(tmp_path / "model")
    tokens = torch.from_numpy(corpus.tokens[:200].reshape(50, 4))
    assert torch.equal(loaded(tokens), network(tokens))
    assert (loaded.alphabet, loaded.config, loaded.training) == (network.alphabet, network.config, False)


def test_a_sealed_one_opens_with_its_key_alone(tmp_path, network, corpus):
    save(network.float(), tmp_path / "model")
    seal(tmp_path / "model", tmp_path / "sealed", Key(bytes(32)))
    tokens = torch.from_numpy(corpus.tokens[:200].reshape(50, 4))
    assert torch.equal(load(tmp_path / "sealed", key=Key(bytes(32)))(tokens), network(tokens))
    with pytest.raises(ConfigError, match="is sealed"):
        load(tmp_path / "sealed")


def test_what_a_language_model_is(tmp_path, network):
    save(network.float(), tmp_path / "model")
    lines = describe_model(network)
    assert f"hash: {model_hash(network)}" in lines
    assert "spike-only: no" in lines
    with pytest.raises(ConfigError, match="neither --weights nor --data"):
        describe_model(network, data="digits")
    with pytest.raises(UnsafeArtifactError, match=r"`trustsnn generate` and `inspect`"):
        trustsnn.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "trail", "missing", "pickle"])
def test_an_altered_checkpoint_is_refused(name, damage, tmp_path, network):
    path = save(network.float(), tmp_path / "model") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    altered = {"truncate": content[:-9], "flip": content, "trail": path.read_bytes() + b"x", "pickle": b"\x80\x04" + content}
    path.unlink()
    if damage != "missing":
        path.write_bytes(altered[damage])
    with pytest.raises((UnsafeArtifactError, ConfigError)):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"width": 32}, {"width": 1 << 13}, {"layers": 1}, {"alphabet": "ab"}, {"more": 1}, {"context": 0}]
)
def test_a_config_that_does_not_fit_its_weights_is_refused(change, tmp_path, network, monkeypatch):
    stated = {**network.architecture, **change}
    monkeypatch.setattr(type(network), "architecture", property(lambda _: stated))
    save(network.float(), tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["architecture"] == stated
    with pytest.raises(UnsafeArtifactError):
        load(tmp_path / "model")


def test_settings_and_texts_that_do_not_fit_are_refused(sentences, network):
    for bad in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}, {"clip": 0.0}, {"warm_up": -1}):
        with pytest.raises(ConfigError, match="Expected"):
            LanguageConfig(**bad)
    with pytest.raises(DataError, match="Lower the batch size"):
        train_language(Corpus.of(sentences[:600]), SMALL)
    with pytest.raises(ConfigError, match="alphabet"):
        train_language(Corpus.of("abc" * 999), network)


def test_divergence_is_named(corpus, network):
    with torch.no_grad():
        network.head.weight.fill_(torch.inf)
    with pytest.raises(ModelContractError, match="Lower the learning rate"):
        train_language(corpus, network)
