"""PGD-10 and APGD on `vgg9` and CIFAR-10: time, and robust accuracy on the same images.

    python benchmarks/attacks.py

torchattacks on SpikingJelly with frozen weights against trustsnn's own attacks, L-inf, random start, steps of eps / 4. The
images go by in chunks, each attacked by all contenders in turn: a chunk is a round. A sample is robust if the network that
was attacked still has it right; "by the other" has trustsnn judge torchattacks' images, and SpikingJelly judge trustsnn's.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from harness import begin, half_gradients, images, left_out_if_failing, options
from model import model_option, trained
from peers import CHECKED, PACKAGES, networks
from report import Report, share
from scipy.stats import binomtest
from torch import Tensor, nn

from trustsnn import attacks
from trustsnn.blocks import frozen, predict
from trustsnn.kernels.convolution import has_half
from trustsnn.statistics import proportion

Attack = Callable[[Tensor, Tensor], Tensor]
Judge = Callable[[Tensor], Tensor]


class Contender(NamedTuple):
    """An attack, the network's own logits, and those of the other implementation."""

    attack: Attack
    own: Judge
    other: Judge


def main() -> None:
    """One table for PGD at each eps, one for APGD."""
    parser = options(__doc__.splitlines()[0])
    model_option(parser)
    parser.add_argument("--samples", default="1000,250", help="test images under PGD, for each eps (default %(default)s)")
    parser.add_argument("--apgd-samples", type=int, default=250, help="test images under APGD, 0 for none (default %(default)s)")
    parser.add_argument("--chunk", type=int, default=125, help="images that are handed to an attack (default %(default)s)")
    parser.add_argument("--peer-batch", type=int, default=32, help="torchattacks' batch within a chunk (default %(default)s)")
    parser.add_argument("--eps", default="0.5/255,8/255", help="one where some survive, one where all fall (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=10, help="of PGD and APGD (default %(default)s)")
    parser.add_argument(
        "--peers", default="SpikingJelly", help=f"of {'; '.join(PACKAGES)}, with semicolons (default %(default)s)"
    )
    given = begin(parser)
    if unknown := set(given.peers.split(";")) - PACKAGES.keys():
        parser.error(f"--peers: expected names of {'; '.join(PACKAGES)}, got {'; '.join(sorted(unknown))}")
    counts = [int(text) for text in given.samples.split(",")]
    if len(counts) not in (1, len(given.eps.split(","))):
        parser.error(f"--samples: expected one number or one for each eps, got {given.samples}")
    x, y = images("cifar10", "test", max(*counts, given.apgd_samples, CHECKED))
    model = trained(given.model)
    peers, agrees = networks(model, x[:CHECKED], given.peers.split(";"))
    if find_spec("torchattacks") is None:
        print("torchattacks is not installed: its attacks are left out (make bench installs it).", file=sys.stderr)
        peers = {}
    for peer in peers.values():
        peer.requires_grad_(False)
    report = Report("Attacks", given)
    for place, text in enumerate(given.eps.split(",")):
        top, _, bottom = text.partition("/")
        eps, count = float(top) / float(bottom or 1), counts[place % len(counts)]
        title = f"PGD-{given.iterations}, eps {text}, {count} images"
        run(report, title, pgd(model, peers, eps, given), x[:count], y[:count], given.chunk, agrees)
    if given.apgd_samples:
        if not hasattr(attacks, "APGD"):
            print("trustsnn has no APGD yet: torchattacks' stands alone.", file=sys.stderr)
        title = f"APGD-{given.iterations}, eps {text}, {given.apgd_samples} images"
        found = apgd(model, peers, eps, given)
        run(report, title, found, x[: given.apgd_samples], y[: given.apgd_samples], given.chunk, agrees)


def pgd(model: nn.Module, peers: dict[str, nn.Module], eps: float, given: Namespace) -> dict[str, Contender]:
    """torchattacks' PGD on each peer, and trustsnn's: all steps or until a sample is fooled, in float32 or not."""
    found = {}
    for name, peer in peers.items():
        from torchattacks import PGD

        attack = PGD(peer, eps=eps, alpha=eps / 4, steps=given.iterations, random_start=True)
        found[f"torchattacks on {name}"] = Contender(
            partial(in_parts, attack, given.peer_batch), partial(peer_predicted, peer), partial(predicted, model)
        )
    other = partial(peer_predicted, next(iter(peers.values()))) if peers else partial(predicted, model)
    for stops in (False, True):
        for half in (False, True) if has_half() else (False,):
            attack = attacks.PGD(eps=eps, steps=given.iterations, step_size=eps / 4, random_start=True, early_stop=stops)
            name = "trustsnn" + (", fooled samples leave" if stops else "") + (", bf16 input gradient" if half else "")
            found[name] = Contender(partial(ours, model, attack, half), partial(predicted, model), other)
    return found


def apgd(model: nn.Module, peers: dict[str, nn.Module], eps: float, given: Namespace) -> dict[str, Contender]:
    """torchattacks' APGD on each peer, and trustsnn's where there is one."""
    found = {}
    for name, peer in peers.items():
        from torchattacks import APGD

        attack = APGD(peer, eps=eps, steps=given.iterations)
        found[f"torchattacks on {name}"] = Contender(
            partial(in_parts, attack, given.peer_batch), partial(peer_predicted, peer), partial(predicted, model)
        )
    if hasattr(attacks, "APGD"):
        attack = attacks.APGD(eps=eps, steps=given.iterations)
        other = partial(peer_predicted, next(iter(peers.values()))) if peers else partial(predicted, model)
        found["trustsnn"] = Contender(partial(ours, model, attack, False), partial(predicted, model), other)
    return found


def ours(model: nn.Module, attack: attacks.Attack, half: bool, x: Tensor, y: Tensor) -> Tensor:
    """An attack of trustsnn."""
    with half_gradients(model, half):
        return attack(model, x, y)


def in_parts(attack: Attack, batch: int, x: Tensor, y: Tensor) -> Tensor:
    """An attack of torchattacks, some images at a time."""
    return torch.cat([attack(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """The classes that trustsnn predicts, in float32."""
    with frozen(model):
        return predict(model, x).argmax(1)


def peer_predicted(peer: nn.Module, x: Tensor) -> Tensor:
    """The classes that a peer predicts."""
    with torch.no_grad():
        return torch.cat([peer(part) for part in x.split(32)]).argmax(1)


def run(report: Report, title: str, who: dict[str, Contender], x: Tensor, y: Tensor, chunk: int, agrees: dict[str, str]) -> None:
    """Attack chunk after chunk by each contender in turn; a table of times and of who is still right."""
    seconds: dict[str, list[float]] = {}
    robust: dict[str, list[Tensor]] = {}
    by_other: dict[str, list[Tensor]] = {}
    for name, contender in who.items():
        with left_out_if_failing(name):
            contender.attack(x[:8], y[:8])
            seconds[name], robust[name], by_other[name] = [], [], []
    for part, labels in zip(x.split(chunk), y.split(chunk), strict=True):
        for name, column in seconds.items():
            begun = time.perf_counter()
            adversarial = who[name].attack(part, labels)
            column.append(time.perf_counter() - begun)
            robust[name].append(who[name].own(adversarial) == labels)
            by_other[name].append(who[name].other(adversarial) == labels)
    if not seconds:
        print(f"{title}: there was nothing to time.", file=sys.stderr)
        return
    right = {name: torch.cat(parts) for name, parts in robust.items()}
    first = next(iter(right))
    report.timings(
        title,
        seconds,
        peers=[name for name in seconds if not name.startswith("trustsnn")],
        extra={
            "robust": {name: share(proportion(int(found.sum()), len(found)), counted=True) for name, found in right.items()},
            "by the other": {name: f"{torch.cat(parts).double().mean():.1%}" for name, parts in by_other.items()},
            f"robust here only, against {first} only": {name: paired(found, right[first]) for name, found in right.items()},
        },
        note=f"A round is a chunk of {chunk} images. 95 % intervals (Wilson); exact McNemar test. "
        + " ".join(f"{name} against trustsnn on {CHECKED} clean images: {text}." for name, text in agrees.items()),
    )


def paired(one: Tensor, other: Tensor) -> str:
    """Samples that only one of two attacks left right, and how likely so unequal a split is by chance."""
    here, there = int((one & ~other).sum()), int((other & ~one).sum())
    return f"{here}, {there} (p = {binomtest(here, here + there).pvalue:.2g})" if here + there else "0, 0"


if __name__ == "__main__":
    main()
