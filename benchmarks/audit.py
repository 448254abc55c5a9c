"""A whole quick audit of `conv` on MNIST as a user types it, where its time goes, and what the machine could do.

python benchmarks/audit.py
python benchmarks/audit.py --before ../old-checkout
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from harness import begin, kernels, options, times
from model import model_option, trained
from report import Report
from torch.profiler import ProfilerActivity, profile

from trustsnn.runners.audit import audit

ROWS = 16
DONE = (0, 1, 3)  # pass, a gate failed, inconclusive: the audit ran to its end


def main() -> None:
    """A table of wall times, one of operators, one of the machine's limits."""
    parser = options(__doc__.splitlines()[0], rounds=3, warmup=1)
    model_option(parser, "mnist")
    parser.add_argument("--eps", default="0.1,0.2,0.3", help="radii (default %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="test images (default %(default)s)")
    parser.add_argument("--kernels", default="native,torch", help="trustsnn's (default %(default)s)")
    parser.add_argument("--before", type=Path, help="another checkout, whose audit stands for what was before")
    given = begin(parser)
    trained(given.model)
    report = Report("A whole quick audit", given)
    command = f"trustsnn audit {given.model} --data mnist --eps {given.eps} --samples {given.samples}"
    wall(report, given, command)
    profiled(report, given, command)
    limits(report, given)


def wall(report: Report, given: Namespace, command: str) -> None:
    """Wall time of the command, from an empty run folder, with its start and its report."""
    here = Path.cwd()
    contenders = {}
    if given.before is not None:
        contenders[f"before, {given.before}"] = partial(run_command, given, given.before.resolve(), None)
    contenders |= {f"trustsnn {name}": partial(run_command, given, here, name) for name in reversed(kernels(given.kernels))}
    seconds = times(contenders, given.rounds, given.warmup)
    report.timings("Wall time", seconds, peers=(), note=f"`{command}`, start and report included.")


def run_command(given: Namespace, checkout: Path, kernel: str | None) -> None:
    """The audit by the code of `checkout`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "trustsnn", "audit", str(given.model.resolve()), "--data", "mnist", "--eps", given.eps]
        words += ["--samples", str(given.samples), "--threads", str(given.threads), "--out", f"{folder}/run", "--quiet"]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        if "TRUSTSNN_DATA" in environment:
            environment["TRUSTSNN_DATA"] = str(Path(environment["TRUSTSNN_DATA"]).resolve())
        if kernel is not None:
            environment["TRUSTSNN_KERNELS"] = kernel
        done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode not in DONE:
        raise RuntimeError(f"the audit ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")


def profiled(report: Report, given: Namespace, command: str) -> None:
    """The share of each operator in the wall time of the same audit in this process."""
    settings = {"eps": given.eps.split(","), "samples": given.samples, "quiet": True}
    with tempfile.TemporaryDirectory() as folder:
        audit(str(given.model), "mnist", out=f"{folder}/warm-up", **{**settings, "samples": min(64, given.samples)})
        begun = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            audit(str(given.model), "mnist", out=f"{folder}/run", **settings)
            total = time.perf_counter() - begun
    operators = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    inside = sum(event.self_cpu_time_total for event in operators) / 1e6
    shares = [(event.key, event.self_cpu_time_total / 1e6 / total, event.count) for event in operators]
    rows = [[f"`{key}`", f"{share:.1%}", f"{count:,}"] for key, share, count in shares[:ROWS]]
    rows.append([f"{max(0, len(shares) - ROWS)} other operators", f"{sum(share for _, share, _ in shares[ROWS:]):.1%}", ""])
    rows.append(["outside of operators: Python, files, report", f"{max(0.0, 1 - inside / total):.1%}", ""])
    note = (
        f"`{command}` in one process after a warm-up: {total:.1f} s under the profiler, which itself costs time for each call. "
        "Time in an operator without that in the operators it calls; an autograd function's kernel counts to the function."
    )
    report.table("Profile", ["operator", "of the wall time", "calls"], rows, note, shares)


def limits(report: Report, given: Namespace) -> None:
    """What the machine reaches here: matrix products in float32 and bfloat16, and copies."""
    side, count = 2048, 1 << 24
    a, b = torch.randn(side, side), torch.randn(side, side)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    source, target = torch.randn(count), torch.empty(count)
    seconds = times(
        {
            "float32 matrix product": lambda: a @ b,
            "bfloat16 matrix product": lambda: half_a @ half_b,
            "copy": lambda: target.copy_(source),
        },
        max(5, given.rounds),
    )
    rows = []
    for name, values in seconds.items():
        middle = median(values)
        rows.append(
            [name, f"{8 * count / middle / 1e9:.1f} GB/s" if name == "copy" else f"{2 * side**3 / middle / 1e9:.0f} GFLOP/s"]
        )
    report.table("Limits of the machine", ["", "reached"], rows, "A copy's bytes are those read and written.", seconds)


if __name__ == "__main__":
    main()
