"""Embeddings of all proteins of a FASTA file, written so that a run killed at any time can be resumed."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protlm import __version__
from protlm.checkpoint import fingerprint
from protlm.embedding.description import FORMAT, VERSION, differences
from protlm.embedding.layouts import LAYOUTS
from protlm.embedding.outputs import checked_outputs, is_complete
from protlm.embedding.representations import POOLS, PartialOutput, compute_windows
from protlm.embedding.survey import EmbedSummary, Proteins, Survey, read_rows, survey
from protlm.errors import UserError
from protlm.files import UnwritableError
from protlm.inference.engine import PRECISIONS, Computer, check_length
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.sequence.fasta_files import FastaFiles, checked_inputs, described_inputs
from protlm.sequence.headers import IDENTIFIERS
from protlm.sequence.invalid import INVALID
from protlm.sequence.stream import STDIN, Source

STORED_DTYPES = ("float16", "float32")
DUPLICATES = ("error", "suffix", "first")

_BLOCK = 1 << 20  # bytes of standard input copied at a time


class ResumableInterrupt(KeyboardInterrupt):
    """Ctrl-C after part of the output was computed; the message says how to resume."""


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
    with ExitStack() as stack:
        partials = [stack.enter_context(PartialOutput.opened(output)) for output in outputs]
        job = _Job(model, options, partials, overwrite, progress)
        try:
            return job.run(inputs, token_budget, allow_nucleotides, reading)
        except KeyboardInterrupt as error:
            if kept := job.kept():
                raise ResumableInterrupt(f"stopped; {kept}") from error
            raise
        except SystemExit as error:  # the signal SIGTERM
            if kept := job.kept():
                error.add_note(f"terminated; {kept}")
            raise
        except UserError as error:
            if job.computing and (kept := job.kept()):
                raise UserError(f"{error}; {kept}") from error
            raise


@dataclass
class _Job:
    """One call of `embed_fasta`."""

    model: Performer
    options: EmbedOptions
    partials: list[PartialOutput]
    overwrite: bool
    progress: Progress | None
    computing: bool = False
    done: tuple[int, int] = (0, 0)
    """Residues computed, by this run or an earlier one, and in total."""

    def run(
        self, inputs: list[Path], token_budget: int, allow_nucleotides: bool, reading: Progress | None
    ) -> EmbedSummary:
        description = self.options.description(self.model)
        complete = self._compare(description)
        name = STDIN if inputs == [Path(STDIN)] else ""
        paths = [self._copied_stdin()] if name else inputs
        if all(complete) and all(self._compare({**description, "source": described_inputs(paths, name)})):
            return EmbedSummary(complete=True)
        label = name and "standard input"
        file = FastaFiles(paths, allow_nucleotides, self.options.identifier, label, self.options.invalid)
        file.refuse(self._refusal)
        first = self.partials[0]
        try:
            found = survey(file, first.folder, self.options.duplicates, reading)
        except OSError as error:
            raise UnwritableError.of(first.output.path, error) from error
        description["source"] = {**found.source, **({"name": name} if name else {})}
        complete = self._compare(description)
        check_length(self.model, int(found.lengths.max(initial=0)) + 2)
        edges = found.shard(*self.options.shard)
        proteins = found.proteins(int(edges[0]), int(edges[-1]))
        summary = self._summary(proteins, found)
        counts = {name: getattr(summary, name) for name in ("proteins", "residues", "copied", "renamed")}
        partials = [partial for partial, is_complete in zip(self.partials, complete, strict=True) if not is_complete]
        for partial in partials:
            partial.start({**partial.output.described(description), **counts}, proteins, edges - edges[0])
        if partials:
            self.computing, started = True, time.monotonic()
            computer = Computer(self.model, token_budget, self.options.precision)
            rows = read_rows(self.model, file.again(), found.keep, int(edges[0]))
            summary.computed = compute_windows(computer, partials, proteins, rows, edges - edges[0], self._note)
            summary.resumed = int(proteins.lengths[proteins.is_distinct].sum()) - summary.computed
            for partial in partials:
                partial.finish()
            summary.seconds, summary.computing = time.monotonic() - started, computer.seconds
        return summary

    def _refusal(self, name: bytes) -> str | None:
        """Why one of the outputs cannot hold a protein of this name; None if all can."""
        reasons = (LAYOUTS[partial.output.layout].refuse(name) for partial in self.partials)
        return next((reason for reason in reasons if reason), None)

    def kept(self) -> str:
        """How an interrupted run resumes, for its message; empty if nothing was computed."""
        if not any(partial.has_values for partial in self.partials):
            return ""
        done = f" ({self.done[0]:,} of {self.done[1]:,} residues done)" if self.done[0] else ""
        return f"computed results are kept; repeat the command to resume{done}"

    def _note(self, done: int, total: int) -> None:
        self.done = done, total
        if self.progress:
            self.progress(done, total)

    def _compare(self, description: dict[str, Any]) -> list[bool]:
        """Which outputs are complete; refuses, or removes, partial outputs made from something else."""
        complete = []
        for partial in self.partials:
            expected = partial.output.described(description)
            complete.append(is_complete(partial.output, expected, self.overwrite))
            if complete[-1] and "source" in description:
                partial.clear()  # a run was killed after its last step
            if partial.description is not None and (different := differences(partial.description, expected)):
                if not self.overwrite:
                    raise UserError(
                        f"{partial.output.path}: {partial.folder.name} beside it is of an unfinished run with other "
                        f"options or input ({different}); resume that run, choose another output, or set overwrite",
                        "overwrite",
                    )
                partial.clear()
        return complete

    def _copied_stdin(self) -> Path:
        """Standard input as a file, since it is read twice."""
        partial = self.partials[0]
        try:
            with Source(STDIN) as source, partial.standard_input.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
        except OSError as error:
            raise UnwritableError.of(partial.output.path, error) from error
        return partial.standard_input

    def _summary(self, proteins: Proteins, found: Survey) -> EmbedSummary:
        learned, names = self.model.config.learned_positions, proteins.names
        slashes = all(LAYOUTS[partial.output.layout].slashes for partial in self.partials)
        return EmbedSummary(
            proteins=len(proteins.lengths),
            residues=int(proteins.lengths.sum()),
            copied=int((~proteins.is_distinct).sum()),
            renamed=len(names.renamed) if slashes else names.changed(),
            left_out=int((~found.keep).sum()),
            beyond_positions=int((proteins.lengths + 2 > self.model.config.max_length).sum()) * learned,
            tally=found.tally,
        )
