"""Whatever is changed in a sealed folder is refused, with one error type, by the key alone and by the signature alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.checkpoint import read_folder
from trustsnn.defenses.seal import seal, unseal, verify
from trustsnn.errors import UnsafeArtifactError
from trustsnn.keys import Key
from trustsnn.rng import stream
from trustsnn.sealed import BLOCK, Sealed, _pieces, is_sealed

TAG = 16
CHANGES = 1000


@pytest.fixture
def refused(key, signing, tmp_path):
    """A function that fails unless every way to read a sealed folder refuses it. `by`: "key", "public" or both."""

    def check(folder, by=("key", "public")):
        if "key" in by:
            with pytest.raises(UnsafeArtifactError):
                read_folder(folder, key)
            with pytest.raises(UnsafeArtifactError):
                verify(folder, key=key)
        if "public" in by:
            with pytest.raises(UnsafeArtifactError):
                verify(folder, public=signing.public_key())

    return check


@pytest.fixture(params=["weights", "bits"])
def any_sealed(request, small, key, signing, tmp_path):
    """`small`, sealed whole or but for a few bits, and signed."""
    bits = np.array([8 * 400 + 7, 8 * 404 + 7]) if request.param == "bits" else None
    return seal(small, tmp_path / "any", key, signing=signing, bits=bits)


def test_a_thousand_single_bits(any_sealed, refused, key, contents):
    before = contents(any_sealed)
    sizes = {name: 8 * len(content) for name, content in before.items()}
    draws = stream(0, "test/bits")
    names = sorted(sizes)
    for number in range(CHANGES):
        name = names[number % len(names)]
        place = int(draws.integers(sizes[name]))
        content = bytearray(before[name])
        content[place // 8] ^= 1 << place % 8
        (any_sealed / name).write_bytes(content)
        refused(any_sealed)
        (any_sealed / name).write_bytes(before[name])
    verify(any_sealed, key=key)


def test_cut_or_longer_anywhere(any_sealed, refused, contents):
    for name, content in contents(any_sealed).items():
        path = any_sealed / name
        lengths = {
            0,
            1,
            len(content) // 2,
            len(content) - TAG,
            len(content) - 1,
            *range(0, len(content), max(1, len(content) // 25)),
        }
        for changed in [*(content[:length] for length in lengths), content + b"\0", content + b"\n", content + content]:
            path.write_bytes(changed)
            refused(any_sealed)
        path.unlink()
        refused(any_sealed)
        path.write_bytes(content)


def test_what_is_read_is_what_is_checked(small, key, tmp_path, monkeypatch):
    """Another process changes the weights while they are read: whatever was hashed before does not count."""
    folder = seal(small, tmp_path / "few", key, bits=np.array([8 * 400 + 7, 8 * 404 + 7]))
    weights = folder / "model.safetensors"
    opened = Sealed.pieces

    def altered(self, given):
        pieces = opened(self, given)
        content = bytearray(weights.read_bytes())
        content[-8] ^= 1
        self.check_files()
        weights.write_bytes(content)
        yield from pieces

    monkeypatch.setattr(Sealed, "pieces", altered)
    with pytest.raises(UnsafeArtifactError, match=r"model\.safetensors does not match"):
        unseal(folder, tmp_path / "again", key)
    assert not (tmp_path / "again").exists()


def replace_manifest(folder, change):
    """Write the manifest again with `change(manifest)` done to it, in its canonical form: what one without the key can do."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(canonical_json(manifest) + "\n")


def test_swapped_tensors(sealed, refused):
    """a and b have one dtype and shape: only their names, order and nonces tell them apart."""
    content = (sealed / "model.sealed").read_bytes()
    tensors = json.loads((sealed / "manifest.json").read_text())["description"]["tensors"]
    order = [tensor["name"] for tensor in tensors]
    assert sorted(order) == ["a", "b", "c"]
    one, two = order.index("a"), order.index("b")
    sizes = [TAG + 8 * 3 if name == "c" else TAG + 4 * 12 for name in order]
    starts = np.cumsum([0, *sizes])
    pieces = [content[starts[i] : starts[i + 1]] for i in range(3)]
    pieces[one], pieces[two] = pieces[two], pieces[one]
    (sealed / "model.sealed").write_bytes(b"".join(pieces))
    refused(sealed)

    def with_nonces(manifest):
        entries = manifest["description"]["tensors"]
        entries[one]["nonce"], entries[two]["nonce"] = entries[two]["nonce"], entries[one]["nonce"]

    replace_manifest(sealed, with_nonces)
    refused(sealed)

    def with_names(manifest):
        entries = manifest["description"]["tensors"]
        entries[one], entries[two] = entries[two], entries[one]

    replace_manifest(sealed, with_names)
    refused(sealed)


def test_what_the_pieces_themselves_are_bound_to(plain, key, tmp_path, monkeypatch):
    """Without the manifest's tag, the hash and the signature, AES-GCM alone still refuses order, end, name, shape and dtype."""
    folder = seal(plain, tmp_path / "sealed", key)
    opened = Sealed.open(folder)
    cipher, _ = key.derive(bytes.fromhex(opened.manifest.description.salt), None)
    content = (folder / "model.sealed").read_bytes()
    entry = max(opened.manifest.description.tensors, key=lambda each: each.size)
    assert entry.size > 2 * BLOCK
    described = list(_pieces(opened.manifest.description))
    starts = np.cumsum([0, *(length + TAG for _, length, _, _ in described)])
    rows = [row for row, piece in enumerate(described) if piece[0] == entry.name]
    sealed = {row: content[starts[row] : starts[row + 1]] for row in rows}
    aes = AESGCM(cipher)
    for index, row in enumerate(rows):
        assert json.loads(described[row][3])[1:] == [entry.name, "F32", [600_000], index, row == rows[-1]]
        for other in rows:
            if row == other:
                aes.decrypt(described[row][2], sealed[row], described[row][3])
                continue
            with pytest.raises(InvalidTag):
                aes.decrypt(described[row][2], sealed[other], described[row][3])
            with pytest.raises(InvalidTag):
                aes.decrypt(described[other][2], sealed[other], described[row][3])  # the right nonce, another number
    # under the digest of the true description, so that only what is said of this tensor differs
    true = sha256_of(opened.manifest.description.model_dump(mode="json"))
    monkeypatch.setattr("trustsnn.sealed.sha256_of", lambda _: true)
    first = rows[0]
    for change in ({"name": "other"}, {"dtype": "I32"}, {"shape": (1, 600_000)}, {"shape": (BLOCK // 4,)}):
        changed = opened.manifest.description.model_copy(update={"tensors": (entry.model_copy(update=change),)})
        piece = next(_pieces(changed))
        assert piece[2] == described[first][2]
        with pytest.raises(InvalidTag):
            aes.decrypt(piece[2], sealed[first], piece[3])


def test_parts_of_another_sealing_of_the_same_model(small, sealed, key, signing, refused, contents, tmp_path):
    other = contents(seal(small, tmp_path / "other", key, signing=signing))
    before = contents(sealed)
    assert before["config.json"] == other["config.json"]
    for name in ("manifest.json", "model.sealed"):
        (sealed / name).write_bytes(other[name])
        refused(sealed)
        (sealed / name).write_bytes(before[name])
    theirs = json.loads(other["manifest.json"])
    for part in ("tag", "signature", "files", "description"):
        replace_manifest(sealed, lambda manifest, part=part: manifest.update({part: theirs[part]}))
        refused(sealed)
        (sealed / "manifest.json").write_bytes(before["manifest.json"])


def test_the_plain_config_is_bound_too(sealed, refused):
    config = (sealed / "config.json").read_bytes()
    (sealed / "config.json").write_bytes(config.replace(b"test/1", b"test/2"))
    refused(sealed)


def test_who_has_the_key_does_not_change_what_another_has_signed(sealed, key):
    """The same nonces and keys, another content: every tag is right, and the hash under the signature is not."""
    opened = Sealed.open(sealed)
    cipher = AESGCM(key.derive(bytes.fromhex(opened.manifest.description.salt), None)[0])
    content = b"".join(
        cipher.encrypt(nonce, bytes(length), context) for _, length, nonce, context in _pieces(opened.manifest.description)
    )
    (sealed / "model.sealed").write_bytes(content)
    with pytest.raises(UnsafeArtifactError, match="does not match"):
        verify(sealed, key=key)


@pytest.mark.parametrize("strip", ["signature", "both"])
def test_a_signature_does_not_come_off(strip, sealed, refused):
    def change(manifest):
        manifest["signature"] = None
        if strip == "both":
            manifest["description"]["signer"] = None

    replace_manifest(sealed, change)
    refused(sealed)


def test_a_signature_does_not_come_on(small, key, refused, tmp_path):
    folder = seal(small, tmp_path / "unsigned", key)
    replace_manifest(folder, lambda manifest: manifest.update(signature="00" * 64))
    refused(folder)


def test_another_signer(small, sealed, key, refused, tmp_path):
    theirs = seal(small, tmp_path / "theirs", key, signing=Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1"))
    refused(theirs, by=("public",))
    verify(theirs, key=key)
    unsigned = seal(small, tmp_path / "unsigned", key)
    refused(unsigned, by=("public",))


def test_wrong_keys(sealed, key, contents, tmp_path):
    before = contents(sealed)
    wrong = [Key(bytes([key.secret[0] ^ 1 << bit]) + key.secret[1:]) for bit in range(8)]
    wrong += [Key(bytes(32)), Key(key.secret[::-1]), Key.from_passphrase("guess")]
    for each in wrong:
        with pytest.raises(UnsafeArtifactError, match="wrong key"):
            unseal(sealed, tmp_path / "out", each)
        with pytest.raises(UnsafeArtifactError, match="wrong key"):
            read_folder(sealed, each)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]
    assert contents(sealed) == before


def test_unsealing_leaves_nothing_of_what_was_altered(plain, key, tmp_path):
    sealed = seal(plain, tmp_path / "sealed", key)
    content = bytearray((sealed / "model.sealed").read_bytes())
    content[-1] ^= 1  # the last piece: all before it opens
    (sealed / "model.sealed").write_bytes(content)
    with pytest.raises(UnsafeArtifactError):
        unseal(sealed, tmp_path / "out", key)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


HOSTILE = {
    "1 GiB of scrypt and more": lambda d: d.update(stretch={"kdf": "scrypt", "log2_n": 40, "r": 8, "p": 1}),
    "scrypt in parallel": lambda d: d.update(stretch={"kdf": "scrypt", "log2_n": 17, "r": 8, "p": 10**6}),
    "weak scrypt": lambda d: d.update(stretch={"kdf": "scrypt", "log2_n": 1, "r": 8, "p": 1}),
    "a huge tensor": lambda d: d["tensors"][0].update(shape=[2**40]),
    "a huge shape": lambda d: d["tensors"][0].update(shape=[2**47] * 60),
    "a negative shape": lambda d: d["tensors"][0].update(shape=[-12]),
    "an unknown dtype": lambda d: d["tensors"][0].update(dtype="pickle"),
    "more keys": lambda d: d.update(hook="os.system"),
    "an older format": lambda d: d.update(format="trustsnn-sealed/0"),
    "a short nonce": lambda d: d["tensors"][0].update(nonce="00"),
    "no tensors": lambda d: d.update(tensors=[]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_before_anything_is_computed(name, small, key, monkeypatch, tmp_path):
    used = Key.from_passphrase("correct horse") if "scrypt" in name else key
    folder = seal(small, tmp_path / "unsigned", used)  # a signature would refuse it too

    def never(*_, **__):
        raise AssertionError("a hostile manifest reached the key derivation")

    monkeypatch.setattr(Key, "derive", never)
    replace_manifest(folder, lambda manifest: HOSTILE[name](manifest["description"]))
    with pytest.raises(UnsafeArtifactError):
        read_folder(folder, used)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"description":' * 5000, b"1" * 5000]
)
def test_a_manifest_that_is_none(text, sealed, refused):
    (sealed / "manifest.json").write_bytes(text)
    refused(sealed)


def test_a_damaged_folder_is_still_known_as_sealed(sealed, refused):
    (sealed / "model.sealed").unlink()
    assert is_sealed(sealed)
    refused(sealed)
