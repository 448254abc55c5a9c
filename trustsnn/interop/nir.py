"""NIR files in and out: `read` makes a model of a graph, `write` a graph of a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trustsnn.errors import ConfigError
from trustsnn.files import write_atomically
from trustsnn.interop import hdf5, hdf5_writer
from trustsnn.interop.graph_model import GraphModel
from trustsnn.interop.nir_graph import graph_of, tree_of
from trustsnn.interop.nir_read import model_of
from trustsnn.interop.nir_settings import Settings, parse
from trustsnn.interop.nir_write import Written, graph_from
from trustsnn.interop.plain import structure
from trustsnn.models import SpikingNetwork

SUFFIX = ".nir"


def read(path: Path | str, settings: Settings | None = None) -> SpikingNetwork | GraphModel:
    """The model of a NIR file, in eval mode. What NIR leaves open comes from `settings`, else from the file's metadata.

    Raises:
        ConfigError: there is no such file, or a setting is missing (the message names it).
        UnsafeArtifactError: the file is damaged, or its graph cannot be represented (the message names the node).
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"Could not read {path}: {error.strerror}.") from error
    graph = graph_of(hdf5.parse(content, str(path)), str(path))
    model = model_of(graph, settings or Settings(), hashlib.sha256(content).hexdigest())
    model.architecture["arguments"] |= structure(model)
    return model


def read_named(text: str) -> SpikingNetwork | GraphModel:
    """As `read`, of "FILE.nir" or "FILE.nir:dt=1e-4,time_steps=25"."""
    path, _, settings = text.partition(f"{SUFFIX}:")
    return read(path + SUFFIX if settings else text, parse(settings))


def write(model: SpikingNetwork, path: Path | str, *, dt: float) -> Written:
    """Write a network as a NIR file. What plain NIR has no place for stands in the metadata of its nodes, and in the warnings returned.

    Args:
        dt: the time step in seconds, which the graph's time constants refer to.

    Raises:
        ConfigError: a layer has no place in NIR; the message names it.
    """
    found = graph_from(model, dt)
    content = hdf5_writer.encode(tree_of(found.graph))
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))
    return found


def is_nir(text: str) -> bool:
    """Whether what a user names is a NIR file, with settings or without."""
    return text.endswith(SUFFIX) or f"{SUFFIX}:" in text


__all__ = ["Settings", "is_nir", "read", "read_named", "write"]
