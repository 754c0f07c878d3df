"""Embeddings of proteins, one by one or as an HDF5 file in the layout of UniProt's own.

Every protein is computed whole, without truncation, as `<cls>` residues `<eos>`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

from protlm.errors import UserError
from protlm.output import unfinished
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, encode, with_ends
from protlm.sequence.batching import length_buckets, pad
from protlm.sequence.fasta import FastaFile, Record
from protlm.sequence.tally import Tally

_WINDOW = 1_024  # proteins sorted by length together


def embed(model: Performer, sequences: Iterable[str], token_budget: int = 16_384) -> Iterator[np.ndarray]:
    """Representations of each residue behind the model's last norm, in the order given.

    Args:
        model: computes where its parameters are.
        sequences: amino acids in one-letter code, capital letters.
        token_budget: most tokens computed at once, padding included; a longer protein is computed alone.

    Yields:
        (residues, width) float32 for each sequence; the mean over axis 0 is the embedding of the protein.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> [embedding.shape for embedding in embed(model, ["MKT", "MKTAYIAK"])]
    [(3, 8), (8, 8)]
    """
    device = next(model.parameters()).device
    tokens = [with_ends(encode(sequence)) for sequence in sequences]
    rows: dict[int, np.ndarray] = {}
    for batch in length_buckets(np.array([len(row) for row in tokens], dtype=np.int64), token_budget):
        inputs = torch.from_numpy(pad([tokens[i] for i in batch], PAD)).long().to(device)
        with torch.inference_mode():
            hidden = model.hidden(inputs).float().cpu().numpy()
        for i, row in zip(batch, hidden, strict=True):
            rows[int(i)] = row[1 : len(tokens[i]) - 1].copy()
    for i in range(len(tokens)):
        yield rows.pop(i)


@dataclass
class EmbedSummary:
    """What became of the records of an `embed_fasta`."""

    proteins: int = 0
    residues: int = 0
    beyond_positions: int = 0
    """Proteins longer than the positions that the model has learned."""
    renamed: int = 0
    """Identifiers in which '/' became '_', since HDF5 would take it for a folder."""
    tally: Tally = field(default_factory=Tally)


def embed_fasta(
    model: Performer,
    fasta: str | Path,
    per_protein: str | Path,
    per_residue: str | Path | None = None,
    token_budget: int = 16_384,
    allow_nucleotides: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedSummary:
    """Writes one float16 dataset a protein, named by its accession, at the root of an HDF5 file.

    The files appear under their names only when they are complete.

    Args:
        model: in evaluation mode.
        fasta: the proteins.
        per_protein: file of means over the residues, (width,) each.
        per_residue: file of all residues, (residues, width) each; None for none.
        token_budget: as in `embed`.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.
        progress: called now and then with the bytes read and the bytes in all.

    Raises:
        UserError: for a FASTA that cannot be used, for an identifier that occurs twice, for an output that cannot be
            written.
    """
    file = FastaFile(fasta, allow_nucleotides)
    summary = EmbedSummary()
    paths = [Path(per_protein), *([Path(per_residue)] if per_residue else [])]
    if len({path.resolve() for path in (Path(fasta), *paths)}) <= len(paths):
        raise UserError(f"{per_protein}: input and outputs have to be different files")
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected the name of a file to write")
    seen: dict[str, int] = {}
    with ExitStack() as stack:
        drafts = [stack.enter_context(unfinished(path)) / path.name for path in paths]
        # insertion order is kept, and names are found fast among millions
        outputs = [stack.enter_context(h5py.File(draft, "w", libver="latest", track_order=True)) for draft in drafts]
        for window in _windows(file):
            for record, name, rows in zip(
                window,
                [_name(record, seen, summary, file.path) for record in window],
                embed(model, [record.sequence for record in window], token_budget),
                strict=True,
            ):
                for output, value in zip(outputs, (rows.mean(0), rows), strict=False):
                    output.create_dataset(name, data=value.astype(np.float16))
                summary.proteins += 1
                summary.residues += len(record.sequence)
                learned = model.config.positions == "learned"
                summary.beyond_positions += learned and len(record.sequence) + 2 > model.config.max_length
            if progress:
                progress(file.position, file.size)
        if not summary.proteins:
            raise UserError(f"{fasta}: no record has a sequence; expected at least one protein")
        for output, draft, path in zip(outputs, drafts, paths, strict=True):
            output.close()
            os.replace(draft, path)
    summary.tally = file.tally
    return summary


def _windows(file: FastaFile, residues: int = 1 << 18) -> Iterator[list[Record]]:
    """Runs of records, few enough to hold the results of all of them in memory."""
    window: list[Record] = []
    size = 0
    for record in file:
        window.append(record)
        size += len(record.sequence)
        if len(window) == _WINDOW or size >= residues:
            yield window
            window, size = [], 0
    if window:
        yield window


def _name(record: Record, seen: dict[str, int], summary: EmbedSummary, path: str) -> str:
    """The name of a record's dataset; notes it as seen."""
    name = record.id.replace("/", "_")
    summary.renamed += name != record.id
    if name in (".", ".."):
        raise UserError(f"{path}: the identifier {name!r} cannot name a dataset in HDF5; rename the record")
    number = len(seen) + 1
    if name in seen:
        raise UserError(
            f"{path}: identifier {name!r} stands twice, in proteins {seen[name]} and {number}; make identifiers unique"
        )
    seen[name] = number
    return name
