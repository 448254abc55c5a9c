"""What an inference costs by each convention, beside the ANN and the quantised network, and how far an attack raises it.

python benchmarks/energy.py
python benchmarks/energy.py --data mnist --network conv,mlp --samples 500
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import begin, options
from outcomes import Outcomes
from report import Report

from trustsnn.attacks.integrity import Sponge
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.neurons import STBP, Surrogate
from trustsnn.reports.energy import figure, number
from trustsnn.reports.wording import percent
from trustsnn.runners.energy import energy
from trustsnn.training import TrainConfig


def main() -> None:
    """Two tables a network: energy by convention, and attacks."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="data set (default %(default)s)")
    parser.add_argument("--network", default="conv,mlp", help="architectures, with commas (default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on their channels (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default %(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="test samples (default %(default)s)")
    parser.add_argument("--eps", type=float, default=0.1, help="L-inf radius of the attacks (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="gradient steps of the attacks (default %(default)s)")
    parser.add_argument(
        "--kept", type=Path, default=Path("runs/hardware/integrity"), help="trained networks (default %(default)s)"
    )
    given = begin(parser)
    train, test = load(given.data, "train"), load(given.data, "test").take(given.samples)
    report = Report(f"Energy on {given.data}, {len(test)} test samples", given)
    for name in given.network.split(","):
        network = _trained(given, name, train, test)
        with tempfile.TemporaryDirectory() as folder:
            record = energy(network, test, Path(folder), attacks(given)).record
        synaptic = record["intervals"]
        note = (
            f"Microjoules of an inference. Effective MACs {figure(synaptic['Effective_MACs'])}, ACs {figure(synaptic['Effective_ACs'])}, of "
            f"{number(record['metrics']['SynapticOperations']['Dense'])}; activation sparsity {figure(synaptic['ActivationSparsity'])}; "
            f"correct {percent(record['metrics']['ClassificationAccuracy'], len(test))}; 95 % intervals over {len(test)} samples. Averages of "
            f"spikes behind a pooling: {', '.join(record['averages']) or 'none'}."
        )
        columns = ["averages", "convention", "numbers", "spiking", "ANN", f"{record['bits']}-bit network", "zeros left out"]
        report.table(f"{name}: energy", columns, _energies(record), note, record)
        columns = ["aim", "gradient", "label", "energy, int8", "with memory", "spikes", "busiest layer", "same prediction"]
        note = f"Ratio of means after and before, L-inf {given.eps:g}, {given.steps} steps."
        report.table(f"{name}: attacks", columns, [_attack(each, len(test)) for each in record["attacks"]], note)


def _trained(given: Any, name: str, train: Dataset, test: Dataset) -> SpikingNetwork:
    network = build(name, input_shape=test.sample_shape, classes=len(test.classes), channels=given.channels)
    config = TrainConfig(epochs=given.epochs, batch_size=64, learning_rate=4e-3)
    return Outcomes(given.kept).trained(network, train, config)[0]


def attacks(given: Any) -> list[Sponge]:
    """Energy and latency, free and with the label kept, and energy through a wider surrogate."""
    shared: dict[str, Any] = {"eps": given.eps, "steps": given.steps}
    wider = STBP(Surrogate("triangular", 3.0))
    free = [Sponge(aim=aim, **shared) for aim in ("energy", "latency")]
    return [*free, Sponge(keep_label=True, **shared), Sponge(estimator=wider, **shared)]


def _energies(record: dict[str, Any]) -> list[list[str]]:
    rows = []
    for way in record["energies"] if record["averages"] else ("multiply",):
        for row in record["energies"][way]:
            values = (row["spiking"], row["dense"], row["quantised"], row["quantised_sparse"])
            rows.append([way, row["convention"], row["precision"], *("" if each is None else number(each) for each in values)])
    return rows


def _attack(found: dict[str, Any], count: int) -> list[str]:
    settings = found["settings"]
    gradient = (
        "own surrogate"
        if found["estimator"] is None
        else f"{found['estimator']['surrogate']}, width {found['estimator']['width']:g}"
    )
    ratios = [figure(found[key]) for key in ("energy", "energy_memory", "spikes", "latency")]
    return [
        settings["aim"],
        gradient,
        "kept" if settings["keep_label"] else "free",
        *ratios,
        percent(found["same_prediction"], count),
    ]


if __name__ == "__main__":
    main()
