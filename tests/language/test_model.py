"""SpikeGPT: a step-by-step reference, causality, the recurrent form, scoring, generation, what it says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trustsnn.errors import ConfigError, DataError
from trustsnn.language import SpikeGPT, SpikeGPTConfig, generate
from trustsnn.language.model import ChannelMix


def slow_logits(model, tokens):
    """Logits [T, K] of one text, position by position and with plain numbers of the equations alone."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    leak, threshold = model.config.leak, model.config.threshold
    outputs, memory = [], [{} for _ in model.branches]
    for token in tokens:
        x = (weights["embedding.weight"][token] >= 0).double() if model.binary else weights["embedding.weight"][token]
        x = normed(x, weights, "norm_in")
        for index, branch in enumerate(model.branches):
            own = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"branches.{index}.")}
            kept = memory[index]
            now = normed(x, own, "norm")
            last = kept.get("last", torch.zeros_like(now))
            mixed = [share * now + (1 - share) * last for share in own["mix.shift"]]
            if isinstance(branch.mix, ChannelMix):
                hidden = torch.clamp(own["mix.key.weight"] @ mixed[0], min=0) ** 2
                current = torch.sigmoid(own["mix.receptance.weight"] @ mixed[1]) * (own["mix.value.weight"] @ hidden)
            else:
                key, value = own["mix.key.weight"] @ mixed[0], own["mix.value.weight"] @ mixed[1]
                kept["pairs"] = [(torch.exp(-own["mix.decay"].exp()) * w, v) for w, v in kept.get("pairs", [])]
                past = [(w * torch.exp(own["mix.decay"].exp()), v) for w, v in kept["pairs"]]
                past.append((torch.exp(own["mix.bonus"] + key), value))
                mean = sum(w * v for w, v in past) / sum(w for w, _ in past)
                kept["pairs"].append((torch.exp(key), value))
                current = own["mix.output.weight"] @ (torch.sigmoid(own["mix.receptance.weight"] @ mixed[2]) * mean)
            membrane = leak * kept.get("membrane", 0.0) + (1 - leak) * current
            spikes = (membrane >= threshold).double()
            kept["membrane"], kept["last"] = membrane * (1 - spikes), now
            x = x + spikes
        outputs.append(weights["head.weight"] @ normed(x, weights, "norm_out"))
    return torch.stack(outputs)


def normed(x, weights, name):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def some_tokens(model, steps, batch, seed=0):
    return torch.randint(len(model.alphabet), (steps, batch), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("embedding", ["binary", "real"])
def test_the_network_is_the_slow_reference(corpus, embedding):
    model = SpikeGPT(corpus.alphabet, SpikeGPTConfig(width=16, layers=2, embedding=embedding, leak=0.7, seed=3)).double()
    tokens, rates = some_tokens(model, 40, 2), {}
    with torch.no_grad():
        found, _ = model.run(tokens, watch=lambda name, spikes: rates.update({name: float(spikes.mean())}))
    wanted = torch.stack([slow_logits(model, tokens[:, row].tolist()) for row in range(2)], 1)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert all(0.01 < rate < 0.9 for rate in rates.values()), rates  # else the test would see no spikes


def test_a_later_character_never_changes_an_earlier_logit(network):
    tokens = some_tokens(network, 40, 1)
    changed = tokens.clone()
    changed[25:] = (changed[25:] + 1) % len(network.alphabet)
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    assert torch.equal(before[:25], after[:25])
    assert not torch.equal(before[25], after[25])


@pytest.mark.parametrize("cuts", [tuple(range(1, 40)), (1, 17), (39,)])
def test_the_recurrent_form_has_the_logits_of_the_parallel_one(network, cuts):
    tokens = some_tokens(network, 40, 3)
    state, pieces = None, []
    with torch.no_grad():
        whole = network(tokens)
        for begin, end in zip((0, *cuts), (*cuts, 40), strict=True):
            logits, state = network.run(tokens[begin:end], state)
            pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-9, atol=1e-9)


def test_gradients_reach_every_parameter(network):
    tokens = some_tokens(network, 24, 4)
    torch.nn.functional.cross_entropy(network(tokens[:-1]).flatten(0, 1), tokens[1:].flatten()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_bits_are_those_of_windows_with_at_least_half_a_context(network, corpus):
    tokens, context = corpus.tokens[:400], network.config.context
    bits = network.bits(tokens, 101)
    assert len(bits) == 299
    for place in (101, 112, 113, 124, 250, 399):
        offset = (place - 101) % (context // 2)
        last = min(place - offset + context // 2, 400)
        window = torch.from_numpy(tokens[last - 1 - context : place])[:, None]
        with torch.no_grad():
            chances = torch.softmax(network(window)[-1, 0], 0)
        assert bits[place - 101] == pytest.approx(-math.log2(chances[tokens[place]]), abs=1e-9)
    assert network.bits(tokens)[0] == pytest.approx(math.log2(len(corpus.alphabet)))
    assert np.isfinite(network.bits(tokens[:1])).all()


def test_generation_is_that_of_its_seed_and_temperature(network):
    one = generate(network, 30, prompt="the cat ", seed=5)
    assert len(one) == 30
    assert one == generate(network, 30, prompt="the cat ", seed=5)
    assert one != generate(network, 30, prompt="the cat ", seed=6)
    greedy = generate(network, 12, prompt="the cat ", temperature=0)
    assert greedy == generate(network, 12, prompt="the cat ", temperature=1e-6, seed=9)
    text = "the cat "
    for symbol in greedy:  # each is the likeliest one after the text so far
        with torch.no_grad():
            logits = network(torch.from_numpy(network.alphabet.encode(text))[:, None])
        assert network.alphabet.symbols[int(logits[-1, 0].argmax())] == symbol
        text += symbol
    assert generate(network, 0) == ""


def test_generation_draws_each_symbol_as_often_as_the_network_says(network):
    with torch.no_grad():
        network.head.weight.mul_(40)
        logits = network(torch.from_numpy(network.alphabet.encode("a dog"))[:, None])[-1, 0]
    drawn = network.alphabet.encode("".join(generate(network, 1, prompt="a dog", temperature=2.0, seed=s) for s in range(600)))
    wanted = torch.softmax(logits / 2, 0).numpy()
    found = np.bincount(drawn, minlength=len(wanted)) / 600
    assert np.abs(found - wanted).max() < 4 * math.sqrt(0.25 / 600)
    assert wanted.max() > 0.1


def test_a_network_says_what_is_not_spikes_in_it(network, corpus):
    told = network.describe()
    assert told["parameters"] == sum(p.numel() for p in network.parameters())
    assert told["spiking_layers"] == ["embedding", "blocks.0.time", "blocks.0.channel", "blocks.1.time", "blocks.1.channel"]
    text = " ".join([*told["real_valued"], *told["real_valued"].values()])
    for part in ("sigmoid", "exponentials", "LayerNorm", "ReLU"):
        assert part in text
    rates = network.spike_rates(corpus.tokens[:1000])
    assert [rate["layer"] for rate in rates] == told["spiking_layers"]
    assert all(rate["positions"] == 1000 // 24 * 24 and 0 < rate["rate"] < 1 for rate in rates)
    shown = []
    with torch.no_grad():
        network.run(torch.from_numpy(corpus.tokens[:984].reshape(-1, 24).T), watch=lambda _, s: shown.append(float(s.mean())))
    assert [rate["rate"] for rate in rates] == pytest.approx(shown)


def test_weights_are_those_of_the_seed(corpus):
    one, same, other = (SpikeGPT(corpus.alphabet, SpikeGPTConfig(width=16, seed=seed)).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "bad",
    [{"width": 1}, {"layers": 0}, {"context": 1}, {"embedding": "one-hot"}, {"seed": -1}, {"leak": 1.0}, {"threshold": 0.0}],
)
def test_settings_that_make_no_network_are_refused(bad, corpus):
    with pytest.raises(ConfigError, match="Expected"):
        SpikeGPT(corpus.alphabet, SpikeGPTConfig(**bad))


def test_a_prompt_or_temperature_that_cannot_be_is_refused(network):
    with pytest.raises(DataError, match="'§' is not among"):
        generate(network, 3, prompt="§")
    with pytest.raises(ConfigError, match="temperature"):
        generate(network, 3, temperature=float("nan"))


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = SpikeGPT([chr(0x4E00 + i) for i in range(2)], SpikeGPTConfig(width=768, layers=18, context=1024))
    symbols = 50_277  # of the tokeniser of GPT-NeoX, with which arXiv 2302.13939 has 216 M
    count = sum(p.numel() for p in model.parameters()) + 2 * (symbols - 2) * 768
    assert count == pytest.approx(216e6, rel=0.003)
