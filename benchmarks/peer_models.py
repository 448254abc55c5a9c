"""The networks of other frameworks' tutorials (tutorials.py), trained on MNIST in their frameworks, then audited by one command each.

python benchmarks/peer_models.py
python benchmarks/peer_models.py --peers norse --train 2000 --samples 50

Weights are kept under --keep, so that a network is trained once for the same settings.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
import tutorials
from harness import begin, images, left_out_if_failing, options
from report import Report
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from trustsnn.statistics import proportion

Outputs = Callable[[nn.Module, Tensor], Tensor]
HERE = Path(__file__).parent


class Peer(NamedTuple):
    """A tutorial's network and how its framework runs and trains it. `outputs` are logits [B, K], or [T, B, K] whose mean over
    time is taken; `loss` is of these and labels [B]."""

    package: str
    module: Callable[[], nn.Module]
    outputs: Outputs
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]


def snntorch_steps(net: nn.Module, x: Tensor) -> Tensor:
    """50 steps of a network of one step, after snnTorch's own reset."""
    from snntorch import utils

    utils.reset(net)
    return torch.stack([net(x)[0] for _ in range(50)])


def spikingjelly_rates(net: nn.Module, x: Tensor) -> Tensor:
    """Firing rates after SpikingJelly's own reset."""
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    return net(x)


def each_step(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy at every step, [T, B, K]."""
    return cross_entropy(outputs.flatten(0, 1), y.repeat(len(outputs)))


def rates_to_one_hot(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean square error of rates [B, K]."""
    return mse_loss(outputs, one_hot(y, outputs.shape[1]).to(outputs.dtype))


def adam(rate: float) -> Callable[[Any], torch.optim.Optimizer]:
    """Adam with that learning rate."""
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


PEERS = {
    "snntorch_dense": Peer("snntorch", tutorials.DenseNet, lambda net, x: net(x)[0], each_step, adam(5e-4)),
    "snntorch": Peer("snntorch", tutorials.conv_net, snntorch_steps, each_step, adam(1e-2)),
    "spikingjelly": Peer("spikingjelly", tutorials.CSNN, spikingjelly_rates, rates_to_one_hot, adam(1e-3)),
    "norse": Peer("norse", tutorials.Classifier, lambda net, x: net(x), cross_entropy, adam(2e-3)),
}


def main() -> None:
    """Train, compare and audit; one row a network."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--peers", default="snntorch,spikingjelly,norse", help=f"of {', '.join(PEERS)} (default %(default)s)")
    parser.add_argument("--train", type=int, default=6_000, help="images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="of training (default %(default)s)")
    parser.add_argument("--test", type=int, default=2_000, help="images for the accuracy (default %(default)s)")
    parser.add_argument("--compared", type=int, default=1_000, help="of them for the difference of logits (default %(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="of the audit (default %(default)s)")
    parser.add_argument("--eps", default="0.1", help="of the audit (default %(default)s)")
    parser.add_argument("--profile", default="quick", help="of the audit (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("models/peers"), help="(default %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="(default %(default)s)")
    given = begin(parser)
    test = images("mnist", "test", given.test)
    rows, raw = [], {}
    for name in given.peers.split(","):
        if find_spec(PEERS[name].package) is None:
            print(f"{PEERS[name].package} is not installed: left out (make bench installs it).", file=sys.stderr)
            continue
        with left_out_if_failing(name):
            row, raw[name] = measured(name, PEERS[name], test, given)
            rows.append(row)
    columns = ["network", "own accuracy", "largest difference of logits", "audit", "accuracy under attack", "findings"]
    command = " ".join(["PYTHONPATH=benchmarks", *audit_command("NAME", given, Path("RUN"))])
    note = (
        f"Trained on {given.train} images for {given.epochs} epochs. The own accuracy and the difference are to what the framework "
        f"computes by its own calls, over {given.test} and {given.compared} images. Audited by\n`{command}`."
    )
    Report("Models of other frameworks", given).table("Tutorials' networks on MNIST", columns, rows, note, raw)


def measured(name: str, peer: Peer, test: tuple[Tensor, Tensor], given: Namespace) -> tuple[list[str], dict[str, Any]]:
    """The row of a network, and the numbers behind it."""
    weights = given.keep / f"{name}.safetensors"
    net = trained(name, peer, weights, given)
    right = proportion(sum(int((logits(peer, net, x).argmax(1) == y).sum()) for x, y in batches(*test)), len(test[1]))
    model = getattr(tutorials, name)()
    safetensors.torch.load_model(model.module, weights)
    with torch.no_grad():
        compared = [x for x, _ in batches(test[0][: given.compared], test[1])]
        difference = max(float((model(x) - logits(peer, net, x)).abs().max()) for x in compared)
    run = given.runs / name
    begun = time.perf_counter()
    code = subprocess.run(audit_command(name, given, run, sys.executable), env=environment(), check=False).returncode
    summary = json.loads((run / "report.json").read_text())
    (attacked,) = (figure for figure in summary["robust_accuracy"] if figure["eps"] == float(given.eps))
    types = [finding["type"] for finding in summary["findings"]]
    told = f"{summary['verdict']}, exit {code}, {time.perf_counter() - begun:.0f} s"
    row = [name, figure_text(right), f"{difference:.1e}", told, figure_text(attacked), ", ".join(types) or "none"]
    return row, {"accuracy": right, "difference": difference, "exit_code": code, "robust_accuracy": attacked, "findings": types}


def trained(name: str, peer: Peer, weights: Path, given: Namespace) -> nn.Module:
    """The network in eval mode, from its file where that was made with the same settings."""
    setting = json.dumps([name, given.train, given.epochs, given.batch, given.threads])
    torch.manual_seed(0)
    net = peer.module()
    if weights.exists():
        with safetensors.safe_open(weights, "pt") as file:
            same = (file.metadata() or {}).get("setting") == setting
        if same:
            safetensors.torch.load_model(net, weights)
            return net.eval()
    x, y = images("mnist", "train", given.train)
    optimizer = peer.optimizer(net.parameters())
    net.train()
    for epoch in range(given.epochs):
        begun, total = time.perf_counter(), 0.0
        for rows in torch.randperm(len(x)).split(given.batch):
            optimizer.zero_grad()
            loss = peer.loss(peer.outputs(net, x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        print(f"  {name}, epoch {epoch + 1}: loss {total / len(x):.4f}, {time.perf_counter() - begun:.0f} s", flush=True)
    weights.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous() for key, value in net.state_dict().items()}
    safetensors.torch.save_file(tensors, weights, metadata={"setting": setting})
    return net.eval()


def logits(peer: Peer, net: nn.Module, x: Tensor) -> Tensor:
    """What the framework computes by its own calls, [B, K]."""
    with torch.no_grad():
        found = peer.outputs(net, x)
    return found.mean(0) if found.dim() == 3 else found


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Images and labels, 100 at a time."""
    return list(zip(x.split(100), y[: len(x)].split(100), strict=True))


def audit_command(name: str, given: Namespace, run: Path, python: str | None = None) -> list[str]:
    """The words of the audit of a network, for a shell or for this interpreter."""
    weights = given.keep / f"{name}.safetensors"
    words = f"audit tutorials:{name} --weights {weights} --data mnist --profile {given.profile} --eps {given.eps}"
    program = ["trustsnn"] if python is None else [python, "-m", "trustsnn"]
    more = f" --samples {given.samples} --threads {given.threads} --out {run}"
    return program + shlex.split(words + more)


def environment() -> dict[str, str]:
    """That of this process, in which `tutorials` can be imported."""
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def figure_text(figure: Any) -> str:
    """A proportion with its count and interval."""
    if figure["value"] is None:
        return "not measured"
    interval = f"{figure['low']:.1%} to {figure['high']:.1%}"
    return f"{figure['value']:.1%} ({figure['successes']} of {figure['count']}, {interval})"


if __name__ == "__main__":
    main()
