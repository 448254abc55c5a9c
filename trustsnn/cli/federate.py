"""`trustsnn federate`: a federation simulated here, and what real devices need."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
import typer.core

from trustsnn.cli import train as options
from trustsnn.cli.made import made_by
from trustsnn.cli.seal import KeyOption, takes_key

if TYPE_CHECKING:
    from trustsnn.federated.config import FederatedConfig
    from trustsnn.keys import Key
    from trustsnn.models.network import SpikingNetwork


class _Group(typer.core.TyperGroup):
    """A group with a command for what begins with an option of none."""

    default = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


federate_app = typer.Typer(
    cls=_Group, no_args_is_help=True, rich_markup_mode=None,
    help="Train across clients on Flower: simulated here, or on real devices. `federate --data ...` is short for `federate run --data ...`.",
)  # fmt: skip


@dataclass(frozen=True)
class Federation:
    """What the options that commands share come to: the settings, the network that it starts from, where data files lie, what makes a
    module of the user's own, and the key of a sealed one."""

    config: FederatedConfig
    start: SpikingNetwork
    root: Path | None
    code: str | None
    key: Key | None


@takes_key
def settings(
    data: options.DataOption,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A bundled network (see `trustsnn list models`), a checkpoint folder to start from, or package.module:callable for your own.",
        ),
    ] = "conv",
    weights: Annotated[Path | None, typer.Option(help="A safetensors file that a module of your own starts from.")] = None,
    key: KeyOption = None,
    clients: Annotated[int, typer.Option(help="How many.")] = 20,
    rounds: Annotated[int, typer.Option(help="How many.")] = 30,
    alpha: Annotated[float | None, typer.Option(help="Short for --partition dirichlet:alpha=ALPHA.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="Who owns what: iid, dirichlet:0.5, shards:2, or folders: each client's, in --data.")
    ] = None,
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
    compression: Annotated[str, typer.Option(help="Of updates on their way up: none, top-k:0.01 or quantised:8.")] = "none",
    privacy: Annotated[
        str | None,
        typer.Option(
            help="Differential privacy, such as client:eps=8, client:sigma=1:clip=0.5:budget=8 or sample:eps=8; see the guide."
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Secure aggregation: the server learns the sum of a round alone.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="Of secure aggregation: share of the asked clients that must stay.")] = 0.67,
    fleet: Annotated[
        Path | None,
        typer.Option(help="A YAML file of what devices are like: drop-outs, stragglers, time steps, hardware twins, noise."),
    ] = None,
    max_norm: Annotated[
        float | None, typer.Option(help="Refuse an update with a larger L2 norm, besides ten times the median.")
    ] = None,
    validate: Annotated[bool, typer.Option(help="Refuse updates that are malformed or out of proportion.")] = True,
    poison: Annotated[
        str | None, typer.Option(help="Bad clients of a simulation, such as 0=nan,3=backdoor; see the guide.")
    ] = None,
    seed: options.SeedOption = 0,
    data_root: options.RootOption = None,
) -> Federation:
    """The federation of these options."""
    options.prepare(None)
    from trustsnn.checkpoint import load_network, model_hash
    from trustsnn.data import splits
    from trustsnn.errors import ConfigError
    from trustsnn.federated import foreign
    from trustsnn.federated.config import parsed
    from trustsnn.federated.folders import load_clients
    from trustsnn.models import build
    from trustsnn.runners.config import read_config

    if alpha is not None and partition is not None:
        raise ConfigError("Give --alpha or --partition, not both.")
    train = (
        load_clients(data, "train", frames=steps)[0] if partition == "folders" else splits(data, data_root, frames=steps)["train"]
    )
    start: Any
    architecture: dict[str, Any] | None = None
    if weights is not None and ":" not in model:
        raise ConfigError("--weights goes with package.module:callable; a checkpoint folder holds its own weights.")
    if key is not None and not Path(model).is_dir():
        raise ConfigError(f"Expected a sealed checkpoint folder for that key, got --model {model}.")
    if Path(model).is_dir():
        start = load_network(model, key=key)
    elif ":" in model:
        architecture = foreign.architecture_of(model, train.sample_shape, seed)
        start = foreign.build(architecture, model, weights)
    else:
        start = build(
            model, input_shape=train.sample_shape, classes=len(train.classes), steps=1 if neuron == "relu" else steps, neuron=neuron,
            encoder=encoder, norm=norm, channels=channels, domain=train.domain, max_count=train.max_count, seed=seed,
        )  # fmt: skip
    config = parsed(
        {
            "architecture": architecture or start.architecture, "start": model_hash(start), "data": data, "classes": train.classes,
            "clients": clients,
            "rounds": rounds, "partition": partition or f"dirichlet:alpha={0.5 if alpha is None else alpha}", "fraction": fraction,
            "strategy": strategy, "loss": loss, "statistics": statistics, "holdout": holdout, "seed": seed,
            "compression": compression, "privacy": _privacy(privacy), "secure": {"threshold": threshold} if secure else None,
            "fleet": None if fleet is None else read_config(fleet), "poison": _bad_clients(poison),
            "limits": {"on": validate, "norm": max_norm},
            "local": {
                "epochs": local_epochs, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": learning_rate,
                "augmentation": augment,
            },
        },
        "trustsnn federate",
    )  # fmt: skip
    return Federation(config, start, data_root, None if architecture is None else model, key)


def _privacy(text: str | None) -> dict[str, Any] | None:
    """The settings of a line such as "client:eps=8:clip=0.5"."""
    if text is None:
        return None
    from trustsnn.settings import parse

    unit, given = parse(text, "client:eps=8")
    return {"unit": unit, **given}


def _rounds(text: str) -> tuple[int, ...]:
    """The rounds of a line such as "1,5"."""
    from trustsnn.errors import ConfigError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"Expected rounds from 1 with commas (--look), such as 1,5, got {text!r}.")
    return tuple(map(int, words))


def _bad_clients(text: str | None) -> dict[str, str]:
    """Kinds of bad clients by number, of a line such as "0=nan,3=backdoor"."""
    from trustsnn.errors import ConfigError

    found = {}
    for each in (text or "").split(",") if text else ():
        client, equals, kind = each.partition("=")
        if not equals or not client.strip().isdigit():
            raise ConfigError(f"Expected bad clients as CLIENT=KIND with commas, such as 0=nan,3=backdoor, got {each!r}.")
        found[client.strip()] = kind.strip()
    return found


@federate_app.command()
@made_by(settings, "federation")
def run(
    federation: Federation,
    out: Annotated[Path, typer.Option("--out", help="Folder for the model, the rounds and the report.")],
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with 1 if the test accuracy after the last round is below this.")
    ] = None,
    engine: Annotated[str, typer.Option(help="ray, or inline for one client after the other in this process.")] = "ray",
    workers: Annotated[int | None, typer.Option(help="Processes of Ray; one for each core by default.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of a client.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the model of every round, for `trustsnn federate audit`.")] = False,
    look: Annotated[
        str, typer.Option(help="Rounds, with commas, of which each client's update is kept as the server sees it, for the audit.")
    ] = "",
    quiet: options.QuietOption = False,
) -> None:
    """Simulate the clients on this machine. The same command goes on where a killed run stopped."""
    from trustsnn.reports.federated import lines
    from trustsnn.runners.federated import Running, federate
    from trustsnn.runners.progress import Reporter

    running = Running(
        engine, workers or os.cpu_count() or 1, threads, federation.root, federation.code, federation.key, keep, _rounds(look)
    )
    with Reporter(quiet) as reporter:
        reporter.start(federation.config.rounds, 0, 0)

        def told(row: dict[str, Any]) -> None:
            reporter.finished(line_of(row))

        done = federate(federation.config, federation.start, out, running, least=fail_under, told=told)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)


@federate_app.command()
@takes_key
def audit(
    run: Annotated[Path, typer.Argument(help="A folder of `trustsnn federate run --keep`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for audit.json and audit.html.")],
    samples: Annotated[int, typer.Option(help="Members, and as many others, that are told apart.")] = 2000,
    every: Annotated[int, typer.Option(help="Rounds between two that are attacked.")] = 5,
    images: Annotated[int, typer.Option(help="One-sample updates that are inverted.")] = 8,
    iterations: Annotated[int, typer.Option(help="Of that search.")] = 200,
    fail_over: Annotated[
        float | None, typer.Option(help="Exit with 1 if more than this share of the members is found at 1 % false alarms.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="package.module:callable, of a federation of one's own module.")
    ] = None,
    key: KeyOption = None,
    data_root: options.RootOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Attack a federation: membership round by round and by client, gradient inversion as the server sees updates, backdoors, posture."""
    options.prepare(None)
    from trustsnn.reports.federated_audit import lines
    from trustsnn.runners.federated_audit import Plan
    from trustsnn.runners.federated_audit import audit as attack

    plan = Plan(samples, every, images, iterations, fail_over)
    told = (lambda line: None) if quiet else lambda line: typer.echo(line, err=True)
    done = attack(run, out, plan, root=data_root, code=model, key=key, told=told)
    for line in lines(done.record):
        typer.echo(line)
    typer.echo(str(done.report))
    raise typer.Exit(done.exit_code)


@federate_app.command("app")
@made_by(settings, "federation")
def app_(
    federation: Federation,
    folder: Annotated[Path, typer.Argument(help="A new folder for the app.")],
    out: Annotated[
        str,
        typer.Option("--out", help="The server's folder for the rounds and the model, below where the SuperLink was started."),
    ] = "federation",
    test: Annotated[
        str | None,
        typer.Option(help="The server's data set for the accuracy after each round, or none. [default: that of --data]"),
    ] = None,
) -> None:
    """Write the Flower app with which real devices train: settings, a few lines of code and a guide. `flwr run` sends it to them."""
    from trustsnn.errors import ConfigError
    from trustsnn.federated.bundle import write_app

    if federation.key is not None:
        raise ConfigError(
            "A sealed model federates in a simulation alone (trustsnn federate run --engine inline): Flower's SuperLink writes the messages "
            "of real devices to its database as they are."
        )
    measured = federation.config.data if test is None else "" if test == "none" else test
    for path in write_app(folder, federation.config, out=out, test=measured):
        typer.echo(path)


@federate_app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="A new folder, which its owner alone can open.")],
    hosts: Annotated[
        str, typer.Option(help="With commas: addresses and names by which nodes reach the server.")
    ] = "127.0.0.1,localhost",
    nodes: Annotated[int, typer.Option(help="How many get a key for SuperNode authentication.")] = 1,
    days: Annotated[int, typer.Option(help="Until the certificates expire.")] = 365,
) -> None:
    """Make certificates for TLS and keys for nodes, for tests and small set-ups. The key of the CA is not kept."""
    from trustsnn.federated.certificates import make

    for path in make(folder, [host.strip() for host in hosts.split(",")], nodes, days=days):
        typer.echo(path)


@federate_app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder of `trustsnn federate certificates`, or what a node has of it.")],
    server: Annotated[
        str | None, typer.Option(help="HOST:PORT: greet the server there as a node does, and look at what it shows.")
    ] = None,
) -> None:
    """Check certificates and keys before Flower uses them: dates, who signed what, which key fits, who can read it."""
    from trustsnn.federated.certificates import CA, handshake
    from trustsnn.federated.certificates import check as looked_at

    for line in looked_at(folder):
        typer.echo(line)
    if server is not None:
        typer.echo(handshake(folder / CA, server))


def line_of(row: dict[str, Any]) -> str:
    """What a round came to, in a line."""
    test = f"test {100 * row['test']['value']:.2f} %" if "test" in row else "no test of the global model"
    own = [right / count for right, count in row["own"].values() if count]
    spread = f", clients {100 * min(own):.0f} to {100 * max(own):.0f} %" if own else ""
    trouble = "".join(f", {len(row[name])} {name}" for name in ("failed", "refused", "capped") if row[name])
    return (
        f"round {row['round']}: {test}{spread}, {row['combined']} of {len(row['asked'])} updates{trouble}, {row['seconds']:.1f} s"
    )
