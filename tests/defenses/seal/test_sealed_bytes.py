"""Bytes under a key: they come back, and nothing else opens them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.keys import Key, Stretch
from trustsnn.sealed_bytes import is_sealed, seal, unseal

KEY = Key(bytes(range(32)))


@settings(deadline=None)
@given(st.binary(max_size=2000), st.text(max_size=20))
def test_they_come_back_and_do_not_show(content, context):
    sealed = seal(content, KEY, context)
    assert unseal(sealed, KEY, context) == content
    assert is_sealed(sealed)
    assert sealed != seal(content, KEY, context)
    assert len(content) < 8 or content not in sealed[50:]  # behind what says how it is sealed


@settings(deadline=None)
@given(st.data())
def test_one_bit_another_context_or_key_or_a_cut_opens_nothing(data):
    sealed = seal(b"weights" * 20, KEY, "a/1")
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    for content, key, context in (
        (bytes(changed), KEY, "a/1"),
        (cut, KEY, "a/1"),
        (sealed, KEY, "a/2"),
        (sealed, Key(bytes(32)), "a/1"),
    ):
        with pytest.raises(UnsafeArtifactError, match="does not open"):
            unseal(content, key, context)


def test_a_passphrase_opens_what_it_sealed_and_no_key_does(monkeypatch):
    monkeypatch.setattr("trustsnn.sealed_bytes.Stretch", lambda: Stretch(log2_n=14))
    phrase = Key.from_passphrase("correct horse")
    sealed = seal(b"weights", phrase, "a")
    assert unseal(sealed, phrase, "a") == b"weights"
    with pytest.raises(UnsafeArtifactError, match="not sealed with a key"):
        unseal(sealed, KEY, "a")
    with pytest.raises(ConfigError, match=r"a is sealed\. Pass its key"):
        unseal(sealed, None, "a")
