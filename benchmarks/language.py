"""SpikeGPT against n-gram models in bits per character on a real text.

    python benchmarks/language.py
    python benchmarks/language.py --text book.txt --epochs 10

The text is the documentation of Python's language in `pydoc_data/topics.py`, which every Python has: its topics in sorted order,
each paragraph once (topics repeat one another, so that the test part would else stand in the training part). It differs from
release to release; its SHA-256 is in the table. All models count or train on its first 80 %, are adjusted by the next 10 %, and
are measured on the whole of the last 10 %. SpikeGPT has fixed settings, nothing of it is chosen by the test part.
"""

from __future__ import annotations

import pydoc_data.topics
from argparse import ArgumentParser, Namespace
from pathlib import Path

from harness import begin, options
from report import Report

from trustsnn.errors import TrustSNNError
from trustsnn.language import (
    Bits,
    Corpus,
    LanguageConfig,
    NGram,
    SpikeGPT,
    SpikeGPTConfig,
    Uniform,
    bits_per_character,
    difference,
    generate,
    load,
    read_text,
    save,
    train_language,
)
from trustsnn.runners.progress import TrainingReporter

COPIED = 60


def main() -> None:
    """The text, the models on it, the spikes of SpikeGPT, and what it computes with real values."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    try:
        corpus = Corpus.of(read_text(given.text) if given.text else documentation(), given.tokens)
    except TrustSNNError as error:
        raise SystemExit(f"error: {error}") from error
    name = given.text.name if given.text else "pydoc_data/topics.py, each paragraph once"
    report = Report(f"Language: SpikeGPT against n-gram models on {name}", given)
    stated = corpus.describe()
    copied = repeated(corpus)
    note = f"Of the test characters, {copied:.2%} begin a run of {COPIED} that also stands in the training part."
    report.table("The text", list(stated), [[str(value) for value in stated.values()]], note, {**stated, "copied": copied})

    models = {f"SpikeGPT, seed {seed}": trained(corpus, given, seed) for seed in given.seeds}
    counted = {order: _ngram(corpus, order) for order in given.orders}
    trigram = counted.get(3) or _ngram(corpus, 3)
    scorers = {"uniform": Uniform.over(corpus.alphabet)} | {f"{order}-gram, Kneser-Ney": m for order, m in counted.items()}
    rows, raw = [], []
    for title, scorer in (scorers | models).items():
        found, gap = bits_per_character(scorer, corpus), difference(scorer, trigram, corpus)
        rows.append([title, _figure(found), "" if scorer is trigram else _figure(gap)])
        adjusted = {"discounts": scorer.discounts} if isinstance(scorer, NGram) else {}
        raw.append({"model": title, "bits": found, "against_trigram": gap, **adjusted})
    found = raw[-1]["bits"]
    note = (
        f"All {found['characters']:,} characters of the test part. 95 % intervals: Student's over {found['blocks']} blocks of "
        f"{found['block']:,} tokens, the differences block by block. They speak of other text of this kind, not of other seeds: each "
        "seed is a training run with a row of its own."
    )
    report.table("Bits per character on the test part", ["model", "bits per character", "minus the trigram's"], rows, note, raw)
    model = next(iter(models.values()))
    _spikes(report, corpus, model)
    print(f"Text at temperature 0.7:\n\n{generate(model, 400, temperature=0.7)}\n")


def documentation() -> str:
    """The documentation of the language in `pydoc_data/topics.py`, topics in sorted order, each paragraph where it comes first."""
    topics = pydoc_data.topics.topics
    paragraphs: dict[str, str] = {}
    for paragraph in "\n".join(topics[name] for name in sorted(topics)).split("\n\n"):
        paragraphs.setdefault(paragraph.strip(), paragraph)
    return "\n\n".join(paragraphs.values())


def repeated(corpus: Corpus) -> float:
    """The share of the test tokens that begin a run of `COPIED` which also stands in the training part."""
    train, test = (corpus.part(part).astype("uint32").tobytes() for part in ("train", "test"))
    size = 4 * COPIED
    known = {train[at : at + size] for at in range(0, len(train) - size + 1, 4)}
    runs = range(0, len(test) - size + 1, 4)
    return sum(test[at : at + size] in known for at in runs) / max(1, len(runs))


def trained(corpus: Corpus, given: Namespace, seed: int) -> SpikeGPT:
    """The SpikeGPT of these settings and this seed, from --keep if it is there; a killed training goes on."""
    size = SpikeGPTConfig(width=given.width, layers=given.layers, context=given.context, embedding=given.embedding, seed=seed)
    config = LanguageConfig(epochs=given.epochs, batch_size=given.batch_size, learning_rate=given.lr, seed=seed)
    parts = [corpus.sha256[:8], given.tokens, size.embedding, size.width, size.layers, size.context]
    parts += [config.epochs, config.batch_size, f"{config.learning_rate:g}", config.seed]
    folder = given.keep / "-".join(map(str, parts))
    if not (folder / "manifest.json").is_file():
        with TrainingReporter() as reporter:
            model, log = train_language(
                corpus, size, config, folder=folder / "training",
                on_step=lambda p: reporter.step(p.epoch, config.epochs, p.step, p.steps, p.loss),
                on_epoch=lambda row: reporter.epoch(row, config.epochs),
            )  # fmt: skip
        save(model, folder, training={"recipe": "spikegpt", "text": corpus.sha256, "log": log})
    return load(folder)


def _ngram(corpus: Corpus, order: int) -> NGram:
    return NGram.fit(corpus.part("train"), len(corpus.alphabet), order, corpus.part("validation"))


def _spikes(report: Report, corpus: Corpus, model: SpikeGPT) -> None:
    told = model.describe()
    rates = model.spike_rates(corpus.part("test"))
    note = f"Means over {rates[0]['positions']:,} test positions and {model.config.width} neurons. {told['parameters']:,} parameters."
    report.table(
        "Spikes per neuron and position", ["layer", "rate"], [[r["layer"], f"{r['rate']:.4f}"] for r in rates], note, rates
    )
    real = told["real_valued"]
    report.table("What is not spikes in it", ["part", "computation"], [list(row) for row in real.items()], "", told)


def _figure(bits: Bits) -> str:
    return f"{bits['value']:.3f} ({bits['low']:.3f} to {bits['high']:.3f})"


def _arguments(parser: ArgumentParser) -> None:
    def whole(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser.add_argument("--text", type=Path, help="a UTF-8 file instead of Python's documentation")
    parser.add_argument("--tokens", default="characters", help="characters or bytes (default %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="(default %(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--context", type=int, default=128, help="positions of a window (default %(default)s)")
    parser.add_argument("--embedding", default="binary", help="binary or real (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="windows a step (default %(default)s)")
    parser.add_argument("--lr", type=float, default=6e-3, help="(default %(default)s)")
    parser.add_argument("--seeds", type=whole, default=[0, 1], help="of weights and windows, with commas (default 0,1)")
    parser.add_argument("--orders", type=whole, default=[1, 2, 3, 4, 5, 6], help="of the n-gram models (default 1,2,3,4,5,6)")
    parser.add_argument("--keep", type=Path, default=Path("models/language"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
