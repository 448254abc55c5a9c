"""Sealing and opening against writing and reading safetensors, peak memory, and the accuracy that few sealed bits leave.

python benchmarks/seal.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain, count
from pathlib import Path

import safetensors.torch
import torch
from harness import Steps, begin, options, peak_memory, times
from report import Report, mebibytes
from torch import nn

from trustsnn.checkpoint import read_folder, write_folder, write_manifest
from trustsnn.data import Dataset, load
from trustsnn.defenses.seal import seal, selective, unseal, verify
from trustsnn.keys import Key
from trustsnn.models import SpikingNetwork, build
from trustsnn.statistics import Figure
from trustsnn.tensorfile import header, write_pieces
from trustsnn.training import TrainConfig, accuracy, train

KEY = Key(bytes(range(32)))
TENSOR = 1 << 22  # bytes of a tensor of the model that is timed


def main() -> None:
    """A table of writing, one of reading, one of memory, and one a network on how few bits do."""
    parser = options(__doc__.splitlines()[0], rounds=11, warmup=2)
    parser.add_argument("--size", type=int, default=50, help="MB of the weights that are timed (default %(default)s)")
    parser.add_argument("--large", type=int, default=2000, help="MB of those whose memory is taken (default %(default)s)")
    parser.add_argument("--networks", default="conv,mlp", help="searched for bits, on digits (default %(default)s)")
    parser.add_argument("--share", type=float, default=1e-3, help="bits at most, of all (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of networks and samples (default %(default)s)")
    given = begin(parser)
    report = Report("Sealed weights", given)
    with tempfile.TemporaryDirectory() as folder:
        speed(report, given, Path(folder))
    peaks = [peak_memory(steps, given.large, threads=given.threads) for _ in range(3)]
    report.table(
        "Memory", ["", "peak above the start"], [[f"seal and unseal {given.large} MB", mebibytes(peaks)]],
        "Median of three fresh processes, with the lowest and the highest.", peaks,
    )  # fmt: skip
    for name in given.networks.split(","):
        bits(report, given, name.strip())


class Weights(nn.Module):
    """Normal draws in tensors of 4 MiB."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        for place in range(max(1, megabytes * 1_000_000 // TENSOR)):
            self.register_buffer(f"t{place}", torch.randn(TENSOR // 4, generator=draws))


def speed(report: Report, given: Namespace, folder: Path) -> None:
    """From memory to the disk, back, and from one folder to another."""
    model, file = Weights(given.size), folder / "weights.safetensors"
    state, new = model.state_dict(), _new(folder)
    writing = {
        "safetensors save_file": lambda: safetensors.torch.save_file(state, file),
        "plain checkpoint": lambda: write_folder(next(new), model, {}),
        "sealed checkpoint": lambda: write_folder(next(new), model, {}, KEY),
    }
    note = f"{given.size} MB. A checkpoint, plain or sealed, is hashed, synced to the disk and renamed; save_file is not."
    report.timings("Writing", times(writing, given.rounds, given.warmup), peers=("safetensors save_file",), note=note)

    plain, sealed = write_folder(folder / "plain", model, {}), write_folder(folder / "sealed", model, {}, KEY)
    reading = {
        "safetensors load_file": lambda: [each.clone() for each in safetensors.torch.load_file(file).values()],
        "plain checkpoint": lambda: safetensors.torch.load(read_folder(plain)[1]),
        "sealed checkpoint": lambda: safetensors.torch.load(read_folder(sealed, KEY)[1]),
    }
    note = f"{given.size} MB, from the page cache into tensors; those of load_file are copied, which a mapped file would put off."
    report.timings("Reading", times(reading, given.rounds, given.warmup), peers=("safetensors load_file",), note=note)

    folders = {
        "copy by safetensors": lambda: safetensors.torch.save_file(safetensors.torch.load_file(file), folder / "copy"),
        "seal": lambda: seal(plain, next(new), KEY),
        "unseal": lambda: unseal(sealed, next(new), KEY),
        "verify": lambda: verify(sealed, key=KEY),
    }
    note = f"{given.size} MB. Verifying reads and opens all of it and writes nothing."
    report.timings("From folder to folder", times(folders, given.rounds, given.warmup), peers=("copy by safetensors",), note=note)


def _new(folder: Path) -> Iterator[Path]:
    """A new path each time; what lay at the one before is removed."""
    for number in count():
        shutil.rmtree(folder / f"new-{number - 1}", ignore_errors=True)
        yield folder / f"new-{number}"


def steps(megabytes: int) -> Steps:
    """Seal and unseal, first a small model and then one of that size."""
    place = Path(tempfile.mkdtemp())
    small, large = _checkpoint(place / "small", 1), _checkpoint(place / "large", megabytes)

    def both(folder: Path) -> None:
        seal(folder, place / "sealed", KEY)
        unseal(place / "sealed", place / "again", KEY)
        shutil.rmtree(place / "again")
        shutil.rmtree(place if folder == large else place / "sealed")

    return lambda: both(small), lambda: both(large)


def _checkpoint(folder: Path, megabytes: int) -> Path:
    """A checkpoint folder of random bytes in one tensor, written in pieces."""
    start = header([("weight", "U8", (megabytes * 1_000_000,))])
    digest = write_pieces(folder / "model.safetensors", chain([start], (os.urandom(1_000_000) for _ in range(megabytes))))
    write_pieces(folder / "config.json", [b"{}"])
    write_manifest(folder, digest, b"{}")
    return folder


def bits(report: Report, given: Namespace, name: str) -> None:
    """The accuracy without the key against the number of bits that are sealed, searched for and at random; and what training on
    gives back to who has the plain rest and some data."""
    known, test = load("digits", "train"), load("digits", "test")
    model = build(name, input_shape=test.sample_shape, classes=len(test.classes), seed=given.seed)
    settings = TrainConfig(epochs=given.epochs, batch_size=64, learning_rate=4e-3, seed=given.seed)
    train(model, known, settings)
    model.eval()
    total = selective.bits_of(model)
    found = selective.search(model, known, max(1, int(given.share * total)), seed=given.seed)
    searched = selective.curve(model, test, found.signs, seed=given.seed)
    drawn = selective.curve(model, test, selective.random_signs(model, len(found.signs), given.seed), seed=given.seed)
    rows = [[str(n), f"{n / total:.1e}", _told(searched[n]), _told(drawn[n])] for n in searched]
    state = "no better than guessing" if found.collapsed else "NOT down to guessing within the limit"
    note = (
        f"`{name}`, {total:,} bits, digits, seed {given.seed}; 95 % intervals over {len(test)} test images. On the {found.accuracy['count']} "
        f"training images of the search {_told(found.accuracy)}, {state} ({found.chance:.1%})."
    )
    raw = {"searched": searched, "random": drawn, "search": found.accuracy, "chance": found.chance, "bits": total}
    report.table(f"Few sealed bits: {name}", ["bits", "of all", "searched", "at random"], rows, note, raw)
    rows = [
        [str(n), *map(_told, _recovered(model, found.signs, known.take(n, given.seed), test, settings))] for n in (50, 200, 1000)
    ]
    report.table(
        f"Trained on without the key: {name}", ["training images", "from the plain rest", "from nothing"], rows,
        f"{given.epochs} epochs from the weights in the sealed folder, and from new ones. 95 % intervals over {len(test)} test images.",
    )  # fmt: skip


def _recovered(
    model: SpikingNetwork, signs: tuple[selective.Sign, ...], known: Dataset, test: Dataset, settings: TrainConfig
) -> list[Figure]:
    rest = deepcopy(model)
    selective.flip(rest, signs)
    new = build(model.architecture["name"], **model.architecture["arguments"])
    for each in (rest, new):
        train(each, known, settings)
    return [accuracy(each.eval(), test) for each in (rest, new)]


def _told(figure: Figure) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


if __name__ == "__main__":
    main()
