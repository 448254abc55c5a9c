"""What the server sees of a client's update: clipped, compressed or masked, as the federation's settings have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from trustsnn.errors import TrustSNNError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.coding import parse as compression
from trustsnn.federated.compression import compress, decompress, shapes_of
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.privacy import clipped
from trustsnn.federated.secure import Client, Server
from trustsnn.federated.secure.fixed_point import layout_of, unflatten
from trustsnn.federated.summing import settings_of
from trustsnn.federated.validation import Answer, malformed
from trustsnn.rng import stream


def seen_by_server(config: FederatedConfig, update: Arrays) -> tuple[Arrays, bytes]:
    """What a server can make of one client's update in a round, and the bytes of the masked vector, none without secure aggregation.

    Under secure aggregation the other clients are there as well, with updates of zeros: the view is the masked vector of this one, read
    as if it were a plain one.
    """
    if config.privacy is not None and config.privacy.unit == "client":
        update = clipped(update, config.privacy.clip)[0]
    if config.compression != "none":
        scheme = compression(config.compression)
        update = decompress(compress(update, scheme, stream(config.seed, "view")).payload, scheme, shapes_of(update))
    if config.secure is None:
        return update, b""
    settings, layout = settings_of(config), layout_of(update)
    clients = [Client(number, settings, "view", 0) for number in range(config.asked)]
    server = Server(settings, "view", 0, range(config.asked), layout)
    for number, client in enumerate(clients):
        server.receive(number, client.advertise_keys())
    cohort = server.cohort()
    for number, client in enumerate(clients):
        server.receive(number, client.share_keys(cohort))
    sent = clients[0].masked_input(server.relayed()[0], update, 1)
    return _unmasked(config, sent.vector, layout), sent.vector


def as_read(config: FederatedConfig, sent: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    """The update in what a client sent upon training, as `Exchange.seen` keeps it: unpacked where it was compressed, and a masked vector read
    as if it were none. None where nothing can be made of it."""
    if config.secure is not None:
        return _unmasked(config, sent["vector"].tobytes(), dict(shapes)) if "vector" in sent else None
    try:
        update = decompress(sent["payload"].tobytes(), compression(config.compression), shapes) if "payload" in sent else sent
    except TrustSNNError:
        return None
    answer = Answer(update, 1)
    return None if malformed(answer, shapes) else dict(update)


def _unmasked(config: FederatedConfig, vector: bytes, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    assert config.secure is not None
    ring = settings_of(config).ring
    signed = np.frombuffer(vector, f"<i{ring // 8}")[:-1].astype(np.float64)  # the last entry is the weight
    read = signed / 2.0 ** (ring - 1) * config.secure.clip  # as large as an update may be
    return {name: np.asarray(each, np.float32) for name, each in unflatten(read, shapes).items()}


def looks_random(vector: bytes) -> float:
    """The p-value of a chi-square test that the bytes are uniform: small where the vector says something of what it hides."""
    counts = np.bincount(np.frombuffer(vector, np.uint8), minlength=256)
    expected = len(vector) / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))
