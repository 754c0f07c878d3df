"""`protlm.annotate`: labels of proteins, transferred from a labelled reference.

Legend: q queries, n labelled proteins of the reference, s of them for calibration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from protlm.annotation.annotator import Annotator, Call
from protlm.annotation.index import index_vectors, kept_relatives
from protlm.annotation.options import AnnotateOptions
from protlm.annotation.reference import Reference, read_records
from protlm.embedding.in_memory import embed
from protlm.errors import UserError, counted, no_model
from protlm.homology.relatives import Relatives, clusters_of, find_relatives
from protlm.performer import Performer
from protlm.progress import Progress, Stage, summed
from protlm.sequence.fasta import Record
from protlm.supervised.fit_api import base_model
from protlm.supervised.partition import read_clusters

COLUMNS = ("query", "column", "label", "precision", "reference", "distance", "identity")
FEWEST = 20
"""Labelled proteins of a column, at least; from fewer, precision cannot be learned."""


class Row(NamedTuple):
    """A call as a row of the output; None for blank cells.

    `column` is the column of the labels that `label` is from, `distance` that of the embeddings of query and reference;
    `identity` is blank if phmmer does not align them.
    """

    query: str
    column: str
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
    column: str | Sequence[str] | None = None,
    index: str | Path | None = None,
    **options: Any,
) -> Any:
    """Transfers labels from a labelled reference to proteins that resemble it.

    Args:
        queries: path of a FASTA file, or proteins as in `ProteinModel`.
        reference: the same.
        labels: table with a column `id` and others of labels, or a DataFrame; see `read_known_labels`.
        model: a model of `protlm.load`, or the path of one; not needed with `by="homology"`.
        column: of labels, one or more of them; by default the only one.
        index: file of the embeddings of the reference, as of `protlm embed`; written if there is none.
        **options: see `AnnotateOptions`.

    Returns:
        A pandas DataFrame with the columns query, column, label, precision, reference, distance and identity: a row per
        label, and for each column of labels a row without one for a query without any.

    Raises:
        UserError: for arguments or files that cannot be used.
    """
    import pandas

    try:
        chosen = AnnotateOptions(**options)
    except TypeError as error:
        raise UserError(f"annotate: {str(error).removeprefix('AnnotateOptions.__init__() ')}") from error
    if chosen.embeds and model is None:
        raise UserError(f"{no_model('model, a model of protlm.load or the path of one')}; by='homology' needs none")
    _, records, _ = read_records(queries, "queries")
    known = Reference.read(reference, labels, [column] if isinstance(column, str) else column or ())
    network = base_model(model)[0] if chosen.embeds else None
    fasta = reference if isinstance(reference, str | Path) else None
    annotators = annotators_of(known, chosen, network, index, fasta)
    return pandas.DataFrame(list(rows(annotators, records, network)), columns=list(COLUMNS))


def _quiet(name: str, unit: str) -> Progress:
    return lambda done, total: None


def annotators_of(
    reference: Reference,
    options: AnnotateOptions,
    model: Performer | None,
    index: str | Path | None = None,
    fasta: str | Path | None = None,
    stage: Stage = _quiet,
    **reading: Any,
) -> list[Annotator]:
    """An annotator for each column of labels.

    The reference is embedded and searched for relatives once, as far as the options need this.

    Args:
        reference: labelled proteins.
        options: see `AnnotateOptions`.
        model: for embeddings.
        index, fasta, **reading: see `index_vectors`.
        stage: reports progress.

    Raises:
        UserError: for a column with too few labelled proteins.
    """
    samples = {column: _sample(reference, column, options) for column in reference.labels}
    given = None if options.clusters is None else read_clusters(options.clusters, reference.ids)
    relatives = vectors = None
    if options.aligns or given is None:
        relatives = _relatives(reference, np.unique(np.concatenate(list(samples.values()))), options, index, stage)
    if options.embeds:
        assert model is not None
        report = stage("embedding the reference", "residues")
        if index is None:
            vectors = embedded(model, reference.sequences, options.layer, options.token_budget, report)
        else:
            settings = (options.layer, options.token_budget, report)
            vectors = index_vectors(index, fasta, reference, model, *settings, **reading)
    found = []
    for column, sample in samples.items():
        own, clusters = None, given
        if relatives is not None:
            sampled = np.isin(np.arange(len(reference.records)), sample)
            own = relatives.between(sampled, reference.labels[column].counts > 0)
            if clusters is None:
                clusters = clusters_of(own, len(reference.records), options.identity)
        assert clusters is not None
        aligned = own if options.aligns else None
        found.append(Annotator(reference, column, options, sample, clusters, vectors, aligned))
    return found


def _relatives(
    reference: Reference, proteins: np.ndarray, options: AnnotateOptions, index: str | Path | None, stage: Stage
) -> Relatives:
    """The relatives in the reference of some of its proteins, both numbered by n."""
    queries = [reference.sequences[i] for i in proteins.tolist()]

    def search() -> Relatives:
        report = stage("comparing the reference", "proteins")
        return find_relatives(queries, reference.sequences, options.threads, report)

    found = kept_relatives(index, reference, proteins, search)
    return replace(found, query=proteins[found.query])


def rows(
    annotators: Sequence[Annotator], queries: Sequence[Record], model: Performer | None, stage: Stage = _quiet
) -> Iterator[Row]:
    """The calls of queries, in order; of each query those of each annotator, the most certain label first.

    Args:
        annotators: of columns of one reference.
        queries: q proteins.
        model: for embeddings.
        stage: reports progress.
    """
    options, reference = annotators[0].options, annotators[0].reference
    sequences = [record.sequence for record in queries]
    vectors = relatives = None
    if options.embeds:
        assert model is not None
        report = stage("embedding queries", "residues")
        vectors = embedded(model, sequences, options.layer, options.token_budget, report)
    if options.aligns:
        report = stage("comparing queries", "proteins")
        relatives = find_relatives(sequences, reference.sequences, options.threads, report)
    calls: list[tuple[Annotator, Call, float]] = []
    for annotator in annotators:
        own = list(annotator.calls(len(queries), annotator.evidence(sequences, vectors, relatives)))
        calls += zip([annotator] * len(own), own, annotator.distances(vectors, own).tolist(), strict=True)
    calls.sort(key=lambda each: each[1].query)  # stable
    if relatives is None:
        among: list[set[int]] = [set() for _ in queries]
        for _, call, _ in calls:
            if call.reference >= 0:
                among[call.query].add(call.reference)
        report = stage("aligning queries", "proteins")
        relatives = find_relatives(sequences, reference.sequences, options.threads, report, list(map(sorted, among)))
    found = zip(relatives.query.tolist(), relatives.target.tolist(), relatives.identity.tolist(), strict=True)
    identities = {(query, target): identity for query, target, identity in found}
    for annotator, call, far in calls:
        name = None if call.reference < 0 else reference.records[call.reference].id
        precision, distance = (None if np.isnan(value) else value for value in (call.precision, far))
        identity = identities.get((call.query, call.reference))
        yield Row(queries[call.query].id, annotator.column, call.label, precision, name, distance, identity)


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


def _sample(reference: Reference, column: str, options: AnnotateOptions) -> np.ndarray:
    """(s,) int64, sorted: labelled proteins drawn at random, whatever other columns there are."""
    keys = [xxhash.xxh3_64_intdigest(f"{options.seed} {name}".encode()) for name in reference.ids]
    drawn = np.argsort(np.array(keys, dtype=np.uint64))
    labelled = drawn[reference.labels[column].counts[drawn] > 0]
    if len(labelled) < FEWEST:
        raise UserError(
            f"{reference.source}: {counted(len(labelled), 'protein')} with labels in column {column!r}; expected at "
            f"least {FEWEST}, from which the precision of calls is learned"
        )
    return np.sort(labelled[: options.sample])
