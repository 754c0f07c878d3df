"""Whether a model is worth being a default: four figures, each with what it has to reach.

    python -m benchmarks.gates MODEL CORPUS PROTEINS DATA

CORPUS has held-out clusters as `test`. PROTEINS is its FASTA file, with GO terms in the headers (`M=0003824,0016491
B=... C=...`); DATA a folder with the public files of `benchmarks/labelled_tasks.py`. The gates:

- perplexity of masked residues on the held-out clusters at most 15.5;
- a probe of localisation at least 10 points above one of residue composition;
- a probe of secondary structure at least 3 points above one of a window of residues;
- for proteins of held-out clusters, the nearest of the training proteins shares more GO terms (Jaccard index) than the
  nearest by composition, outside chance.

Differences have 95 % bootstrap intervals over proteins, in pairs. Probes are those of `protlm fit` with its defaults.
It prints a Markdown table and writes a CSV file, in which rows of models of other names stay.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.labelled_tasks import TASKS
from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, markdown, read_rows, replace_csv
from protlm.annotation.annotate import embedded
from protlm.annotation.neighbours import Neighbours
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.inference.evaluate import evaluate
from protlm.model_api import load
from protlm.performer import Performer
from protlm.progress import plain_lines
from protlm.sequence.fasta import FastaFile
from protlm.supervised.features import composition
from protlm.supervised.fit_api import fit

PERPLEXITY = 15.5
PROBES = {"localisation": ("composition", 0.10), "structure": ("window of residues", 0.03)}
"""Task -> the baseline, and by how much accuracy has to exceed it."""
TERMS = ("M=", "B=", "C=")
YES = ("no", "yes")


class Gate(NamedTuple):
    """A figure of the model beside that of its baseline; `passed` compares the gain with what it has to be."""

    gate: str
    value: float
    baseline: float
    gain: float
    low: float
    high: float
    needed: str
    passed: bool


@dataclass(frozen=True)
class Annotated:
    """Proteins with GO terms."""

    sequences: list[str]
    terms: list[frozenset[str]]

    def drawn(self, most: int, seed: int) -> "Annotated":
        """At most so many of them, at random."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.terms))[:most]).tolist()
        return Annotated([self.sequences[i] for i in chosen], [self.terms[i] for i in chosen])


def perplexity(model: Performer, corpus: Corpus, token_budget: int) -> Gate:
    """Of masked residues of the held-out clusters; its standard error, about 0.02, is left out."""
    found = evaluate(model, corpus, ["test"], token_budget=token_budget)["test"]
    value, unigram = found["perplexity"], found["unigram_perplexity"]
    gain = unigram - value
    return Gate("perplexity", value, unigram, gain, gain, gain, f"at most {PERPLEXITY}", value <= PERPLEXITY)


def probe(task: str, model: Path, data: Path) -> Gate:
    """Accuracy of a probe beside its baseline."""
    baseline, least = PROBES[task]
    with tempfile.TemporaryDirectory() as folder:
        labelled = TASKS[task](data, Path(folder))
        report = fit(labelled.labels, model=str(model), relatives=False, **labelled.options).report
    target = report["targets"][0]
    values = [target["metrics"][name]["accuracy"]["value"] for name in ("probe", baseline)]
    gain = target["gains"][baseline]["accuracy"]
    needed = f"{100 * least:.0f} points above {baseline}"
    return Gate(
        labelled.name, *values, *(gain[end] for end in ("value", "low", "high")), needed, gain["value"] >= least
    )


def annotated(proteins: Path, corpus: Corpus) -> tuple[Annotated, Annotated]:
    """The proteins of the training and the test split that have GO terms.

    Raises:
        UserError: if a split has none.
    """
    ids = corpus.ids()
    split = {ids[i]: name for name in ("train", "test") for i in corpus.members(name).tolist()}
    found = {name: Annotated([], []) for name in ("train", "test")}
    for record in FastaFile(proteins):
        terms = go_terms(record.description)
        if terms and record.id in split:
            own = found[split[record.id]]
            own.sequences.append(record.sequence)
            own.terms.append(terms)
    if empty := [name for name, own in found.items() if not own.terms]:
        raise UserError(
            f"{proteins}: no protein of the {empty[0]} split has GO terms, such as M=0003824, in its header"
        )
    return found["train"], found["test"]


def go_terms(header: str) -> frozenset[str]:
    """The GO terms of a header.

    >>> sorted(go_terms("A0A1F3 M=0003824,0004459 C=0005737"))
    ['0003824', '0004459', '0005737']
    """
    fields = [field[2:] for field in header.split() if field.startswith(TERMS)]
    return frozenset(term for field in fields for term in field.split(",") if term)


def agreement(vectors: np.ndarray, queries: np.ndarray, reference: Annotated, asked: Annotated) -> np.ndarray:
    """(q,) float64: the Jaccard index of the GO terms of each query and of its nearest neighbour."""
    nearest = Neighbours(vectors).nearest(queries, 1)
    shared = np.zeros(len(asked.terms))
    for query, target in zip(nearest.query.tolist(), nearest.target.tolist(), strict=True):
        own, other = asked.terms[query], reference.terms[target]
        shared[query] = len(own & other) / len(own | other)
    return shared


def neighbours(model: Performer, reference: Annotated, asked: Annotated, token_budget: int, draws: int) -> Gate:
    """GO terms shared with the nearest protein by embeddings, beside the nearest by composition."""
    shared = []
    report = plain_lines(print, "embedding", "residues")
    for features in ("embedding", "composition"):
        if features == "embedding":
            parts = [embedded(model, own.sequences, -1, token_budget, report) for own in (reference, asked)]
        else:
            parts = [np.stack([composition(one) for one in own.sequences]) for own in (reference, asked)]
        shared.append(agreement(*parts, reference, asked))
    difference = shared[0] - shared[1]
    generator = np.random.default_rng(1)
    means = [generator.choice(difference, len(difference)).mean() for _ in range(draws)]
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    values = [float(one.mean()) for one in (*shared, difference)]
    return Gate("GO terms of the nearest", *values, low, high, "above composition, outside chance", low > 0)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder or checkpoint")
    for name in ("corpus", "proteins", "data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--reference", type=positive, default=10_000, help="proteins among which neighbours are found")
    parser.add_argument("--queries", type=positive, default=1_000)
    parser.add_argument("--draws", type=positive, default=1_000, help="bootstrap samples")
    parser.add_argument("--token-budget", type=positive, default=16_384)
    parser.add_argument("--name", help="of the model in the tables; default: that of its folder")
    parser.add_argument("--csv", type=Path, default=Path("docs/results/gates.csv"))
    options = parser.parse_args(given)
    check_outputs(options.csv)
    model, corpus = load(options.model), Corpus(options.corpus)
    reference, asked = annotated(options.proteins, corpus)
    reference, asked = reference.drawn(options.reference, 1), asked.drawn(options.queries, 1)
    gates = [perplexity(model, corpus, options.token_budget)]
    gates += [probe(task, options.model, options.data) for task in PROBES]
    gates.append(neighbours(model, reference, asked, options.token_budget, options.draws))
    name = options.name or options.model.name
    others = [row for row in read_rows(options.csv) if row["model"] != name]
    replace_csv([*others, *({"model": name, **gate._asdict()} for gate in gates)], options.csv)
    cells = [[gate.gate, *(f"{x:.3f}" for x in gate[1:6]), gate.needed, YES[gate.passed]] for gate in gates]
    print(markdown(Gate._fields, cells))


if __name__ == "__main__":
    program(main)
