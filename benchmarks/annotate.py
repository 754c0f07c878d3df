"""Transfer of labels to proteins of held-out clusters: embedding neighbours, phmmer, both, and naive frequencies.

    python -m benchmarks.annotate REFERENCE QUERIES LABELS CLUSTERS MODEL

REFERENCE and QUERIES are FASTA files, LABELS a table with a column `id` and one or more of labels, which are evaluated
one after the other; CLUSTERS is a table of MMseqs2 that has all proteins of REFERENCE. It prints a Markdown table, and
writes a CSV file with all figures: Fmax per protein (CAFA) with its bootstrap interval over queries, micro AUPRC, and
what is called at a precision of 0.5 and 0.9, with the fraction that is right. A query without any label in a column is
left out there, as is a protein of the reference. `--index` is that of `protlm annotate`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, markdown
from protlm.annotation.annotate import embedded
from protlm.annotation.annotator import Annotator
from protlm.annotation.evidence import Votes
from protlm.annotation.index import index_vectors, kept_relatives
from protlm.annotation.known_labels import KnownLabels, read_known_labels
from protlm.annotation.options import SOURCES, AnnotateOptions
from protlm.annotation.reference import Reference, read_records
from protlm.homology.relatives import Relatives, find_relatives
from protlm.model_api import load
from protlm.progress import plain_lines
from protlm.sequence.containers import ID
from protlm.sequence.fasta import Record
from protlm.supervised.labels import table_of
from protlm.supervised.metrics import evaluate
from protlm.supervised.partition import read_clusters
from protlm.tables import write_table

COLUMNS = ("column", "method", "reference", "queries", "fmax", "low", "high", "auprc")
COLUMNS += ("called_0.5", "right_0.5", "called_0.9", "right_0.9")
CALLED = (0.5, 0.9)
NAIVE = "naive"


@dataclass
class Study:
    """All that is computed once: proteins, embeddings, relatives.

    Attributes:
        reference, queries: n and q proteins.
        sample: (s,) of the reference, on which precision is learned.
        clusters: (n,).
        vectors, query_vectors: embeddings.
        relatives: of the sample with the reference, numbered by the reference on both sides.
        query_relatives: of the queries with the reference.
    """

    reference: list[Record]
    queries: list[Record]
    sample: np.ndarray
    clusters: np.ndarray
    vectors: np.ndarray
    query_vectors: np.ndarray
    relatives: Relatives
    query_relatives: Relatives

    def rows(self, name: str, labels: KnownLabels, options: AnnotateOptions, draws: int) -> Iterator[dict[str, Any]]:
        """The figures of a column, from its labels of reference and queries."""
        n = len(self.reference)
        known, asked = labels.take(np.arange(n)), np.flatnonzero(labels.counts[n:])
        labelled = known.counts > 0
        truth = dense(labels, n + asked)
        frequencies = np.bincount(known.numbers, minlength=len(labels.names)) / labelled.sum()
        about = {"column": name, "reference": int(labelled.sum()), "queries": len(asked)}
        yield {**about, "method": NAIVE, **figures(truth, np.tile(frequencies, (len(asked), 1)), draws)}
        reference = Reference(name, self.reference, {name: known})
        sample = self.sample[labelled[self.sample]]
        learned = self.relatives.between(np.isin(np.arange(n), sample), labelled)
        sequences = [record.sequence for record in self.queries]
        for by in SOURCES:
            chosen = replace(options, by=by)
            vectors, queries = (self.vectors, self.query_vectors) if chosen.embeds else (None, None)
            own, queried = (learned, self.query_relatives) if chosen.aligns else (None, None)
            annotator = Annotator(reference, name, chosen, sample, self.clusters, vectors, own)
            votes = annotator.transfer(annotator.evidence(sequences, queries, queried))
            scores = scored(votes, len(sequences), len(labels.names))[asked]
            yield {**about, "method": by, **figures(truth, scores, draws)}


def dense(labels: KnownLabels, proteins: np.ndarray) -> np.ndarray:
    """(p, K) int64: 1 where a protein has a label."""
    found = np.zeros((len(proteins), len(labels.names)), dtype=np.int64)
    found[labels.of(proteins)] = 1
    return found


def scored(votes: Votes, queries: int, labels: int) -> np.ndarray:
    """(q, K) precision of each label, 0 without a vote."""
    found = np.zeros((queries, labels))
    found[votes.query, votes.label] = votes.score
    return found


def figures(truth: np.ndarray, scores: np.ndarray, draws: int) -> dict[str, Any]:
    """Fmax with its interval, micro AUPRC, and calls with the fraction that is right."""
    metrics = evaluate("multilabel", truth, scores, np.arange(len(truth)), draws)
    found: dict[str, Any] = dict(zip(("fmax", "low", "high"), metrics["Fmax"], strict=True))
    found["auprc"] = metrics["micro AUPRC"].value
    for precision in CALLED:
        called = scores >= precision
        found[f"called_{precision}"] = int(called.sum())
        found[f"right_{precision}"] = float(truth[called].mean()) if called.any() else np.nan
    return found


def study(arguments: argparse.Namespace, options: AnnotateOptions) -> Study:
    """Embeds and searches."""
    _, reference, _ = read_records(arguments.reference, "reference")
    _, queries, _ = read_records(arguments.queries, "queries")
    model = load(arguments.model)
    all_labelled = Reference(str(arguments.reference), reference, {})
    drawn = np.random.default_rng(options.seed).permutation(len(reference))[: options.sample]
    sample = np.sort(drawn)
    sequences = [record.sequence for record in reference]

    def search() -> Relatives:
        report = plain_lines(print, "comparing the reference", "proteins")
        return find_relatives([sequences[i] for i in sample.tolist()], sequences, options.threads, report)

    relatives = kept_relatives(arguments.index, all_labelled, sample, search)
    report = plain_lines(print, "embedding", "residues")
    if arguments.index is None:
        vectors = embedded(model, sequences, options.layer, options.token_budget, report)
    else:
        vectors = index_vectors(arguments.index, arguments.reference, all_labelled, model, progress=report)
    asked = [record.sequence for record in queries]
    found = find_relatives(asked, sequences, options.threads, plain_lines(print, "comparing queries", "proteins"))
    clusters = read_clusters(arguments.clusters, [record.id for record in reference])
    query_vectors = embedded(model, asked, options.layer, options.token_budget, report)
    own = replace(relatives, query=sample[relatives.query])
    return Study(reference, queries, sample, clusters, vectors, query_vectors, own, found)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.annotate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("reference", "queries", "labels", "clusters"):
        parser.add_argument(name, type=Path)
    parser.add_argument("model", type=Path, help="model folder or checkpoint")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--sample", type=positive, default=AnnotateOptions.sample)
    parser.add_argument("--draws", type=positive, default=200, help="bootstrap samples")
    parser.add_argument("--csv", type=Path, default=Path("annotate.csv"))
    arguments = parser.parse_args(given)
    check_outputs(arguments.csv)
    options = AnnotateOptions(sample=arguments.sample, threads=arguments.threads)
    found = study(arguments, options)
    ids = [record.id for record in (*found.reference, *found.queries)]
    rows = []
    columns = [name for name in table_of(arguments.labels).columns if name.casefold() != ID]
    for column, labels in read_known_labels(arguments.labels, ids, str(arguments.reference), columns).items():
        rows += found.rows(column, labels, options, arguments.draws)
    cells = [[_text(row[name]) for name in COLUMNS] for row in rows]
    write_table(arguments.csv, COLUMNS, cells)
    print(markdown(COLUMNS, cells))


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    program(main)
