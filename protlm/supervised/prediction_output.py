"""Predictions of the proteins of FASTA files: streamed, or into a file by a run that continues after a kill.

Legend: n proteins of L_i residues, K outputs of all targets together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, tee
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash

from protlm import __version__
from protlm.embedding.csv_table import check_about
from protlm.embedding.description import PREDICTIONS, VERSION, Values
from protlm.embedding.layouts import Layout
from protlm.embedding.outputs import Output
from protlm.embedding.ranks import Ranks, several_times_readable
from protlm.embedding.representations import PartialOutput
from protlm.embedding.resumable import FastaOptions, ResumableRun, ShardOfSurvey
from protlm.embedding.survey import EmbedSummary
from protlm.errors import UserError
from protlm.progress import Progress
from protlm.sequence.fasta import Record
from protlm.sequence.fasta_files import FastaFiles, checked_inputs
from protlm.supervised.prediction_layouts import Answers, layout_name, layouts
from protlm.supervised.prediction_table import Answer, check_strings
from protlm.supervised.predictor import Head, Predictor


def checked_heads(predictor: Predictor, targets: Sequence[str]) -> list[Head]:
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
    heads: Sequence[Head],
    token_budget: int,
    precision: str,
    progress: Progress | None = None,
) -> Iterator[Answer]:
    """Each record with its predictions, in order."""
    own, other = tee(records)
    names = [head.target for head in heads]
    sequences = (record.sequence for record in other)
    found = predictor.answers(sequences, names, token_budget, precision, progress)
    for values, record in zip(found, own, strict=False):
        yield Answer(record.id, record.sequence, {name: values[name].astype(np.float32) for name in names})


def fingerprint_of(folder: Path) -> str:
    """XXH3 hash (128 bits, hexadecimal) of what a fitted model computes with, apart from its base model."""
    digest = xxhash.xxh3_128((folder / "config.json").read_bytes())
    for path in sorted(folder.rglob("*.safetensors")):
        if (relative := path.relative_to(folder)).parts[0] != "base":  # its fingerprint is in config.json
            digest.update(str(relative).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class PredictionOutput(Output):
    """A file of predictions."""

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    what: ClassVar[str] = "predictions"

    @property
    def stored(self) -> Layout:
        """How it is written."""
        return self.layouts[self.layout]

    def described(self, description: dict[str, Any]) -> dict[str, Any]:
        """The description of this output."""
        return {**description, "layout": self.layout, "dtype": self.dtype}


def predict_fasta(
    predictor: Predictor,
    fingerprint: str,
    fasta: str | Path | Sequence[str | Path],
    output: Path,
    targets: Sequence[str] = (),
    token_budget: int = 16_384,
    precision: str = "float32",
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    allow_nucleotides: bool = False,
    invalid: str = "error",
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> EmbedSummary:
    """Writes predictions for all proteins of FASTA files; resumed, like `embed_fasta`, by the same call.

    Args:
        predictor: of `load_predictor`.
        fingerprint: of its folder, see `fingerprint_of`.
        fasta: see `embed_fasta`; of records with the same identifier, all are predicted.
        output: .csv, .tsv, .parquet, .h5 or .fasta.
        targets: all by default.
        token_budget, precision, overwrite, allow_nucleotides, progress, reading: see `embed_fasta`.
        shard, invalid: see `EmbedOptions`.

    Raises:
        UserError: as `embed_fasta`, and for targets that the format cannot hold.
        BusyError: if another process is writing the same output.
        ResumableInterrupt: for Ctrl-C after something was computed.
    """
    heads = checked_heads(predictor, targets)
    names, per_residue = [head.target for head in heads], heads[0].per_residue
    widths = [max(1, len(head.classes)) for head in heads]
    parts: list[ShardOfSurvey] = []

    def answers(values: Values) -> Iterator[Answer]:
        (part,) = parts
        cuts = np.cumsum(widths)[:-1]
        for number, (name, sequence) in enumerate(_records(part)):
            rows = values(number).reshape(-1, sum(widths))
            found = np.split(rows if per_residue else rows[0], cuts, axis=-1)
            yield Answer(name, sequence, dict(zip(names, found, strict=True)))

    def compute(run: ResumableRun, partials: list[PartialOutput], part: ShardOfSurvey) -> None:
        parts.append(part)
        (partial,) = partials
        proteins, records = part.proteins, _records(part)
        ends, distinct = np.concatenate(([0], np.cumsum(proteins.lengths))), proteins.is_distinct
        total = int(ends[-1])
        for begin, end in pairwise(part.edges.tolist()):
            window = [sequence for _, sequence in islice(records, end - begin)]
            if list(map(len, window)) != proteins.lengths[begin:end].tolist():
                raise UserError("the FASTA has changed while it was read; start again")
            if partial.has(begin, end):
                continue
            own, before = np.flatnonzero(distinct[begin:end]).tolist(), int(ends[begin])
            with partial.window(begin) as write:
                found = predictor.answers(
                    [window[i] for i in own], names, token_budget, precision,
                    lambda done, _, before=before: run.note(before + done, total), total,
                )  # fmt: skip
                for i, values in zip(own, found, strict=True):
                    every = np.concatenate([values[name] for name in names], axis=-1)
                    write(begin + i, None if per_residue else every, [every] if per_residue else [])
                    run.summary.computed += len(window[i])
            run.note(int(ends[end]), total)

    written, description = described_output(heads, fingerprint, output, precision, shard, answers)
    options = FastaOptions(allow_nucleotides, "accession", "keep", invalid, shard)
    run = ResumableRun(description, options, compute, predictor.model, overwrite, progress, reading)
    return run.run(checked_inputs(fasta), [written])


def described_output(
    heads: Sequence[Head],
    fingerprint: str,
    output: Path,
    precision: str,
    shard: tuple[int, int] = (1, 1),
    answers: Answers | None = None,
) -> tuple[PredictionOutput, dict[str, Any]]:
    """The output of `predict_fasta`, and its description without the source.

    Args:
        heads: of `checked_heads`.
        fingerprint, output, precision, shard: see `predict_fasta`.
        answers: reads what was computed, for writing.

    Raises:
        UserError: for targets that the format cannot hold.
    """
    stored, chosen, per_residue = layouts(heads, answers), layout_name(output), heads[0].per_residue
    if chosen == "predictions-fasta":
        check_strings(heads, output)
    if stored[chosen].beside:
        check_about(output)
    description = {
        "format": PREDICTIONS,
        "version": VERSION,
        "protlm": __version__,
        "model": fingerprint,
        "targets": [head.target for head in heads],
        "width": sum(max(1, len(head.classes)) for head in heads),
        "precision": precision,
        "shard": "{}/{}".format(*shard),
    }
    pools = () if per_residue else ("mean",)
    return PredictionOutput(output, pools, per_residue, chosen, "float32", stored), description


def predict_on_ranks(
    ranks: Ranks,
    predictor: Predictor,
    fingerprint: str,
    fasta: str | Path | Sequence[str | Path],
    output: Path,
    targets: Sequence[str] = (),
    token_budget: int = 16_384,
    precision: str = "float32",
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    allow_nucleotides: bool = False,
    invalid: str = "error",
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> EmbedSummary | None:
    """As `predict_fasta`, by several processes, each of which predicts a shard; the summary on rank 0, else None.

    Raises:
        UserError: by the first rank that fails; `OtherRankError` by the others.
    """
    with ranks.together(shard):
        inputs = several_times_readable(fasta)
        written, description = described_output(checked_heads(predictor, targets), fingerprint, output, precision)

        def compute(parts: Mapping[Path, Path], own: tuple[int, int], report: Progress) -> EmbedSummary:
            return predict_fasta(
                predictor, fingerprint, inputs, parts[output], targets, token_budget, precision, own, True,
                allow_nucleotides, invalid, report, reading,
            )  # fmt: skip

        return ranks.run([written], description, inputs, compute, overwrite, progress, layouts())


def _records(part: ShardOfSurvey) -> Iterator[tuple[str, str]]:
    """Identifier and sequence of each protein of a shard."""
    return islice(_pairs(part.file.again()), part.start, part.start + len(part.proteins.lengths))


def _pairs(file: FastaFiles) -> Iterator[tuple[str, str]]:
    for chunk in file.chunks():
        names = chunk.names.decode().split("\n") if chunk.sequences else []
        yield from zip(names, (sequence.decode() for sequence in chunk.sequences), strict=True)
