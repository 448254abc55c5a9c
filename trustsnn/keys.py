"""Keys of sealed models: a secret from a file, the environment or a passphrase, and Ed25519 keys for signatures."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field

from trustsnn.errors import ConfigError

KEY_BYTES = 32


class Stretch(BaseModel):
    """How scrypt (RFC 7914) makes a key of a passphrase. It takes 2^`log2_n` KiB; the bounds keep a hostile file from asking
    for more than 1 GiB, and from asking for next to nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kdf: Literal["scrypt"] = "scrypt"
    log2_n: Annotated[int, Field(ge=14, le=20)] = 17
    r: Literal[8] = 8
    p: Literal[1] = 1


@dataclass(frozen=True)
class Key:
    """What a model is sealed with: 32 secret bytes, or a passphrase. `repr` does not show it."""

    secret: bytes = field(repr=False)
    passphrase: bool = False

    def __post_init__(self) -> None:
        if self.passphrase and not self.secret:
            raise ConfigError("Expected a passphrase, got an empty one.")
        if not self.passphrase and len(self.secret) != KEY_BYTES:
            raise ConfigError(f"Expected a key of {KEY_BYTES} bytes, got {len(self.secret)}. Make one with: trustsnn keygen FILE")

    @classmethod
    def from_file(cls, path: Path | str) -> Key:
        """The key in a file: 32 bytes, or 64 hexadecimal digits. ConfigError for anything else."""
        return cls(_parse(_read(Path(path), "key file"), f"the key file {path}"))

    @classmethod
    def from_environment(cls, name: str) -> Key:
        """The key in an environment variable, as 64 hexadecimal digits."""
        return cls(_parse(_variable(name).encode(errors="surrogateescape"), f"the environment variable {name}"))

    @classmethod
    def from_passphrase(cls, text: str) -> Key:
        """A passphrase; scrypt makes the key of it."""
        return cls(text.encode(errors="surrogateescape"), passphrase=True)

    @classmethod
    def from_passphrase_environment(cls, name: str) -> Key:
        """The passphrase in an environment variable."""
        return cls.from_passphrase(_variable(name))

    def derive(self, salt: bytes, stretch: Stretch | None) -> tuple[bytes, bytes]:
        """The two 32-byte keys of one sealing, by HKDF-SHA256 (RFC 5869): of the tensors (AES-256-GCM), of the manifest (HMAC)."""
        master = self.secret
        if stretch is not None:
            master = Scrypt(salt=salt, length=KEY_BYTES, n=1 << stretch.log2_n, r=stretch.r, p=stretch.p).derive(master)
        both = HKDF(hashes.SHA256(), 2 * KEY_BYTES, salt, b"trustsnn-sealed/1").derive(master)
        return both[:KEY_BYTES], both[KEY_BYTES:]


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may read or write a file."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def new_key(path: Path) -> None:
    """Write a random key as 64 hexadecimal digits to a new file that its owner alone may read."""
    write_new(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", 0o600)


def new_signing_key(path: Path) -> Path:
    """Write a random Ed25519 key to a new PEM file that its owner alone may read, and its public half beside it, ending in
    .pub; the path of that one."""
    private, public = Ed25519PrivateKey.generate(), path.with_name(path.name + ".pub")
    if public.exists():
        raise ConfigError(f"{public} is there already. Choose another name.")
    plain = serialization.NoEncryption()
    write_new(path, private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain), 0o600)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    write_new(public, private.public_key().public_bytes(serialization.Encoding.PEM, spki), 0o644)
    return public


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 private key of a PEM file without a password; ConfigError for anything else."""
    try:
        key = serialization.load_pem_private_key(_read(path, "signing key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"Expected an Ed25519 private key in PEM without a password in {path}. Make one with: trustsnn keygen --signing FILE"
        )
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key of a PEM file; ConfigError for anything else."""
    try:
        key = serialization.load_pem_public_key(_read(path, "public key"))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"Expected an Ed25519 public key in PEM in {path}, as `trustsnn keygen --signing` writes beside the other."
        )
    return key


def _parse(content: bytes, where: str) -> bytes:
    text = content.strip()
    digits = all(c in b"0123456789abcdefABCDEF" for c in text)
    if len(content) == KEY_BYTES and not digits:
        return content
    if len(text) == 2 * KEY_BYTES and digits:
        return bytes.fromhex(text.decode())
    got = f"{len(text)} hexadecimal digits" if digits else f"{len(content)} bytes"
    raise ConfigError(
        f"Expected {KEY_BYTES} bytes or {2 * KEY_BYTES} hexadecimal digits in {where}, got {got}. Make a key with: trustsnn keygen FILE"
    )


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"The environment variable {name} is not set, or empty.")
    return value


def _read(path: Path, what: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 16)
    except OSError as error:
        raise ConfigError(f"Could not read the {what} {path}: {error.strerror}.") from error


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, synced, with these permissions from its first byte on; ConfigError if it is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: a key is never written over. Choose another name.") from error
    except OSError as error:
        raise ConfigError(f"Could not write the key {path}: {error.strerror}.") from error
