"""A document of docs/results out of what the benchmarks left as JSON in docs/results/data.

python benchmarks/table.py speed
python benchmarks/table.py attacks
python benchmarks/table.py core
python benchmarks/table.py hardening
python benchmarks/table.py hardware
python benchmarks/table.py leakage
python benchmarks/table.py federated
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from report import markdown


class Document(NamedTuple):
    """In which order the JSON files come, and what stands before them."""

    order: tuple[str, ...]
    introduction: str


_COMMANDS = "each section has its own command, to be run with `.bench/bin/python` from the root of the checkout."
DOCUMENTS = {
    "speed": Document(
        (
            *("model", "model-mnist", "layer", "training", "accuracy", "accuracy-vgg9", "inference", "attacks", "audit"),
            *("scaling", "batch_invariance"),
        ),
        f"""# Speed

{{machine}}

Made by `make bench`; {_COMMANDS} All contenders of a table run in turn in one process, with the same threads and the same setting
of the allocator (`trustsnn.process.keep_freed_memory`). A time is the median of the rounds. A ratio is taken round by round; its
median and quartiles stand here, and higher is faster. Ratios hold on other machines better than times do. What each peer computes,
and how far it differs, is in [benchmarks/peers.py](../../benchmarks/peers.py). Nothing here was measured on a GPU.
""",
    ),
    "attacks": Document(
        (
            *("strength-mnist-0.07", "strength-mnist-0.1", "strength-mnist-0.15"),
            *("strength-mnist-l2-1", "strength-mnist-l2-1.5", "strength-mnist-l2-2"),
            *(f"strength-cifar10-{width}{eps}" for width in ("full-", "") for eps in (2, 4, 8)),
            "long_runs",
            *("curves", "inherent", "inherent-standard", "inherent-seeds", "poisson", "events", "honest"),
        ),
        f"""# Attacks

{{machine}}

Made by `make results-attacks`; {_COMMANDS} A figure is the share of the test images that the network still classifies correctly,
with its 95 % interval (Wilson) and count. What the tables say, read against what was expected, is in
[attacks-findings.md](attacks-findings.md).
""",
    ),
    "core": Document(
        (
            *(
                "conversion-mnist",
                "conversion-cifar10",
                "conversion-bits",
                "bitserial-mnist",
                "calibration-cifar10",
                "calibration-mnist",
                "hybrid-mnist",
                "hybrid-cifar10-0",
                "hybrid-cifar10-1",
                "hybrid-cifar10-2",
                "sparse",
                "sparse-all",
            ),
            *("onestep-mnist", "onestep-cifar10", "onestep-rnn", "architectures", "temporal", "language"),
        ),
        f"""# Training and conversion

{{machine}}

Made by `make results-core`; {_COMMANDS} A figure stands with its count and its 95 % interval. What the tables say, read against
what was expected, is in [core-findings.md](core-findings.md).
""",
    ),
    "hardening": Document(
        (
            *("training-mnist", "training-mnist-conv", "training-mnist-full-hire", "training-mnist-full-at", "robust_time"),
            *("training-cifar10", "training-cifar10-vgg9", "private", "seal", "dp_audit", "certify", "certify-conv"),
        ),
        f"""# Hardening

{{machine}}

Made by `make results-hardening`; {_COMMANDS} A figure stands with its count and its 95 % interval. What the tables say, read against
what was expected, is in [hardening-findings.md](hardening-findings.md).
""",
    ),
    "hardware": Document(
        (
            "twins-mnist",
            "twins-mnist-approximate",
            "twins-cifar10",
            "twins-cifar10-approximate",
            "chips",
            "integrity",
            "energy",
            "peer_models",
        ),
        f"""# Hardware, energy, foreign models

{{machine}}

Made by `make results-hardware`; {_COMMANDS} A twin is a model of a chip and no chip. A figure stands with its count and its
95 % interval where it is of one network; over chips, the median and the range of those tried. What the tables say is in
[hardware-findings.md](hardware-findings.md).
""",
    ),
    "leakage": Document(
        (
            *("membership-mnist", "membership-cifar10", "membership-private", "shadows"),
            *("reconstruction", "gradients", "extraction", "attributes", "backdoor"),
        ),
        f"""# Leakage

{{machine}}

Made by `make results-leakage`; {_COMMANDS} A figure stands with its count or its 95 % interval.
""",
    ),
    "federated": Document(
        ("training", "growth", "poison", "guarantees", "cost"),
        f"""# Federated training

{{machine}}

Made by `make results-federated`; {_COMMANDS} A figure stands with its 95 % interval over test images; a federation is one run with one seed.
What the tables say is in [federated-findings.md](federated-findings.md).
""",
    ),
}


def main() -> None:
    """Read a folder of JSON files; write one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", choices=list(DOCUMENTS), help="of docs/results")
    given = parser.parse_args()
    order, introduction = DOCUMENTS[given.document]
    folder = Path("docs/results/data") / given.document
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not results:
        raise SystemExit(f"There is no result in {folder}. Run a benchmark with --json {folder}/NAME.json first.")
    names = [*(name for name in order if name in results), *(name for name in results if name not in order)]
    machines = {machine(results[name]) for name in names}
    same = len(machines) == 1
    first = machines.pop() if same else "The sections come from different machines or versions; each says which."
    parts = [introduction.format(machine=first)]
    for name in names:
        result = results[name]
        parts.append(f"## {result['title']}\n\n    {result['command']}\n\n{result['date']}, {source(result)}.")
        if not same:
            parts.append(machine(result))
        parts += [markdown(section, level=3) for section in result["sections"]]
    out = Path(f"docs/results/{given.document}.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    print(f"{out}: {', '.join(names)}")


def machine(result: dict[str, Any]) -> str:
    """Processor, threads and versions in a sentence."""
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    waiting = f", OMP_WAIT_POLICY={result['wait_policy']}" if result["wait_policy"] else ""
    return (
        f"{result['cpu']}, {result['cores']} cores, {result['threads']} threads{waiting}; {environment['platform']}; "
        f"Python {environment['python']}; {versions}."
    )


def source(result: dict[str, Any]) -> str:
    """The commit, and whether files differed from it."""
    git = result["environment"]["git"]
    return "no git checkout" if git is None else f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"


if __name__ == "__main__":
    main()
