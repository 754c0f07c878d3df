"""`protlm.annotate`: labels of proteins, transferred from a labelled reference.

Legend: q queries, n labelled proteins of the reference, s of them for calibration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protlm.annotation.annotator import Annotator
from protlm.annotation.index import index_vectors, kept_relatives
from protlm.annotation.options import AnnotateOptions
from protlm.annotation.reference import Reference, read_records
from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.homology.relatives import Relatives, clusters_of, find_relatives
from protlm.performer import Performer
from protlm.progress import Progress, summed
from protlm.sequence.fasta import Record
from protlm.supervised.fit_api import base_model
from protlm.supervised.partition import read_clusters

COLUMNS = ("query", "label", "precision", "reference", "distance", "identity")
Stage = Callable[[str, str], Progress]
"""Name of a stage and its unit -> where its progress is reported."""


class Row(NamedTuple):
    """A call as a row of the output; None for blank cells.

    `distance` is that of the embeddings of query and reference; `identity` is blank if phmmer does not align them.
    """

    query: str
    label: str | None
    precision: float | None
    reference: str | None
    distance: float | None
    identity: float | None


def annotate(
    queries: Any,
    reference: Any,
    labels: Any,
    model: Any = None,
    column: str | None = None,
    index: str | Path | None = None,
    **options: Any,
) -> Any:
    """Transfers labels from a labelled reference to proteins that resemble it.

    Args:
        queries: path of a FASTA file, or proteins as in `ProteinModel`.
        reference: the same.
        labels: table with the columns `id` and labels, or a DataFrame; see `read_known_labels`.
        model: a model of `protlm.load`, the path of one, or "bundled", the default.
        column: of the labels, if there are several.
        index: file of the embeddings of the reference, as of `protlm embed`; written if there is none.
        **options: see `AnnotateOptions`.

    Returns:
        A pandas DataFrame with the columns query, label, precision, reference, distance and identity: a row per label,
        or a row without a label for a query without one.

    Raises:
        UserError: for arguments or files that cannot be used.
    """
    import pandas

    try:
        chosen = AnnotateOptions(**options)
    except TypeError as error:
        raise UserError(f"annotate: {str(error).removeprefix('AnnotateOptions.__init__() ')}") from error
    _, records, _ = read_records(queries, "queries")
    known = Reference.read(reference, labels, column)
    network = base_model(model, announce=True)[0] if chosen.embeds else None
    fasta = reference if isinstance(reference, str | Path) else None
    annotator = annotator_of(known, chosen, network, index, fasta)
    return pandas.DataFrame(list(rows(annotator, records, network)), columns=list(COLUMNS))


def _quiet(name: str, unit: str) -> Progress:
    return lambda done, total: None


def annotator_of(
    reference: Reference,
    options: AnnotateOptions,
    model: Performer | None,
    index: str | Path | None = None,
    fasta: str | Path | None = None,
    stage: Stage = _quiet,
    **reading: Any,
) -> Annotator:
    """Embeds the reference and searches it for relatives, as far as the options need this, and learns precision.

    Args:
        reference: labelled proteins.
        options: see `AnnotateOptions`.
        model: for embeddings.
        index, fasta, **reading: see `index_vectors`.
        stage: reports progress.
    """
    sample = _sample(len(reference.records), options)
    clusters = None if options.clusters is None else read_clusters(options.clusters, reference.ids)
    relatives = vectors = None
    if options.aligns or clusters is None:

        def search() -> Relatives:
            own = [reference.sequences[i] for i in sample.tolist()]
            return find_relatives(
                own, reference.sequences, options.threads, stage("comparing the reference", "proteins")
            )

        relatives = kept_relatives(index, reference, sample, search)
    if clusters is None:
        assert relatives is not None
        of_all = replace(relatives, query=sample[relatives.query])
        clusters = clusters_of(of_all, len(reference.records), options.identity)
    if options.embeds:
        assert model is not None
        report = stage("embedding the reference", "residues")
        if index is None:
            vectors = embedded(model, reference.sequences, options.layer, options.token_budget, report)
        else:
            settings = (options.layer, options.token_budget, report)
            vectors = index_vectors(index, fasta, reference, model, *settings, **reading)
    return Annotator(reference, options, sample, clusters, vectors, relatives if options.aligns else None)


def rows(
    annotator: Annotator, queries: Sequence[Record], model: Performer | None, stage: Stage = _quiet
) -> Iterator[Row]:
    """The calls of queries, in order; the most certain label first."""
    options, reference = annotator.options, annotator.reference
    sequences = [record.sequence for record in queries]
    vectors = relatives = None
    if options.embeds:
        assert model is not None
        vectors = embedded(
            model, sequences, options.layer, options.token_budget, stage("embedding queries", "residues")
        )
    if options.aligns:
        report = stage("comparing queries", "proteins")
        relatives = find_relatives(sequences, reference.sequences, options.threads, report)
    calls = list(annotator.calls(len(queries), annotator.evidence(sequences, vectors, relatives)))
    pairs = np.array([(call.query, call.reference) for call in calls], dtype=np.int64).reshape(-1, 2)
    known = pairs[:, 1] >= 0
    distance = np.full(len(calls), np.nan)
    if annotator.neighbours is not None and vectors is not None:
        distance[known] = annotator.neighbours.distances(vectors[pairs[known, 0]], pairs[known, 1])
    if relatives is None:
        among = [[] for _ in queries]
        for query, target in np.unique(pairs[known], axis=0).tolist():
            among[query].append(target)
        report = stage("aligning queries", "proteins")
        relatives = find_relatives(sequences, reference.sequences, options.threads, report, among)
    found = zip(relatives.query.tolist(), relatives.target.tolist(), relatives.identity.tolist(), strict=True)
    aligned = {(query, target): identity for query, target, identity in found}
    for call, far in zip(calls, distance.tolist(), strict=True):
        same = aligned.get((call.query, call.reference), np.nan)
        name = None if call.reference < 0 else reference.records[call.reference].id
        precision, *measures = (None if np.isnan(value) else value for value in (call.precision, far, same))
        yield Row(queries[call.query].id, call.label, precision, name, *measures)


def embedded(
    model: Performer, sequences: Sequence[str], layer: int, token_budget: int, progress: Progress
) -> np.ndarray:
    """(q, D) float32: means over residues; progress counts residues."""
    advance = summed(progress, sum(map(len, sequences)))
    found = []
    for sequence, vector in zip(sequences, embed(model, sequences, token_budget, (layer,), "mean"), strict=True):
        found.append(vector)
        advance(len(sequence))
    return np.stack(found)


def _sample(proteins: int, options: AnnotateOptions) -> np.ndarray:
    """(s,) int64, sorted: proteins drawn at random."""
    drawn = np.random.default_rng(options.seed).permutation(proteins)[: options.sample]
    return np.sort(drawn)
