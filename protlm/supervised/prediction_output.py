"""Predictions of the records of a FASTA file, streamed in windows of similar length."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee

from protlm.errors import UserError
from protlm.progress import Progress
from protlm.sequence.fasta import Record
from protlm.supervised.linear_head import LinearHead
from protlm.supervised.prediction_table import Answer
from protlm.supervised.predictor import Predictor


def checked_heads(predictor: Predictor, targets: Sequence[str]) -> list[LinearHead]:
    """The heads of some targets, all by default.

    Raises:
        UserError: for an unknown target, or targets of proteins and residues together.
    """
    heads = [predictor.head(name) for name in (targets or predictor.targets)]
    if len({head.per_residue for head in heads}) > 1:
        listed = ", ".join(f"{head.target} per {'residue' if head.per_residue else 'protein'}" for head in heads)
        raise UserError(f"{listed}; choose those of one level with target", "target")
    return heads


def predicted_records(
    predictor: Predictor,
    records: Iterable[Record],
    heads: Sequence[LinearHead],
    count: list[int],
    token_budget: int,
    precision: str,
    progress: Progress | None = None,
) -> Iterator[Answer]:
    """Each record with its predictions, in order; adds the number of records to `count[0]`."""
    own, other = tee(records)
    names = [head.target for head in heads]
    sequences = (record.sequence for record in other)
    found = predictor.answers(sequences, names, token_budget, precision, progress)
    for values, record in zip(found, own, strict=False):
        count[0] += 1
        yield Answer(record, values)
