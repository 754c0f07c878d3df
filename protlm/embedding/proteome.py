"""Embeddings of all proteins of a FASTA file, written so that a run killed at any time can be resumed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protlm import __version__
from protlm.checkpoint import fingerprint
from protlm.embedding.description import FORMAT, VERSION
from protlm.embedding.layouts import LAYOUTS
from protlm.embedding.outputs import checked_outputs
from protlm.embedding.representations import POOLS, PartialOutput, compute_windows
from protlm.embedding.resumable import FastaOptions, ResumableRun, ShardOfSurvey
from protlm.embedding.survey import EmbedSummary, read_rows
from protlm.errors import UserError
from protlm.inference.engine import PRECISIONS, Computer
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.sequence.fasta_files import checked_inputs
from protlm.sequence.headers import IDENTIFIERS
from protlm.sequence.invalid import INVALID

STORED_DTYPES = ("float16", "float32")
DUPLICATES = ("error", "suffix", "first")


@dataclass(frozen=True)
class EmbedOptions:
    """What is stored of each protein, and how.

    Args:
        layers: 0 is the embedding, i the output of block i, -1 the last block after the final LayerNorm.
        pools: "mean", "bos" or "max", for the file with one vector per protein.
        dtype: "float16" or "float32"; by default float16 in HDF5 and npz, else float32.
        precision: "float32" or "bfloat16", of the computation.
        layout: one of `LAYOUTS`, see docs/formats.md; by default by the suffix of each file, and "uniprot" for HDF5.
        identifier: "accession", "word" or "header".
        duplicates: for duplicate identifiers "error", "suffix" (X_2, X_3) or "first" (leave out the others).
        invalid: "error" refuses a file with an invalid record, "skip" leaves these records out and lists them.
        shard: (i, n) for the i-th of n parts of the proteins, counted from 1.
    """

    layers: tuple[int, ...] = (-1,)
    pools: tuple[str, ...] = ("mean",)
    dtype: str | None = None
    precision: str = "float32"
    layout: str = ""
    identifier: str = "accession"
    duplicates: str = "error"
    shard: tuple[int, int] = (1, 1)
    invalid: str = "error"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype or "float16", STORED_DTYPES),
            ("precision", self.precision, PRECISIONS),
            ("layout", self.layout or "uniprot", LAYOUTS),
            ("identifier", self.identifier, IDENTIFIERS),
            ("duplicates", self.duplicates, DUPLICATES),
            ("invalid", self.invalid, INVALID),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}", name)
        check_pools(self.pools)
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise UserError(f"shard {part}/{parts}: expected i/n with i from 1 to n", "shard")

    def resolved(self, model: Performer) -> "EmbedOptions":
        """The same options with layers counted from 0."""
        return replace(self, layers=chosen_layers(self.layers, model.config.layers))

    def description(self, model: Performer) -> dict[str, Any]:
        """What is stored in each file, ready for JSON; see `Output.described` for the rest.

        The options have to be `resolved`.
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "protlm": __version__,
            "model": fingerprint(model),
            "width": model.config.width,
            "layers": list(self.layers),
            "precision": self.precision,
            "id": self.identifier,
            "duplicates": self.duplicates,
            "shard": "{}/{}".format(*self.shard),
        }


def chosen_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Layers counted from 0, the embedding, to `depth`, the last; negative numbers count back from -1, the last.

    >>> chosen_layers([-1, 0, 3], 6)
    (6, 0, 3)
    """
    for layer in layers:
        if not -depth - 1 <= layer <= depth:
            raise UserError(f"layer {layer}: expected 0 (the embedding) to {depth} (the last), or -1 to {-depth - 1}")
    chosen = tuple(layer % (depth + 1) for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"layers {', '.join(map(str, layers)) or 'none'}: expected at least one, each once", "layers")
    return chosen


def check_pools(pools: Sequence[str]) -> None:
    """Raises a UserError for a pooling that is unknown or given twice."""
    if unknown := [pool for pool in pools if pool not in POOLS]:
        raise UserError(f"pool {unknown[0]!r}: expected one of {', '.join(POOLS)}", "pool")
    if len(set(pools)) < len(pools):
        raise UserError(f"pool {', '.join(pools)}: expected each once", "pool")


def embed_fasta(
    model: Performer,
    fasta: str | Path | Sequence[str | Path],
    per_protein: str | Path | None = None,
    per_residue: str | Path | None = None,
    options: EmbedOptions | None = None,
    token_budget: int = 16_384,
    overwrite: bool = False,
    allow_nucleotides: bool = False,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> EmbedSummary:
    """Writes embeddings of all proteins of FASTA files, see docs/formats.md.

    The outputs appear under their names once they are complete. A run that is stopped or killed is resumed by the same
    call, with the same result to the bit. Outputs made from the same input are left alone.

    Args:
        model: evaluates, whatever its mode.
        fasta: the proteins, in one file or several; "-" is standard input.
        per_protein: file of pooled vectors (.h5, .npz, .csv, .parquet); with the layout esm-pt a folder. None for none.
        per_residue: file of all residues; with the layout esm-pt a folder, possibly the same. None for none.
        options: what is stored, and how.
        token_budget: as in `embed`.
        overwrite: replace outputs and partial outputs made from another input or with other options.
        allow_nucleotides: accept a file that looks like DNA or RNA.
        progress: called with the residues done and in total.
        reading: called before, while the FASTA is checked, with the bytes read and in total, 0 if unknown.

    Raises:
        UserError: for a FASTA that cannot be used, before anything is computed; for an output that was made from
            something else or cannot be written; for a model whose output is not finite, or too large for float16.
        BusyError: if another process is writing the same output.
        ResumableInterrupt: for Ctrl-C after something was computed. A `SystemExit` gets a note that says the same.
    """
    options = (options or EmbedOptions()).resolved(model)
    inputs = checked_inputs(fasta)
    outputs = checked_outputs(options.layout, options.dtype, options.pools, inputs, per_protein, per_residue)

    def compute(run: ResumableRun, partials: list[PartialOutput], part: ShardOfSurvey) -> None:
        computer = Computer(model, token_budget, options.precision)
        rows = read_rows(model, part.file.again(), part.found.keep, part.start)
        run.summary.computed = compute_windows(computer, partials, part.proteins, rows, part.edges, run.note)
        run.summary.computing = computer.seconds

    source = FastaOptions(allow_nucleotides, options.identifier, options.duplicates, options.invalid, options.shard)
    run = ResumableRun(options.description(model), source, compute, model, overwrite, progress, reading)
    return run.run(inputs, outputs)
