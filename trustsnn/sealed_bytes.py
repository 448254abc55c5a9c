"""A string of bytes that only a key opens, for files that are not checkpoints. Nothing here imports torch.

The bytes are encrypted as one by AES-256-GCM under a key of their own, which HKDF makes of the key and a fresh salt. What they are for, the
context, is associated data: a file that takes another's place does not open.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.keys import Key, Stretch

_MAGIC = {False: b"trustsnn-sealed-bytes/1 key\n", True: b"trustsnn-sealed-bytes/1 passphrase\n"}
_SALT, _NONCE = 32, 12


def is_sealed(content: bytes) -> bool:
    """Whether `seal` made these bytes."""
    return any(content.startswith(magic) for magic in _MAGIC.values())


def seal(content: bytes, key: Key, context: str) -> bytes:
    """The sealed bytes; equal content gives others each time."""
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    cipher = AESGCM(key.derive(salt, Stretch() if key.passphrase else None)[0])
    return _MAGIC[key.passphrase] + salt + nonce + cipher.encrypt(nonce, content, context.encode())


def unseal(content: bytes, key: Key | None, context: str) -> bytes:
    """What was sealed.

    Raises:
        ConfigError: there is no key.
        UnsafeArtifactError: the key is another, or the bytes were altered, cut, or sealed for another context.
    """
    if key is None:
        raise ConfigError(
            f"{context} is sealed. Pass its key: --key-file FILE, --key-env NAME, --passphrase or --passphrase-env NAME."
        )
    magic = _MAGIC[key.passphrase]
    if not content.startswith(magic):
        raise UnsafeArtifactError(
            f"{context} does not open: it was not sealed with a {'passphrase' if key.passphrase else 'key'}, or altered."
        )
    start = len(magic)
    salt, nonce, sealed = content[start : start + _SALT], content[start + _SALT :][:_NONCE], content[start + _SALT + _NONCE :]
    try:
        return AESGCM(key.derive(salt, Stretch() if key.passphrase else None)[0]).decrypt(nonce, sealed, context.encode())
    except (InvalidTag, ValueError) as error:
        raise UnsafeArtifactError(f"{context} does not open: wrong key, or it was altered.") from error
