"""Timing in turn in one process, peak memory in fresh ones, and what every benchmark sets and takes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.kernels import available, using
from trustsnn.process import keep_freed_memory

Contenders = Mapping[str, Callable[[], object]]
Steps = tuple[Callable[[], object], Callable[[], object]]


class Quartiles(NamedTuple):
    """The median of some values and the quartiles around it."""

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Median and quartiles; of a single value, that value three times."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(middle, low, high)


def times(contenders: Contenders, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each contender in each round: all of them in turn, so that a busy moment hits every one.

    Who fails in the first round of the warm-up, which has at least one, is left out with a line that says why.
    """
    seconds: dict[str, list[float]] = {}
    for name, contender in contenders.items():
        with left_out_if_failing(name):
            contender()
            seconds[name] = []
    for round_ in range(1 - warmup, rounds):
        for name, column in seconds.items():
            begun = time.perf_counter()
            contenders[name]()
            if round_ >= 0:
                column.append(time.perf_counter() - begun)
    return seconds


@contextmanager
def left_out_if_failing(name: str) -> Iterator[None]:
    """Whatever ails one contender, the others go on: a line instead of an exception."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        message = str(error).splitlines()[0] if str(error) else "no message"
        print(f"{name} is left out: {type(error).__name__}: {message}", file=sys.stderr)


def ratios(seconds: Mapping[str, list[float]], name: str, baseline: str) -> Quartiles:
    """How many times faster than `baseline` `name` was, round by round."""
    return quartiles([b / a for a, b in zip(seconds[name], seconds[baseline], strict=True)])


def peak_memory(make: Callable[..., Steps], *arguments: Any, threads: int) -> int | None:
    """Bytes by which the resident memory of a fresh process rises above what it was before a step; None where that failed.

    `make(*arguments)` gives (warm-up, step), both called once. The warm-up should be small: it loads and compiles what is
    needed once; what it freed goes back to the system. The peak is the kernel's own (VmHWM, set back before the step). Where
    there is no /proc it is ru_maxrss, which also holds any higher peak from before the step and can therefore be too low.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, left_out_if_failing("The peak memory of a contender"):
        return pool.submit(_rise, make, arguments, threads).result()
    return None


def _rise(make: Callable[..., Steps], arguments: tuple[Any, ...], threads: int) -> int:
    prepare(threads)
    warm_up, step = make(*arguments)
    warm_up()
    _give_back_freed_memory()
    reset_possible = _reset_peak()
    before = _status("VmRSS") if reset_possible else _maximum()
    step()
    return max(0, (_status("VmHWM") if reset_possible else _maximum()) - before)


def _give_back_freed_memory() -> None:
    """What was freed and kept would otherwise serve the step without being counted."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _maximum() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def prepare(threads: int) -> None:
    """The same settings for every contender: threads, allocator, and no draw that differs from run to run."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)


def options(description: str, *, rounds: int | None = None, warmup: int = 2) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; pass its result to `begin`. Rounds only where a number of them is given."""
    parser = argparse.ArgumentParser(description=description)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="rounds that count (default %(default)s)")
        parser.add_argument("--warmup", type=int, default=warmup, help="rounds before them, 1 at least (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result there too, for table.py")
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with threads and allocator set."""
    given = parser.parse_args()
    for name in ("rounds", "threads"):
        if getattr(given, name, 1) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(given, name)}")
    prepare(given.threads)
    return given


def kernels(wanted: str) -> list[str]:
    """Those of the comma-separated kernels that are here, with a line on each that is not."""
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in available():
            print(f"The {name} kernels are not here: left out.", file=sys.stderr)
    return [name for name in names if name in available()]


def under(kernel: str, function: Callable[[], object]) -> Callable[[], object]:
    """`function`, run with these kernels."""

    def run() -> object:
        with using(kernel):
            return function()

    return run


@contextmanager
def half_gradients(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, gradients with respect to inputs multiply in bfloat16, or not, where the processor can."""
    before = model.half_gradients
    model.half_gradients = on
    try:
        yield
    finally:
        model.half_gradients = before


def images(data: str, split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` images [B, C, H, W] in [0, 1] with labels [B], the same for the same arguments. Exits where there is no data."""
    from trustsnn.data import load
    from trustsnn.errors import TrustSNNError

    try:
        taken = load(data, split).take(count, seed)
    except TrustSNNError as error:
        raise SystemExit(f"No {data}: {error}") from error
    x, y = taken.batch(range(len(taken)))
    return torch.from_numpy(x), torch.from_numpy(y)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log time over log size by least squares: 1 where the cost grows linearly."""
    slope, _ = statistics.linear_regression(_logarithms(sizes), _logarithms(seconds))
    return slope


def _logarithms(values: Sequence[float]) -> list[float]:
    return torch.tensor(values, dtype=torch.float64).log().tolist()
