"""The commands that train SpikeGPT on a text and go on from a prompt: what they write and what they say."""

from __future__ import annotations

from trustsnn.language import load


def test_a_text_is_trained_on_measured_and_continued(tmp_path, sentences, said):
    text, out = tmp_path / "text.txt", tmp_path / "model"
    text.write_text(sentences + "\n" + sentences[::-1][:1999], encoding="utf-8")
    small = ("--width", 8, "--layers", 1, "--context", 32, "--epochs", 1, "--quiet", "--threads", 1)
    printed = said("train", "spikegpt", "--text", text, "--out", out, *small)
    for part in ("all 2200 characters of the test part", "a trigram's", "over 2 blocks of 1024", "blocks.0.time", "receptance: "):
        assert part in printed
    assert f"{load(out).describe()['parameters']:,} parameters" in printed
    one, same = (said("generate", out, "--length", 20, "--prompt", "the", "--seed", 3) for _ in range(2))
    assert one == same
    assert one.startswith("the")
    assert len(one) == 24
    text.write_text(sentences[:5000], encoding="utf-8")
    assert "over 8 blocks of 62 tokens" in said("train", "spikegpt", "--text", text, "--out", tmp_path / "short", *small)
    text.write_text("too short")
    assert "Expected a text" in said("train", "spikegpt", "--text", text, "--out", tmp_path / "shorter", *small, code=2)
    assert "Could not read" in said("train", "spikegpt", "--text", tmp_path / "none", code=2)
