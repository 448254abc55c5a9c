"""`trustsnn train spikegpt` and `trustsnn generate`: a spiking language model on any text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustsnn.cli.seal import KeyOption, takes_key
from trustsnn.cli.train import prepare

if TYPE_CHECKING:
    from trustsnn.language import Bits


def spikegpt(
    text: Annotated[Path, typer.Option(help="A UTF-8 file. The first 80 % train, the last 10 % test.")],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. models/spikegpt-NAME by default.")] = None,
    tokens: Annotated[str, typer.Option(help="characters or bytes.")] = "characters",
    width: Annotated[int, typer.Option(help="Neurons of a layer.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks of time and channel mixing.")] = 2,
    context: Annotated[int, typer.Option(help="Positions of a training window.")] = 128,
    embedding: Annotated[str, typer.Option(help="binary or real.")] = "binary",
    epochs: Annotated[int, typer.Option(help="Passes over the training part.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = 16,
    learning_rate: Annotated[float, typer.Option("--lr", help="After the warm-up; it falls to 0 along a cosine.")] = 6e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the matrices.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights and windows.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """SpikeGPT on a text, held against a trigram. The same command goes on where a killed run stopped."""
    prepare(threads)
    from trustsnn import language
    from trustsnn.checkpoint import check_out
    from trustsnn.errors import DataError
    from trustsnn.language.bits import BLOCK
    from trustsnn.runners.progress import TrainingReporter

    corpus = language.Corpus.of(language.read_text(text), tokens)
    begin, end = corpus.span("test")
    block = BLOCK if end - begin >= 2 * BLOCK else (end - begin) // 8
    if block < 1:
        raise DataError(f"Expected a text whose test part has at least 8 tokens, got {end - begin} in {text}.")
    out = out or Path("models") / f"spikegpt-{text.stem}"
    size = language.SpikeGPTConfig(width=width, layers=layers, context=context, embedding=embedding, seed=seed)
    config = language.LanguageConfig(epochs, batch_size, learning_rate, weight_decay, seed=seed)
    training = {"recipe": "spikegpt", "text": corpus.describe(), "epochs": epochs, "seed": seed}
    check_out(out, {"recipe": "spikegpt"} if (out / "training").exists() else training)
    with TrainingReporter(quiet) as reporter:
        model, _ = language.train_language(
            corpus, size, config, folder=out / "training",
            on_step=lambda p: reporter.step(p.epoch, epochs, p.step, p.steps, p.loss),
            on_epoch=lambda row: reporter.epoch(row, epochs),
        )  # fmt: skip
    language.save(model, out, training=training)
    trigram = language.NGram.fit(corpus.part("train"), len(corpus.alphabet), 3, corpus.part("validation"))
    found = language.bits_per_character(model, corpus, block=block)
    typer.echo(
        f"{out}: {_figure(found)} bits per character on all {found['characters']} characters of the test part, a trigram's "
        f"{_figure(language.bits_per_character(trigram, corpus, block=block))}, difference "
        f"{_figure(language.difference(model, trigram, corpus, block=block))} "
        f"(95 % intervals over {found['blocks']} blocks of {found['block']} tokens)"
    )
    told = model.describe()
    rates = ", ".join(f"{rate['layer']} {rate['rate']:.3f}" for rate in model.spike_rates(corpus.part("test")))
    typer.echo(f"{told['parameters']:,} parameters. Spikes per neuron and position: {rates}")
    typer.echo("What is not spikes in it:")
    for part, computation in told["real_valued"].items():
        typer.echo(f"  {part}: {computation}")


@takes_key
def generate(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder of `trustsnn train spikegpt`.")],
    length: Annotated[int, typer.Option(help="Tokens.")] = 400,
    prompt: Annotated[str, typer.Option(help="The text to go on from; a line end if empty.")] = "",
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    key: KeyOption = None,
) -> None:
    """Text from a spiking language model, the same for the same arguments."""
    from trustsnn import language

    loaded = language.load(model, key=key)
    typer.echo(prompt + language.generate(loaded, length, prompt=prompt, temperature=temperature, seed=seed))


def _figure(bits: Bits) -> str:
    return f"{bits['value']:.3f} ({bits['low']:.3f} to {bits['high']:.3f})"
