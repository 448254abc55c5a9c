"""Sealed weights: a checkpoint folder whose tensors only a key opens. Nothing here imports torch.

`model.sealed` holds the data of the safetensors file in pieces of up to 1 MiB, each under AES-256-GCM. The associated data of a
piece is the SHA-256 of the manifest's description, the tensor's name, dtype and shape, the number of the piece and whether it
is the last: a tensor that is cut, moved, renamed or taken from another sealing does not open. The manifest carries an HMAC under
the key over the description and the hashes of the files, and an Ed25519 signature over all of it if a signing key was given.

A sealing may also be of a few bits: the weights then lie in `model.safetensors` with those bits flipped, and `model.sealed` says
which.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trustsnn.canonical import canonical_json, sha256_file, sha256_of
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.keys import Key, Stretch
from trustsnn.tensorfile import BLOCK, blocks, flipped, header, read_header, size_of, write_pieces

SEALED, WEIGHTS, CONFIG, MANIFEST = "model.sealed", "model.safetensors", "config.json", "manifest.json"
_TAG, _SALT, _NONCE = 16, 32, 12
_LARGEST_MANIFEST = 16 << 20

Size = Annotated[int, Field(ge=0, lt=1 << 48)]


def _hexadecimal(size: int) -> Any:
    return Field(pattern=f"^[0-9a-f]{{{2 * size}}}$")


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(_Plain):
    """A tensor: name, dtype as in safetensors, shape, and the nonce of its first piece; each piece adds 1 to it."""

    name: str
    dtype: str
    shape: Annotated[tuple[Size, ...], Field(max_length=64)]
    nonce: Annotated[str, _hexadecimal(_NONCE)]

    @property
    def size(self) -> int:
        """Bytes of the plain tensor."""
        return size_of(self.dtype, self.shape)


class Description(_Plain):
    """What is sealed and how, without what comes out of it. Its SHA-256 is bound to every piece."""

    format: Literal["trustsnn-sealed/1"] = "trustsnn-sealed/1"
    config: Annotated[str, _hexadecimal(32)]
    kind: Literal["weights", "bits"]
    salt: Annotated[str, _hexadecimal(_SALT)]
    stretch: Stretch | None
    tensors: tuple[Entry, ...]
    signer: Annotated[str, _hexadecimal(32)] | None


class Manifest(_Plain):
    """A sealed folder's manifest.json. `files` has the SHA-256 of each file with weights in it."""

    description: Description
    files: dict[str, Annotated[str, _hexadecimal(32)]]
    tag: Annotated[str, _hexadecimal(32)]
    signature: Annotated[str, _hexadecimal(64)] | None

    def text(self) -> bytes:
        """The file: canonical JSON and a line break, so that no byte of it can differ."""
        return (canonical_json(self.model_dump(mode="json")) + "\n").encode()


def is_sealed(folder: Path) -> bool:
    """Whether a folder is a sealed checkpoint, a damaged one too."""
    if (folder / SEALED).exists():
        return True
    try:
        with open(folder / MANIFEST, "rb") as stream:
            return b"trustsnn-sealed" in stream.read(_LARGEST_MANIFEST)
    except OSError:
        return False


def write(
    folder: Path,
    config: bytes,
    weights: BinaryIO,
    key: Key,
    *,
    signing: Ed25519PrivateKey | None = None,
    bits: NDArray[np.int64] | None = None,
) -> Path:
    """Seal a safetensors file, read once as a stream, into `folder`, the manifest last. Memory does not grow with the file.

    Args:
        config: the bytes of config.json, which stay plain.
        bits: ascending places of bits in the file, as `flipped` takes them: these alone are sealed.

    Raises:
        UnsafeArtifactError: `weights` is not a whole safetensors file as the library writes it.
    """
    layout, start = read_header(weights)
    source = weights
    if bits is not None:
        layout, source = [("bits", "I64", (len(bits),))], io.BytesIO(bits.astype("<i8").tobytes())
    salt, stretch = secrets.token_bytes(_SALT), Stretch() if key.passphrase else None
    description = Description(
        config=hashlib.sha256(config).hexdigest(),
        kind="weights" if bits is None else "bits",
        salt=salt.hex(),
        stretch=stretch,
        tensors=tuple(Entry(name=n, dtype=d, shape=s, nonce=secrets.token_hex(_NONCE)) for n, d, s in layout),
        signer=None if signing is None else signing.public_key().public_bytes_raw().hex(),
    )
    cipher, authentic = key.derive(salt, stretch)
    files = {SEALED: write_pieces(folder / SEALED, _sealed(description, source, AESGCM(cipher)))}
    if bits is not None:
        files[WEIGHTS] = write_pieces(folder / WEIGHTS, flipped(chain([start], blocks(weights)), bits))
    elif weights.read(1):
        raise UnsafeArtifactError("The weights go on behind their last tensor: they were altered.")
    tag = _tag(authentic, description, files)
    signature = None if signing is None else signing.sign(_signed(description, files, tag)).hex()
    write_pieces(folder / CONFIG, [config])
    write_pieces(folder / MANIFEST, [Manifest(description=description, files=files, tag=tag, signature=signature).text()])
    return folder


@dataclass(frozen=True)
class Sealed:
    """A sealed folder whose manifest is whole, and signed by the signer that it names, if any. That says nothing on the weights
    yet: `check_files` does without a key, `pieces` with it."""

    folder: Path
    manifest: Manifest
    config: bytes

    @classmethod
    def open(cls, folder: Path) -> Sealed:
        """Read the manifest and config.json. UnsafeArtifactError for whatever is missing, altered or cut short."""
        try:
            with open(folder / MANIFEST, "rb") as stream:
                text = stream.read(_LARGEST_MANIFEST)
            config = (folder / CONFIG).read_bytes()
            found = (folder / SEALED).stat().st_size
        except FileNotFoundError as error:
            raise UnsafeArtifactError(f"The sealed checkpoint {folder} is not whole: {error.filename} is missing.") from error
        except OSError as error:
            raise ConfigError(f"Could not read the sealed checkpoint {folder}: {error}.") from error
        try:
            manifest = Manifest.model_validate_json(text)
            expected = sum(entry.size + _TAG * _count(entry.size) for entry in manifest.description.tensors)
            whole = text == manifest.text()
        except (ValueError, KeyError, RecursionError) as error:
            raise _altered(folder, f"{MANIFEST} is not one of a sealed checkpoint of this version") from error
        description = manifest.description
        names = {SEALED} if description.kind == "weights" else {SEALED, WEIGHTS}
        if not whole or manifest.files.keys() != names or (description.signer is None) != (manifest.signature is None):
            raise _altered(folder, f"{MANIFEST} is not as it was written")
        if hashlib.sha256(config).hexdigest() != description.config:
            raise _altered(folder, f"{CONFIG} does not match {MANIFEST}")
        if found != expected:
            raise _altered(folder, f"expected {expected:,} bytes in {SEALED}, got {found:,}")
        sealed = cls(folder, manifest, config)
        if description.signer is not None:
            sealed.check_signer(Ed25519PublicKey.from_public_bytes(bytes.fromhex(description.signer)))
        return sealed

    def check_signer(self, public: Ed25519PublicKey) -> None:
        """UnsafeArtifactError unless the manifest is signed with the private half of `public`."""
        manifest = self.manifest
        if manifest.signature is None:
            raise UnsafeArtifactError(f"The sealed checkpoint {self.folder} is not signed.")
        try:
            public.verify(bytes.fromhex(manifest.signature), _signed(manifest.description, manifest.files, manifest.tag))
        except InvalidSignature as error:
            raise _altered(self.folder, "its signature is not of that key, or not of this manifest") from error

    def check_files(self) -> None:
        """UnsafeArtifactError unless the files with weights have the hashes of the manifest. Needs no key."""
        for name, expected in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file() or sha256_file(path) != expected:
                raise _altered(self.folder, f"{name} does not match {MANIFEST}")

    def pieces(self, key: Key | None) -> Iterator[bytes]:
        """The plain safetensors file, piece by piece. Use them only once the last one has come: until then any may be the one that
        does not open. UnsafeArtifactError for a wrong key and for whatever was altered; ConfigError without a key."""
        description = self.manifest.description
        if key is None:
            raise ConfigError(
                f"{self.folder} is sealed. Pass its key: --key-file FILE, --key-env NAME, --passphrase or --passphrase-env NAME; in "
                "Python key=trustsnn.keys.Key.from_file(FILE). A command without these options takes what `trustsnn unseal` writes."
            )
        if key.passphrase != (description.stretch is not None):
            raise _altered(self.folder, f"wrong key: its manifest asks for a {'key' if key.passphrase else 'passphrase'}")
        cipher, authentic = key.derive(bytes.fromhex(description.salt), description.stretch)
        if not hmac.compare_digest(_tag(authentic, description, self.manifest.files), self.manifest.tag):
            raise _altered(self.folder, f"wrong key, or {MANIFEST} was altered")
        opened = self._opened(AESGCM(cipher))
        if description.kind == "weights":
            yield header([(each.name, each.dtype, each.shape) for each in description.tensors])
            yield from opened
        else:
            bits = np.frombuffer(b"".join(opened), "<i8")
            yield from flipped(self._read(WEIGHTS), bits)

    def _read(self, name: str) -> Iterator[bytes]:
        """The blocks of a file, which has the hash of the manifest if the last one comes: it is what was read that is hashed."""
        path, digest = self.folder / name, hashlib.sha256()
        if path.is_file():
            with open(path, "rb") as stream:
                for block in blocks(stream):
                    digest.update(block)
                    yield block
        if digest.hexdigest() != self.manifest.files[name]:
            raise _altered(self.folder, f"{name} does not match {MANIFEST}")

    def _opened(self, cipher: AESGCM) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with open(self.folder / SEALED, "rb") as stream:
            for name, length, nonce, context in _pieces(self.manifest.description):
                piece = stream.read(length + _TAG)
                digest.update(piece)
                try:
                    yield cipher.decrypt(nonce, piece, context)
                except InvalidTag as error:
                    raise _altered(self.folder, f"{name} in {SEALED} does not open") from error
            if stream.read(1) or digest.hexdigest() != self.manifest.files[SEALED]:
                raise _altered(self.folder, f"{SEALED} does not match {MANIFEST}")


def read(folder: Path, key: Key | None) -> tuple[bytes, bytes]:
    """The bytes of config.json and of the plain weights of a sealed folder, in memory alone. Raises as `Sealed.open` and
    `Sealed.pieces` do."""
    sealed, plain = Sealed.open(folder), io.BytesIO()
    for piece in sealed.pieces(key):
        plain.write(piece)
    return sealed.config, plain.getvalue()


def _sealed(description: Description, source: BinaryIO, cipher: AESGCM) -> Iterator[bytes]:
    for name, length, nonce, context in _pieces(description):
        piece = source.read(length)
        if len(piece) != length:
            raise UnsafeArtifactError(f"The weights end within the tensor {name}: they were cut short.")
        yield cipher.encrypt(nonce, piece, context)


def _pieces(description: Description) -> Iterator[tuple[str, int, bytes, bytes]]:
    """Of each piece of each tensor: its tensor's name, its plain length, its nonce and its associated data."""
    bound = sha256_of(description.model_dump(mode="json"))
    for entry in description.tensors:
        count, first = _count(entry.size), int(entry.nonce, 16)
        for index in range(count):
            nonce = ((first + index) % (1 << 8 * _NONCE)).to_bytes(_NONCE, "big")
            context = canonical_json([bound, entry.name, entry.dtype, list(entry.shape), index, index + 1 == count])
            yield entry.name, min(BLOCK, entry.size - index * BLOCK), nonce, context.encode()


def _count(size: int) -> int:
    """Pieces of a tensor of that many bytes; one for an empty tensor too, which so has a tag."""
    return max(1, -(-size // BLOCK))


def _body(description: Description, files: dict[str, str], tag: str | None = None) -> bytes:
    return canonical_json([description.model_dump(mode="json"), files, tag]).encode()


def _tag(key: bytes, description: Description, files: dict[str, str]) -> str:
    return hmac.digest(key, _body(description, files), "sha256").hex()


def _signed(description: Description, files: dict[str, str], tag: str) -> bytes:
    return b"trustsnn-sealed/1 signature\n" + _body(description, files, tag)


def _altered(folder: Path, what: str) -> UnsafeArtifactError:
    return UnsafeArtifactError(
        f"The sealed checkpoint {folder} does not open: {what}. Check the key, or copy the folder again from its source."
    )
