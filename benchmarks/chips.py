"""Many chips of one kind on the same samples: side by side in one pass, one after the other, and as `predict_chips` decides.

python benchmarks/chips.py --threads 1
python benchmarks/chips.py --threads 2 --rounds 20
"""

from __future__ import annotations

from functools import partial

import torch
from harness import begin, options, times
from report import Report
from torch import Tensor, nn

from trustsnn.blocks import frozen, predict
from trustsnn.hardware import batched
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip
from trustsnn.models import SpikingNetwork, build

NETWORKS = {
    "conv (a quarter), 8x8": ("conv", (1, 8, 8), 0.25),
    "conv (a quarter), 28x28": ("conv", (1, 28, 28), 0.25),
    "conv, 28x28": ("conv", (1, 28, 28), 1.0),
    "vgg9 (a quarter), 32x32": ("vgg9", (3, 32, 32), 0.25),
}


def main() -> None:
    """One table a network."""
    parser = options(__doc__.splitlines()[0], rounds=10)
    parser.add_argument("--twin", default="pcm@1h", help="the kind of chips (default %(default)s)")
    parser.add_argument("--chips", type=int, default=20, help="how many (default %(default)s)")
    parser.add_argument("--samples", type=int, default=32, help="random images (default %(default)s)")
    given = begin(parser)
    report = Report(f"{given.chips} chips of {given.twin} on {given.samples} images", given)
    for name, (architecture, shape, channels) in NETWORKS.items():
        network = firing(build(architecture, input_shape=shape, classes=10, channels=channels, seed=0))
        chips = [deploy(network, parse(given.twin), Chip(number)) for number in range(given.chips)]
        x = torch.rand(given.samples, *shape, generator=torch.Generator().manual_seed(0))
        contenders = {
            "as decided": partial(batched.predict_chips, chips, x),
            "one after the other": partial(one_by_one, chips, x),
        }
        whole = batched.stacked(chips)
        if whole is not None:
            contenders["side by side"] = partial(one_by_one, [whole], x)
        note = "Fresh weights, normalisation scaled so that neurons of all layers fire." + (
            "" if whole is not None else " Winograd's convolution: not side by side, for the bits would differ."
        )
        report.timings(name, times(contenders, given.rounds, given.warmup), peers=["one after the other"], note=note)


def firing(network: SpikingNetwork) -> SpikingNetwork:
    """The network with its normalisation scaled by 4."""
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.mul_(4)
    return network.eval()


def one_by_one(models: list[SpikingNetwork], x: Tensor) -> Tensor:
    """The logits of each model."""
    found = []
    for model in models:
        with frozen(model):
            found.append(predict(model, x))
    return torch.stack(found)


if __name__ == "__main__":
    main()
