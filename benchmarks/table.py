"""docs/results/speed.md out of the results that the benchmarks left as JSON.

python benchmarks/table.py runs/bench --out docs/results/speed.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from report import markdown

ORDER = ("model", "model-mnist", "layer", "training", "accuracy", "inference", "attacks", "audit", "scaling", "batch_invariance")
INTRODUCTION = """# Speed

{machine}

Made by `make bench`; each section has its own command, to be run with `.bench/bin/python` from the root of the checkout. All
contenders of a table run in turn in one process, with the same threads and the same setting of the allocator
(`trustsnn.process.keep_freed_memory`). A time is the median of the rounds. A ratio is taken round by round; its median and quartiles
stand here, and higher is faster. Ratios hold on other machines better than times do. What each peer computes, and how far it differs,
is in [benchmarks/peers.py](../../benchmarks/peers.py). Nothing here was measured on a GPU.
"""


def main() -> None:
    """Read a folder of JSON files; write one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with the JSON files")
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.md"), help="(default %(default)s)")
    given = parser.parse_args()
    results = {path.stem: json.loads(path.read_text()) for path in sorted(given.folder.glob("*.json"))}
    if not results:
        raise SystemExit(f"There is no result in {given.folder}. Run a benchmark with --json {given.folder}/NAME.json first.")
    names = [*(name for name in ORDER if name in results), *(name for name in results if name not in ORDER)]
    machines = {machine(results[name]) for name in names}
    same = len(machines) == 1
    first = machines.pop() if same else "The sections come from different machines or versions; each says which."
    parts = [INTRODUCTION.format(machine=first)]
    for name in names:
        result = results[name]
        parts.append(f"## {result['title']}\n\n    {result['command']}\n\n{result['date']}, {source(result)}.")
        if not same:
            parts.append(machine(result))
        parts += [markdown(section, level=3) for section in result["sections"]]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    print(f"{given.out}: {', '.join(names)}")


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
