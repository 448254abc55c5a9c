"""Checkpoints: a folder with the weights (safetensors), what rebuilds the model (JSON), and a manifest of hashes.

Nothing is ever unpickled. Truncated, flipped or trailing bytes in any of the three files are detected before use.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from trustsnn import sealed
from trustsnn.canonical import canonical_json, sha256_file, sha256_of
from trustsnn.errors import ConfigError, ModelContractError, UnsafeArtifactError
from trustsnn.files import write_atomically, write_text
from trustsnn.keys import Key
from trustsnn.models.catalogue import BUILDERS, MODELS
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import rebuild
from trustsnn.neurons import SpikingNeuron

FORMAT = "trustsnn-checkpoint/1"
WEIGHTS, CONFIG, _MANIFEST = sealed.WEIGHTS, sealed.CONFIG, sealed.MANIFEST
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


def model_hash(model: nn.Module, probe: Tensor | None = None) -> str:
    """SHA-256 over a model's spec, architecture (of a foreign module: class and repr), every neuron's dynamics and estimator,
    and every tensor of its state: name, dtype, shape, bytes.

    A foreign module may hold more than its tensors say (a plain attribute, other code): its logits on the batch `probe`
    [B, ...] go in too, if they are the same twice.
    """
    spec = getattr(model, "spec", None)
    tensors = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(value.view(-1).view(torch.uint8).numpy().tobytes()) if value.numel() else hashlib.sha256()
        tensors[name] = [str(value.dtype), list(value.shape), digest.hexdigest()]
    neurons = {
        name: [module.dynamics.to_dict(), module.estimator.describe()]
        for name, module in model.named_modules()
        if isinstance(module, SpikingNeuron)
    }
    foreign = None if isinstance(model, SpikingNetwork) else [repr(getattr(model, "module", model)), _logits_digest(model, probe)]
    return sha256_of(
        {
            "spec": spec.to_dict() if spec else None,
            "architecture": built_as(model),
            "tensors": tensors,
            "neurons": neurons,
            "foreign": foreign,
        }
    )


def built_as(model: nn.Module) -> Any:
    """The architecture of a bundled model, the class of any other."""
    inner = getattr(model, "module", model)
    return getattr(model, "architecture", f"{type(inner).__module__}.{type(inner).__qualname__}")


def _logits_digest(model: nn.Module, probe: Tensor | None) -> str | None:
    if probe is None:
        return None
    try:
        with torch.no_grad():
            one, two = (model(probe).cpu().contiguous().numpy().tobytes() for _ in range(2))
    except (RuntimeError, TypeError, ValueError, AttributeError, ModelContractError):
        return None  # the contract check names it
    return hashlib.sha256(one).hexdigest() if one == two else None


def check_out(out: Path, training: dict[str, Any]) -> None:
    """ConfigError where `out` holds a checkpoint, such as the one that a command reads, which did not come about by `training`, a part
    of what `save` is given: to save there would lose it. For before anything takes time."""
    try:
        kept = json.loads((out / CONFIG).read_text()).get("training") or {}
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        kept = {}
    if (
        not kept
        or not training
        or any(canonical_json(kept.get(name)) != canonical_json(value) for name, value in training.items())
    ):
        raise ConfigError(f"{out} holds another checkpoint, which would be lost. Choose another --out, or remove it.")


def save(model: nn.Module, folder: Path | str, *, training: dict[str, Any] | None = None, key: Key | None = None) -> Path:
    """Write a bundled model as a checkpoint folder; `training` (plain values) says how it came about. With `key` its weights are
    sealed in memory and no plain byte of them is written.

    Each file is written to a temporary one, synced and renamed, the manifest last.

    Raises:
        ConfigError: no bundled model, or one whose weights are made from others, as inside `masked` and `GradR.applied`.
    """
    made = [name for name, module in model.named_modules() if is_parametrized(module)]
    if made:
        raise ConfigError(
            f"Expected plain weights, got a layer whose weight is made from another tensor ({made[0]}). Save the model outside `masked` or "
            "GradR.applied, or remove the parametrization."
        )
    architecture: Any = getattr(model, "architecture", None)
    if not isinstance(architecture, dict) or architecture.get("name") not in {*MODELS, *BUILDERS}:
        raise ConfigError(f"Expected a bundled trustsnn model, got {type(model).__name__}: save your own module's weights.")
    spec: Any = model.spec
    config = {"format": FORMAT, "architecture": architecture, "spec": spec.to_dict(), "training": training}
    return write_folder(Path(folder), model, config, key)


def write_folder(folder: Path, model: nn.Module, config: dict[str, Any], key: Key | None = None) -> Path:
    """Write the weights of `model`, sealed if there is a key, `config` (plain values) and their manifest, the manifest last."""
    other = folder / (sealed.SEALED if key is None else WEIGHTS)
    if other.exists():
        raise ConfigError(f"{other} is there already: plain and sealed weights do not go into one folder. Choose another.")
    weights = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    text = json.dumps(config, indent=1, sort_keys=True, allow_nan=False) + "\n"
    if key is not None:
        return sealed.write(folder, text.encode(), io.BytesIO(weights), key)
    write_atomically(folder / WEIGHTS, lambda path: path.write_bytes(weights))
    write_text(folder / CONFIG, text)
    write_manifest(folder, hashlib.sha256(weights).hexdigest(), text.encode())
    return folder


def write_manifest(folder: Path, weights: str, config: bytes) -> None:
    """Write the manifest of a plain checkpoint: the SHA-256 of its weights, which is given, and of its config.json."""
    write_text(folder / _MANIFEST, _manifest_text({WEIGHTS: weights, CONFIG: hashlib.sha256(config).hexdigest()}))


def load(folder: Path | str, *, key: Key | None = None) -> nn.Module:
    """The model of a checkpoint folder, in eval mode. A sealed one needs its key, and is opened in memory alone.

    Raises:
        ConfigError: there is no checkpoint at that path, or it is sealed and no key is given.
        UnsafeArtifactError: a pickle, a file that is truncated, altered, or does not fit the architecture, or a wrong key.
    """
    folder = Path(folder)
    config_text, weights = read_folder(folder, key)
    try:
        config = json.loads(config_text)
        if config["format"] != FORMAT:
            hint = " A language model is for `trustsnn generate` and `inspect`." if "language" in str(config["format"]) else ""
            raise UnsafeArtifactError(f"Expected format {FORMAT!r} in {folder / CONFIG}, got {config['format']!r}.{hint}")
        with torch.device("meta"):
            shape: Any = rebuild(config["architecture"])
        size = sum(tensor.numel() * tensor.element_size() for tensor in shape.state_dict().values())
        if size > len(weights) or shape.spec.to_dict() != config["spec"]:
            raise ConfigError("its architecture does not fit its spec and its weights")
        model = rebuild(config["architecture"])
    except UnsafeArtifactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError, ConfigError) as error:
        raise UnsafeArtifactError(f"{folder / CONFIG} does not describe a model of this version: {error}") from error
    load_tensors(model, weights, folder / WEIGHTS)
    return model.eval()


def read_folder(folder: Path, key: Key | None = None) -> tuple[bytes, bytes]:
    """The bytes of config.json and of the weights in a checkpoint folder that its manifest fits. Raises as `load` does."""
    if sealed.is_sealed(folder):
        return sealed.read(folder, key)
    if key is not None and folder.is_dir():
        raise ConfigError(f"{folder} is not sealed. Leave the key out, or seal it with: trustsnn seal {folder} --out SEALED ...")
    _refuse_pickles(folder)
    config, weights = _read_verified(folder)
    if _is_pickle(weights):
        raise UnsafeArtifactError(_pickle_message(folder / WEIGHTS))
    return config, weights


def check_folder(folder: Path) -> bytes:
    """The bytes of config.json of a plain checkpoint folder that its manifest fits, which is found without holding the weights in
    memory. Raises as `load` does."""
    if sealed.is_sealed(folder):
        raise ConfigError(f"{folder} is sealed already.")
    _refuse_pickles(folder)
    with _reading(folder):
        manifest_text, config, weights = (
            (folder / _MANIFEST).read_bytes(),
            (folder / CONFIG).read_bytes(),
            sha256_file(folder / WEIGHTS),
        )
    _check_manifest(folder, manifest_text, {WEIGHTS: weights, CONFIG: hashlib.sha256(config).hexdigest()})
    return config


def load_network(folder: Path | str, *, key: Key | None = None) -> SpikingNetwork:
    """As `load`; ConfigError for a bundled model that is no `SpikingNetwork`."""
    model = load(folder, key=key)
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(f"Expected a network of layers in {folder}, got {type(model).__name__}. See: trustsnn list models")
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file; ConfigError if it cannot be read, else as `load_tensors`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Could not read the weights {path}: {error.strerror}.") from error
    load_tensors(model, content, path)


def load_tensors(model: nn.Module, content: bytes, path: Path) -> None:
    """Fill `model` from the bytes of a safetensors file, strictly: same names, shapes and dtypes.

    Raises:
        UnsafeArtifactError: the bytes are no safetensors, or a tensor is missing, extra, or of another shape or dtype.
    """
    if _is_pickle(content):
        raise UnsafeArtifactError(_pickle_message(path))
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UnsafeArtifactError(f"{path} is not a whole safetensors file: {error}. Copy or download it again.") from error
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name}: expected {_kind(expected[name])}, got {_kind(tensors[name])}"
        for name in expected.keys() & tensors.keys()
        if _kind(expected[name]) != _kind(tensors[name])
    ]
    if problems:
        raise UnsafeArtifactError(f"The tensors of {path} do not fit the model: {'; '.join(sorted(problems)[:5])}.")
    model.load_state_dict(tensors)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _manifest_text(files: dict[str, str]) -> str:
    body = {"format": FORMAT, "files": files}
    return canonical_json({**body, "sha256": sha256_of(body)}) + "\n"


def _is_pickle(content: bytes) -> bool:
    """Whether a file begins as a pickle or torch's archive of one. A safetensors file may begin with the same byte, the lowest of its header's
    length; its header follows after 8 bytes."""
    return content.startswith(_PICKLE_STARTS) and content[8:9] != b"{"


def _pickle_message(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run code when it is read; trustsnn never opens one. Convert it where you trust it, "
        "with safetensors.torch.save_file, and pass the result."
    )


def _refuse_pickles(path: Path) -> None:
    if path.is_file():
        with open(path, "rb") as stream:
            start = stream.read(9)
        if _is_pickle(start):
            raise UnsafeArtifactError(_pickle_message(path))
        raise ConfigError(f"Expected a checkpoint folder, got the file {path}.")
    if not path.is_dir():
        raise ConfigError(f"There is no checkpoint folder at {path}. Train one with: trustsnn train bptt ... --out {path}")
    if not (path / WEIGHTS).exists():
        pickles = sorted(p for p in path.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"))
        if pickles:
            raise UnsafeArtifactError(_pickle_message(pickles[0]))
        raise ConfigError(f"Expected {WEIGHTS}, {CONFIG} and {_MANIFEST} in {path}; {WEIGHTS} is not there.")


def _read_verified(folder: Path) -> tuple[bytes, bytes]:
    with _reading(folder):
        manifest_text = (folder / _MANIFEST).read_bytes()
        config, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    files = {WEIGHTS: hashlib.sha256(weights).hexdigest(), CONFIG: hashlib.sha256(config).hexdigest()}
    _check_manifest(folder, manifest_text, files)
    return config, weights


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UnsafeArtifactError(f"The checkpoint {folder} is not whole: {error.filename} is missing.") from error
    except OSError as error:
        raise ConfigError(f"Could not read the checkpoint {folder}: {error}.") from error


def _check_manifest(folder: Path, manifest_text: bytes, files: dict[str, str]) -> None:
    if manifest_text != _manifest_text(files).encode():
        altered = _altered(manifest_text, files)
        raise UnsafeArtifactError(
            f"The checkpoint {folder} was altered or cut short: {altered} does not match {_MANIFEST}. "
            "Copy it again from its source, or train it again."
        )


def _altered(manifest_text: bytes, files: dict[str, str]) -> str:
    try:
        stated = json.loads(manifest_text)["files"]
        names = [name for name, digest in files.items() if stated.get(name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = []
    return " and ".join(names) if names else _MANIFEST


__all__ = ["FORMAT", "load", "load_tensors", "model_hash", "save"]
