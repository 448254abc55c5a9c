"""`trustsnn keygen`, `seal`, `unseal` and `verify`, and the options by which other commands open a sealed model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustsnn.cli import train as options
from trustsnn.cli.made import made_by
from trustsnn.data import splits
from trustsnn.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from numpy.typing import NDArray

    from trustsnn.keys import Key

KeyOption = Any  # Key | None, see `takes_key`
PublicOption = Annotated[
    Path | None, typer.Option("--public", help="Ed25519 public key (PEM): the signature must be of its private half.")
]


def key_of(
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Key of a sealed model: a file of 32 bytes or 64 hexadecimal digits.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="The environment variable that holds the key, 64 hexadecimal digits.")
    ] = None,
    passphrase_env: Annotated[
        str | None, typer.Option("--passphrase-env", help="The environment variable that holds the passphrase.")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for the passphrase.")] = False,
    *,
    new: bool = False,
) -> KeyOption:
    """The key that the options name; None without any. `new`: for sealing, so that a passphrase is asked for twice."""
    from trustsnn.keys import Key, is_private

    if sum(map(bool, (key_file, key_env, passphrase_env, passphrase))) > 1:
        raise ConfigError("Expected one of --key-file, --key-env, --passphrase-env and --passphrase, got more.")
    if key_file is not None:
        key = Key.from_file(key_file)
        if not is_private(key_file):
            typer.echo(f"warning: others can read the key file {key_file}. Mend it with: chmod 600 {key_file}", err=True)
        return key
    if key_env is not None:
        return Key.from_environment(key_env)
    if passphrase_env is not None:
        return Key.from_passphrase_environment(passphrase_env)
    if passphrase:
        return Key.from_passphrase(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))
    return None


takes_key = made_by(key_of, "key", new=False)


def keygen(
    file: Annotated[Path, typer.Argument(help="A new file, which its owner alone can read.")],
    signing: Annotated[
        bool, typer.Option("--signing", help="An Ed25519 key for signatures; FILE.pub is its public half.")
    ] = False,
) -> None:
    """Make a random key for `trustsnn seal`. A key that is lost opens nothing any more."""
    from trustsnn.keys import new_key, new_signing_key

    if signing:
        typer.echo(f"{file} signs; {new_signing_key(file)} verifies and may be given away.")
    else:
        new_key(file)
        typer.echo(str(file))


@made_by(key_of, "key", new=True)
def seal(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder. It stays as it is.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder, the sealed checkpoint.")],
    key: KeyOption = None,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key (PEM) that signs the manifest.")] = None,
    selective: Annotated[
        float | None,
        typer.Option(help="Seal at most this share of the bits, such as 1e-4, chosen so that the rest is at chance."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="With --selective: the data set of the search and of its test.")
    ] = None,
    samples: Annotated[int, typer.Option(help="With --selective: training samples of the search.")] = 512,
    seed: Annotated[int, typer.Option(help="With --selective: of the samples and of every draw.")] = 0,
    data_root: options.RootOption = None,
    download: options.DownloadOption = False,
) -> None:
    """Encrypt the weights of a checkpoint (AES-256-GCM). Commands with --key-file open it in memory."""
    if key is None:
        raise ConfigError(
            "Expected a key: --key-file, --key-env, --passphrase-env or --passphrase. Make one with: trustsnn keygen FILE"
        )
    if (selective is None) != (data is None):
        raise ConfigError("--selective and --data go together: the bits are searched for on a data set.")
    if out.exists():
        raise ConfigError(f"{out} is there already. Choose another folder, or remove it.")
    signing, bits = _signing(sign), None
    if selective is not None and data is not None:
        bits = _search(model, selective, data, samples, seed, data_root, download)
    from trustsnn.defenses.seal import seal as seal_folder

    seal_folder(model, out, key, signing=signing, bits=bits)
    typer.echo(f"{out} is sealed. The plain model is still in {model}, and what its training left there too: remove it yourself.")


@takes_key
def unseal(
    sealed: Annotated[Path, typer.Argument(help="A sealed checkpoint folder.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder, the plain checkpoint.")],
    key: KeyOption = None,
    public: PublicOption = None,
) -> None:
    """Write the plain checkpoint of a sealed one, byte for byte as it was."""
    if key is None:
        raise ConfigError("Expected the key: --key-file, --key-env, --passphrase-env or --passphrase.")
    from trustsnn.defenses.seal import unseal as unseal_folder

    typer.echo(str(unseal_folder(sealed, out, key, public=_public(public))))


@takes_key
def verify(
    sealed: Annotated[Path, typer.Argument(help="A sealed checkpoint folder.")],
    public: PublicOption = None,
    key: KeyOption = None,
) -> None:
    """Check a sealed checkpoint by its signature, by its key, or by both. Nothing is written."""
    from trustsnn.defenses.seal import verify as verify_folder

    found = verify_folder(sealed, key=key, public=_public(public))
    what = f"{found.count:,} {'tensors' if found.kind == 'weights' else 'bits, the others plain'}"
    signed = f"signed by {found.signer}" if found.signer else "not signed"
    signed += "" if public is not None or not found.signer else " (no --public was given to hold that against)"
    typer.echo(f"{sealed}: {what}; {'each opens with the key' if found.opened else 'not opened, for want of the key'}; {signed}.")


def opened(model: str, key: Key | None, weights: Path | None) -> Any:
    """What an audit takes as its model: `model` as it was given or, with a key, the network that it opens, in memory."""
    if key is None:
        return model
    if weights is not None:
        raise ConfigError("--weights goes with package.module:callable; a sealed checkpoint holds its own weights.")
    from trustsnn.checkpoint import load

    return load(Path(model).expanduser(), key=key)


def _signing(path: Path | None) -> Ed25519PrivateKey | None:
    from trustsnn.keys import read_signing_key

    return None if path is None else read_signing_key(path)


def _public(path: Path | None) -> Ed25519PublicKey | None:
    from trustsnn.keys import read_public_key

    return None if path is None else read_public_key(path)


def _search(
    folder: Path, share: float, data: str, samples: int, seed: int, data_root: Path | None, download: bool
) -> NDArray[np.int64]:
    """The places of the bits to seal, with the accuracy without them said line by line; ConfigError if they are not enough."""
    if not 0 < share <= 1 or samples < 1:
        raise ConfigError(f"Expected --selective in (0, 1] and --samples of at least 1, got {share} and {samples}.")
    options.prepare(None)
    from trustsnn.checkpoint import WEIGHTS, load
    from trustsnn.defenses.seal import selective
    from trustsnn.runners.resolve import fit

    model: Any = load(folder)
    sets = splits(data, data_root, download, model.spec.steps)
    train, test = sets["train"], sets["test"]
    fit(model, test)
    total = selective.bits_of(model)
    if share * total < 1:
        raise ConfigError(f"--selective {share:g} is less than one of the model's {total:,} bits. Raise it.")
    found = selective.search(model, train, int(share * total), samples=samples, seed=seed)
    for count, left in selective.curve(model, test, found.signs, seed=seed).items():
        typer.echo(
            f"{count:>6} bits ({count / total:.1e} of all) sealed: {left['value']:.1%} of {left['count']} {test.split} samples "
            f"correct without the key (95 % interval {left['low']:.1%} to {left['high']:.1%})"
        )
    if not found.collapsed:
        raise ConfigError(
            f"{len(found.signs)} bits leave {found.accuracy['value']:.1%} of {found.accuracy['count']} {train.split} samples correct "
            f"without the key; chance is {found.chance:.1%}. Nothing was written. Raise --selective, or seal all weights."
        )
    return selective.places(folder / WEIGHTS, found.signs)
