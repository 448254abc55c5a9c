"""The checker with the model and the data at hand: draws are repeated, bounds are computed once more by the slow implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.defenses.certify import slow
from trustsnn.defenses.certify.checker import check
from trustsnn.defenses.certify.layers import check_network
from trustsnn.defenses.certify.method import Method
from trustsnn.defenses.certify.rate import Rate
from trustsnn.defenses.certify.smoothing import Smoothing
from trustsnn.errors import ConfigError, UnsafeArtifactError

_NEAR = 1e-3  # of margins by two implementations in float64, whose sums have other orders
_SAMPLED: dict[str, type[Method]] = {"smoothing": Smoothing, "rate": Rate}


def check_again(
    content: dict[str, Any],
    model: nn.Module,
    data: Dataset,
    *,
    samples: int | None = None,
    where: str = "the certificates",
    on_sample: Callable[[str], None] | None = None,
) -> int:
    """As `check`, and what the file alone cannot decide: the same draws give the same entry, and the slow bounds verify the radius of every
    entry. The number of samples that were done again: the first `samples` of the file, or all.

    Raises:
        ConfigError: the model or the data is not that of the file.
        UnsafeArtifactError: an entry does not come out again.
    """
    check(content, where)
    if model_hash(model) != content["model"]["hash"]:
        raise ConfigError(f"{where} are of another model: expected the hash {content['model']['hash']}, got {model_hash(model)}.")
    rows = {name: row for row, name in enumerate(data.ids)}
    entries = content["samples"][:samples]
    missing = [entry["sample"] for entry in entries if entry["sample"] not in rows]
    if missing:
        raise ConfigError(f"{where} are of other data: {data.name} has no sample {missing[0]}. Pass {content['data']['name']}.")
    with frozen(model):
        for entry in entries:
            x, y = data.batch([rows[entry["sample"]]])
            if int(y[0]) != entry["label"]:
                raise ConfigError(
                    f"{where} are of other data: the label of {entry['sample']} is {int(y[0])}, not {entry['label']}."
                )
            reason = _differs(content, model, torch.from_numpy(x)[0], entry)
            if reason is not None:
                raise UnsafeArtifactError(f"{where}: sample {entry['sample']}: {reason}. Certify again.")
            if on_sample is not None:
                on_sample(entry["sample"])
    return len(entries)


def _differs(content: dict[str, Any], model: nn.Module, x: torch.Tensor, entry: dict[str, Any]) -> str | None:
    if content["method"] in _SAMPLED:
        found = _SAMPLED[content["method"]](**content["settings"]).entry(model, x, entry["sample"])
        stated = {key: entry.get(key) for key in found}
        return None if found == stated else f"the same draws give {found}, the file says {stated}"
    network, settings = check_network(model), content["settings"]
    label = int(predict(model, x[None]).argmax(1))
    if label != entry["prediction"]:
        return f"the model says {label}, the file {entry['prediction']}"
    if entry["radius"] is None:
        return None
    crown = content["method"] == "crown"
    least = float(slow.margins(network, x.double().numpy(), label, entry["radius"], crown=crown, refine=settings["refine"]).min())
    if least <= 0:
        return f"at eps {entry['radius']} the slow bounds leave a margin of {least}"
    near = abs(entry["margin"] - least) <= _NEAR * max(1.0, abs(least))
    return None if near else f"at eps {entry['radius']} the slow bounds leave a margin of {least}, not of {entry['margin']}"
