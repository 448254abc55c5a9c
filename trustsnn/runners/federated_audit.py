"""`trustsnn federate audit`: what a federation tells about its clients' samples, round by round, and what its settings keep from the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustsnn.attacks.leakage.analytic import analytic, first_layer
from trustsnn.attacks.leakage.gradient_inversion import GradientInversion
from trustsnn.attacks.leakage.membership import loss_threshold
from trustsnn.attacks.leakage.roc import area, rates
from trustsnn.attacks.leakage.signals import signals
from trustsnn.attacks.leakage.similarity import EXACT, psnr, spread
from trustsnn.attacks.leakage.updates import Reconstruction, Update, simulate
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError, RunError
from trustsnn.federated.arrays import load_arrays
from trustsnn.federated.client import Site, network
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.rounds import STATE, read
from trustsnn.federated.view import as_read, looks_random, seen_by_server
from trustsnn.files import write_text
from trustsnn.keys import Key
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.federated_audit import FORMAT, page
from trustsnn.rng import Draws
from trustsnn.runners.environment import environment
from trustsnn.runners.federated import CONFIG
from trustsnn.runners.judged import Judged
from trustsnn.runners.subject import data_record

FPR = 0.01
_AT_ONCE = 8  # images that are sought in a whole update


@dataclass(frozen=True)
class Plan:
    """What is audited.

    samples: members, and as many others of the test split, that membership is asked of; of each client a quarter of that at most.
    every: rounds between two that are asked; the last is always there.
    images: samples whose one-sample updates are inverted.
    iterations: of that search, where the first layer is no linear one.
    most: a gate: the share of members found at 1 % false alarms after the last round.
    """

    samples: int = 2000
    every: int = 5
    images: int = 8
    iterations: int = 200
    most: float | None = None


def audit(
    run: Path, out: Path, plan: Plan | None = None, *, root: Path | None = None, code: str | None = None, key: Key | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Audit a folder of `trustsnn federate --keep`; write audit.json and audit.html. `code`: what makes the module, in a federation of one.
    `key`: opens a sealed one.

    Raises:
        RunError: the folder holds no federation, or none whose rounds were kept.
    """
    plan = plan or Plan()
    if not (run / CONFIG).exists():
        raise RunError(f"There is no federation in {run}. Make one with: trustsnn federate --data ... --out {run} --keep")
    config = FederatedConfig.read(run / CONFIG)
    site = Site(config, root, code=code)
    globals_ = sorted((run / "rounds").glob("global-*.safetensors"))
    if not globals_:
        raise RunError(f"{run} kept no model of its rounds. Run the same command with --keep, in another folder.")
    if not (run / "federated.json").exists():
        raise RunError(f"The federation in {run} has not ended. The same command goes on with it.")
    federation = json.loads((run / "federated.json").read_text())
    chosen = [path for number, path in enumerate(globals_) if number % plan.every == 0 or path == globals_[-1]]
    members, others = _sides(site, plan)
    rounds = []
    for path in chosen:
        model = _model(site, path, key)
        number = int(path.stem.partition("-")[2])
        inside, outside = (_scores(model, each, config.seed) for each in (members, others))
        figure: dict[str, Any] = {
            "round": number,
            "auc": area(inside, outside),
            "tpr": rates(inside, outside, [FPR], seed=config.seed)[0],
        }
        rounds.append(figure)
        told(f"round {number}: loss attack, AUC {figure['auc']['value']:.3f}")
    last = _model(site, chosen[-1], key)
    record: dict[str, Any] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": data_record(site.data),
        "members": len(members),
        "rounds": rounds,
        "clients": _clients(site, last, others, plan, config),
        "inversion": _inversion(config, _model(site, chosen[0], key), site, plan, told),
        "observed": _observed(run, site, plan, told, key),
        "backdoor": [
            {"round": row["round"], **row["backdoor"]} for row in federation["rounds"] if "backdoor" in row
        ],
        "posture": posture(config),
        "gate": _gate(rounds[-1], plan.most),
        "environment": environment(),
    }  # fmt: skip
    pictures = record["inversion"].pop("pictures")
    write_text(out / "audit.html", page(record, pictures, federation))
    write_text(out / "audit.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "audit.html", 0 if record["gate"] is None else record["gate"]["exit_code"])


def posture(config: FederatedConfig) -> list[str]:
    """What the settings do and do not protect, and what of it only the deployment decides, in words."""
    found = []
    if config.secure is None:
        found.append("The server sees every client's update by itself. Whoever holds the server can try to invert it.")
    else:
        found.append(
            "Secure aggregation: an honest but curious server sees the sum of a round alone, and a bad update as little as a good one."
        )
    if config.privacy is None:
        found.append("No differential privacy: nothing bounds what the models of the rounds tell about a sample or a client.")
    else:
        found.append(f"Differential privacy of a {config.privacy.unit} by the ledger, as long as the noise was drawn as it says.")
        if config.privacy.seeded:
            found.append("The noise is seeded: repeatable, and no guarantee against whoever knows the seed.")
    if not config.limits.on:
        found.append("The validation layer is off: one client can replace the model, or end its training with a NaN.")
    elif config.strategy == "fedavg":
        found.append(
            "The mean has no defence against updates that are small and wrong, such as a backdoor; median, Krum and Bulyan have some."
        )
    found.append(
        "Transport is the deployment's: without TLS everyone on the way reads and changes updates; without node authentication anyone is a "
        "client; and authentication of nodes does not say who may submit code to them, so keep the control port of the SuperLink local."
    )
    return found


def _model(site: Site, path: Path, key: Key | None) -> SpikingNetwork:
    model = network(site.config, code=site.code)
    load_arrays(model, read(path, key)[0])
    return model.eval()


def _sides(site: Site, plan: Plan) -> tuple[Dataset, Dataset]:
    """Samples that clients trained on, and as many of the test split."""
    rows = np.concatenate([site.partition.indices[c][site.trains_on(c)] for c in range(site.config.clients)])
    members = site.data.select(np.sort(rows))
    count = min(plan.samples, len(members), len(site.test))
    return members.take(count, site.config.seed), site.test.take(count, site.config.seed)


def _scores(model: SpikingNetwork, data: Dataset, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = []
    for start in range(0, len(data), 512):
        rows = np.arange(start, min(start + 512, len(data)))
        x, y = (torch.from_numpy(each) for each in data.batch(rows))
        asked = signals(model, x, y, Draws(seed, "membership", tuple(data.ids[row] for row in rows)))
        found.append(loss_threshold(asked.probability))
    return np.concatenate(found)


def _clients(site: Site, model: SpikingNetwork, others: Dataset, plan: Plan, config: FederatedConfig) -> list[dict[str, Any]]:
    """Of each client, how well its samples are told from others of the same classes; scores count from the others' median of a class, so
    that a client is not found by its mixture of easy and hard classes."""
    outside = _scores(model, others, config.seed)
    usual = np.array([np.median(outside[others.labels == label]) if (others.labels == label).any() else 0.0
                      for label in range(len(others.classes))])  # fmt: skip
    outside = outside - usual[others.labels]
    found = []
    for client in range(config.clients):
        mine = site.samples(client)[0].take(max(2, plan.samples // 4), config.seed)
        inside = _scores(model, mine, config.seed) - usual[mine.labels]
        same = np.isin(others.labels, np.unique(mine.labels))
        enough = min(len(inside), int(same.sum())) >= 20
        found.append({"client": client, "samples": len(inside), "auc": area(inside, outside[same]) if enough else None})
    return found


def _inversion(
    config: FederatedConfig, model: SpikingNetwork, site: Site, plan: Plan, told: Callable[[str], None]
) -> dict[str, Any]:  # fmt: skip
    """The images of one-sample updates, plain and as the server of this federation sees them: the easiest case for an attacker."""
    data = site.samples(0)[0].take(plan.images, config.seed)
    why_not = (
        "events are not inverted" if data.domain != "image" else "a module of one's own is not inverted" if site.code else None
    )
    if why_not is not None:
        return {"attack": None, "reason": why_not, "cells": [], "pictures": {}}
    name, attack = _attack(model, plan)
    x, y = (torch.from_numpy(each.copy()) for each in data.batch(np.arange(len(data))))
    plain = config.model_copy(update={"secure": None, "compression": "none", "privacy": None})
    cells, pictures = [], {"original": x.numpy()}
    for title, settings in (("plain", plain), ("as the server sees it", config)):
        images, random = torch.empty_like(x), []
        for row in range(len(x)):
            bare = simulate(model, x[row : row + 1], y[row : row + 1], draws=Draws(config.seed, "update", (data.ids[row],)))
            view, vector = seen_by_server(settings, {name_: -_numpy(each) for name_, each in bare.gradients.items()})
            gradients = {name_: torch.from_numpy(-view[name_]) for name_ in bare.gradients}
            images[row] = attack(model, Update(gradients, 1, model_hash(model))).images[0]
            random += [looks_random(vector)] if vector else []
        figure = spread(psnr(images, x), 0.0, EXACT)
        cells.append({"view": title, "psnr": figure, "randomness": min(random) if random else None})
        pictures[title] = images.numpy()
        told(f"gradient inversion ({name}), {title}: PSNR {figure['value']:.1f} dB")
    return {"attack": name, "reason": None, "cells": cells, "pictures": pictures}


def _observed(run: Path, site: Site, plan: Plan, told: Callable[[str], None], key: Key | None) -> list[dict[str, Any]]:
    """What gradient inversion makes of whole updates as they were sent (`--look`): the change of a round, over its steps and its rate, taken for
    the gradient of a few samples. Each image found counts by the sample of the client that it is most like; beside it stands what the
    mean image of the test split reaches, which needs no update."""
    found, config = [], site.config
    shapes = {name: each.shape for name, each in read(run / "rounds" / STATE, key)[0].items()}
    for path in sorted((run / "rounds").glob("seen-*.safetensors"))[: plan.images]:
        sent, said = read(path, key)
        client, round_ = int(said["client"]), int(said["round"])
        model = _model(site, run / "rounds" / f"global-{round_ - 1:05d}.safetensors", key)
        update = as_read(config, sent, shapes)
        data = site.samples(client)[0]
        if update is None or data.domain != "image" or site.code:
            continue
        settings = config.training(client, round_)
        scale = settings.learning_rate * settings.epochs * max(1, len(data) // settings.batch_size)
        gradients = {name: torch.from_numpy(np.asarray(-update[name] / scale)) for name, _ in model.named_parameters()}
        name, attack = _attack(model, plan)
        count = 1 if name == "analytic" else min(_AT_ONCE, len(data))  # of several samples it gives their mixture
        images = attack(model, Update(gradients, count, model_hash(model))).images
        mean = torch.from_numpy(site.test.batch(np.arange(min(500, len(site.test))))[0]).mean(0, keepdim=True)
        originals = torch.from_numpy(data.batch(np.arange(len(data)))[0])
        reached, baseline = (float(np.mean([_nearest(image, originals) for image in each])) for each in (images, mean))
        found.append({"round": round_, "client": client, "samples": len(data), "psnr": reached, "mean_image": baseline})
        told(f"round {round_}, client {client}: its update gives {reached:.1f} dB, the mean image {baseline:.1f} dB")
    return found


def _nearest(image: Tensor, originals: Tensor) -> float:
    return float(psnr(image.expand_as(originals), originals).max())


def _attack(model: SpikingNetwork, plan: Plan) -> tuple[str, Callable[[SpikingNetwork, Update], Reconstruction]]:
    """The analytic attack where the first layer is linear, a search elsewhere."""
    try:
        first_layer(model)
    except ConfigError:
        return "inverting", GradientInversion(method="inverting", iterations=plan.iterations)
    return "analytic", analytic


def _numpy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().to(torch.float32).numpy()


def _gate(last: dict[str, Any], most: float | None) -> dict[str, Any] | None:
    if most is None:
        return None
    figure = last["tpr"]
    code = 3 if figure["status"] != "ok" else 1 if figure["value"] > most else 0
    return {"bound": most, "value": figure["value"], "exit_code": code}
