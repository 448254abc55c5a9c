"""`trustsnn federate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from trustsnn.cli import train as options


def federate(
    data: options.DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the model, the rounds and the report.")],
    model: Annotated[
        str, typer.Option("--model", help="A bundled network (see `trustsnn list models`), or a checkpoint folder to start from.")
    ] = "conv",
    clients: Annotated[int, typer.Option(help="How many.")] = 20,
    rounds: Annotated[int, typer.Option(help="How many.")] = 30,
    alpha: Annotated[float | None, typer.Option(help="Short for --partition dirichlet:alpha=ALPHA.")] = None,
    partition: Annotated[str | None, typer.Option(help="Who owns what: iid, dirichlet:alpha=0.5, shards:per_client=2.")] = None,
    fraction: Annotated[float, typer.Option(help="Of the clients that are asked in a round.")] = 1.0,
    strategy: Annotated[str, typer.Option(help="How updates become one; see `trustsnn list strategies`.")] = "fedavg",
    loss: Annotated[
        str, typer.Option(help="Of the clients' training: cross-entropy, fedprox:mu=0.01 or fedlec.")
    ] = "cross-entropy",
    neuron: Annotated[str, typer.Option(help="lif, or relu for an ANN.")] = "lif",
    steps: Annotated[int, typer.Option(help="Time steps T.")] = 4,
    encoder: options.EncoderOption = None,
    norm: Annotated[str, typer.Option(help="batch, td, bntt, group or none.")] = "batch",
    statistics: Annotated[str, typer.Option(help="Of batch norms: aggregated, or local to each client.")] = "aggregated",
    channels: options.ChannelsOption = 1.0,
    local_epochs: Annotated[int, typer.Option(help="Of a client in a round.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples a step of a client.")] = 32,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    learning_rate: Annotated[float, typer.Option("--lr", help="In the first round; a tenth in the last.")] = 0.05,
    augment: options.AugmentOption = "none",
    holdout: Annotated[float, typer.Option(help="Share of its samples on which a client measures and does not train.")] = 0.1,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with 1 if the test accuracy after the last round is below this.")
    ] = None,
    engine: Annotated[str, typer.Option(help="ray, or inline for one client after the other in this process.")] = "ray",
    workers: Annotated[int | None, typer.Option(help="Processes of Ray; one for each core by default.")] = None,
    seed: options.SeedOption = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of a client.")] = 1,
    data_root: options.RootOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Train across simulated clients on Flower. The same command goes on where a killed run stopped."""
    options.prepare(None)
    from trustsnn.checkpoint import load_network, model_hash
    from trustsnn.data import splits
    from trustsnn.errors import ConfigError
    from trustsnn.federated.config import parsed
    from trustsnn.models import build
    from trustsnn.reports.federated import lines
    from trustsnn.runners.federated import Running
    from trustsnn.runners.federated import federate as run
    from trustsnn.runners.progress import Reporter

    if alpha is not None and partition is not None:
        raise ConfigError("Give --alpha or --partition, not both.")
    if Path(model).is_dir():
        start: Any = load_network(model)
    else:
        train = splits(data, data_root, frames=steps)["train"]
        start = build(
            model, input_shape=train.sample_shape, classes=len(train.classes), steps=1 if neuron == "relu" else steps, neuron=neuron,
            encoder=encoder, norm=norm, channels=channels, domain=train.domain, max_count=train.max_count, seed=seed,
        )  # fmt: skip
    config = parsed(
        {
            "architecture": start.architecture, "start": model_hash(start), "data": data, "clients": clients, "rounds": rounds,
            "partition": partition or f"dirichlet:alpha={0.5 if alpha is None else alpha}", "fraction": fraction, "strategy": strategy,
            "loss": loss, "statistics": statistics, "holdout": holdout, "seed": seed,
            "local": {
                "epochs": local_epochs, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": learning_rate,
                "augmentation": augment,
            },
        },
        "trustsnn federate",
    )  # fmt: skip
    running = Running(engine, workers or os.cpu_count() or 1, threads, data_root)
    with Reporter(quiet) as reporter:
        reporter.start(rounds, 0, 0)

        def told(row: dict[str, Any]) -> None:
            reporter.finished(line_of(row))

        done = run(config, start, out, running, least=fail_under, told=told)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)


def line_of(row: dict[str, Any]) -> str:
    """What a round came to, in a line."""
    test = f"test {100 * row['test']['value']:.2f} %" if "test" in row else "no test of the global model"
    own = [right / count for right, count in row["own"].values() if count]
    spread = f", clients {100 * min(own):.0f} to {100 * max(own):.0f} %" if own else ""
    trouble = "".join(f", {len(row[name])} {name}" for name in ("failed", "refused", "capped") if row[name])
    return (
        f"round {row['round']}: {test}{spread}, {row['combined']} of {len(row['asked'])} updates{trouble}, {row['seconds']:.1f} s"
    )
