"""Embeddings of all proteins of a FASTA file, written so that a run can be killed at any moment and goes on."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protlm.embedding.drafts import Draft
from protlm.embedding.layouts import Output, Proteins, check_replaceable, read_about, refusal
from protlm.embedding.provenance import EmbedOptions, about, differences
from protlm.embedding.store import Store, store
from protlm.embedding.summary import EmbedSummary
from protlm.embedding.survey import Survey, survey
from protlm.embedding.windows import FramedProteins, fill
from protlm.errors import UserError
from protlm.inference.engine import Computer, check_length
from protlm.performer import Performer
from protlm.sequence.fasta import FastaFile
from protlm.sequence.stream import STDIN, Source

_BLOCK = 1 << 20  # bytes of standard input copied at a time
Progress = Callable[[int, int], None]


class KeptInterrupt(KeyboardInterrupt):
    """Ctrl-C, when something was computed already that the same command goes on with; the message says so."""


def embed_fasta(
    model: Performer,
    fasta: str | Path,
    per_protein: str | Path | None = None,
    per_residue: str | Path | None = None,
    options: EmbedOptions | None = None,
    token_budget: int = 16_384,
    overwrite: bool = False,
    allow_nucleotides: bool = False,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> EmbedSummary:
    """Writes embeddings of all proteins of a FASTA file, see docs/formats.md.

    The outputs appear under their names when they are complete. A run that was stopped or killed leaves a draft, with
    which the next one goes on; what comes out is the same to the bit. Outputs made from the same are left as they are.

    Args:
        model: in evaluation mode.
        fasta: the proteins; "-" is standard input.
        per_protein: file of pooled vectors; with the layout esm-pt a folder. None for none.
        per_residue: file of all residues; with the layout esm-pt a folder, maybe the same. None for none.
        options: what is kept, and how it is written.
        token_budget: as in `embed`.
        overwrite: replace outputs and drafts that were made from something else.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.
        progress: called with the residues done and all.
        reading: called before that, while the FASTA is checked, with the bytes read and all, 0 if unknown.

    Raises:
        UserError: for a FASTA that cannot be used, before anything is computed; for an output that was made from
            something else or cannot be written; for a model whose answers are not finite, or too large for float16.
        BusyError: if another process writes the same output.
        KeptInterrupt: for Ctrl-C, when something was computed.
    """
    options = (options or EmbedOptions()).settled(model)
    outputs = _outputs(options, fasta, per_protein, per_residue)
    wanted = _wanted(model, options, outputs)
    fasta = STDIN if str(fasta) == STDIN else Path(fasta)
    if fasta != STDIN:
        FastaFile(fasta, allow_nucleotides, options.identifier)  # so that a missing file is said first
    job = _Job(model, options, outputs, wanted, token_budget, overwrite, allow_nucleotides, progress, reading)
    with ExitStack() as stack:
        job.drafts = [stack.enter_context(Draft(output.path)) for output in outputs]
        try:
            return job.run(fasta)
        except KeyboardInterrupt as error:
            if kept := job.kept():
                raise KeptInterrupt(f"stopped; {kept}") from error
            raise
        except UserError as error:
            if job.computing and (kept := job.kept()):
                raise UserError(f"{error}; {kept}") from error
            raise
        finally:
            job.close()


def missing(
    model: Performer,
    fasta: str | Path,
    per_protein: str | Path | None,
    per_residue: str | Path | None,
    options: EmbedOptions,
    overwrite: bool = False,
) -> list[Path]:
    """Those of the outputs of an `embed_fasta` that are not finished; raises for one made from something else."""
    options = options.settled(model)
    outputs = _outputs(options, fasta, per_protein, per_residue)
    source = None
    if any(output.path.exists() for output in outputs):
        with Source(fasta) as file:
            source = _read_through(file)
    wanted = [{**each, "source": source} for each in _wanted(model, options, outputs)]
    return [
        output.path for output, each in zip(outputs, wanted, strict=True) if not _is_finished(output, each, overwrite)
    ]


def _wanted(model: Performer, options: EmbedOptions, outputs: list[Output]) -> list[dict[str, Any]]:
    common = about(model, options)
    return [{**common, "pool": [*output.pools, *(["residues"] * output.rows)]} for output in outputs]


def _is_finished(output: Output, wanted: dict[str, Any], overwrite: bool) -> bool:
    """Whether an output is there, made from the same; raises a UserError if something else must not be replaced."""
    found = read_about(output.path)
    if found is None:
        return False
    different = differences(found, wanted)
    if not different:
        return True
    if not overwrite:
        check_replaceable(output.path, found)
        what = f"made otherwise ({different})" if found else "and is none of protlm's"
        raise UserError(f"{output.path}: exists already, {what}; name another output, or pass --overwrite")
    check_replaceable(output.path, found)
    return False


def _read_through(source: Source) -> dict[str, Any]:
    while source.read(_BLOCK):
        pass
    return source.describe()


def _outputs(
    options: EmbedOptions, fasta: str | Path, per_protein: str | Path | None, per_residue: str | Path | None
) -> list[Output]:
    """What is to be written, checked against the input and each other."""
    folders = options.layout == "esm-pt"
    if folders and per_protein and per_residue and Path(per_protein).resolve() == Path(per_residue).resolve():
        outputs = [Output(Path(per_protein), options.pools, True)]
    else:
        outputs = [Output(Path(per_protein), options.pools, False)] if per_protein else []
        outputs += [Output(Path(per_residue), (), True)] if per_residue else []
    if not outputs:
        raise UserError("no output: expected --output for vectors per protein, --per-residue for all residues, or both")
    if per_protein and not options.pools:
        raise UserError("no pooling: expected --pool mean, bos or max")
    paths = [output.path for output in outputs]
    if len({path.resolve() for path in (Path(fasta), *paths)}) <= len(paths):
        raise UserError(f"{paths[0]}: input and outputs have to be different files")
    for path in paths:
        if path.is_dir() and not folders:
            raise UserError(f"{path}: is a folder; expected the name of a file to write")
        if path.exists() and not (path.is_dir() or path.is_file()):
            raise UserError(f"{path}: is neither a file nor a folder; name another output")
        if path.exists() and not path.is_dir() and folders:
            raise UserError(f"{path}: is a file; expected the name of a folder to write")
    return outputs


@dataclass
class _Job:
    """One call of `embed_fasta`."""

    model: Performer
    options: EmbedOptions
    outputs: list[Output]
    wanted: list[dict[str, Any]]
    token_budget: int
    overwrite: bool
    allow_nucleotides: bool
    progress: Progress | None
    reading: Progress | None
    drafts: list[Draft] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    computing: bool = False
    done: tuple[int, int] = (0, 0)
    """Residues that are computed, by this run or an earlier one, and in all."""

    def run(self, fasta: str | Path) -> EmbedSummary:
        finished = self._compare()
        path, name = (self._spooled(), STDIN) if fasta == STDIN else (Path(fasta), Path(fasta).name)
        if all(finished):
            with Source(path) as source:
                self._settle({**_read_through(source), "name": name})
            finished = self._compare()
            if all(finished):
                return EmbedSummary(complete=True)
        file = FastaFile(path, self.allow_nucleotides, self.options.identifier)
        file.path = "standard input" if fasta == STDIN else file.path
        refuse = refusal(self.options.layout)
        try:
            found = survey(file, self.drafts[0].folder, self.options.duplicates, refuse, self.reading)
        except OSError as error:
            raise self.drafts[0].unwritable(error) from error
        self._settle({**found.source, "name": name})
        return self._compute(file, found, self._compare())

    def kept(self) -> str:
        """What to say of what was computed; empty if there is nothing."""
        if not any(draft.begun and not draft.published for draft in self.drafts):
            return ""
        done = f" ({self.done[0]:,} of {self.done[1]:,} residues done)" if self.done[0] else ""
        return f"what was computed is kept, and the same command goes on{done}"

    def close(self) -> None:
        for each in self.stores:
            each.close()

    def _settle(self, source: dict[str, Any]) -> None:
        self.wanted = [{**wanted, "source": source} for wanted in self.wanted]

    def _compare(self) -> list[bool]:
        """Which outputs are finished; refuses, or forgets, what was made from something else."""
        finished = []
        for output, wanted, draft in zip(self.outputs, self.wanted, self.drafts, strict=True):
            finished.append(_is_finished(output, wanted, self.overwrite))
            if draft.about is not None and (different := differences(draft.about, wanted)):
                if not self.overwrite:
                    raise UserError(
                        f"{output.path}: {draft.folder.name} beside it is the draft of another run ({different}); go "
                        "on with that one, name another output, or pass --overwrite"
                    )
                draft.clear()
        return finished

    def _spooled(self) -> Path:
        """Standard input as a file, since it is read twice."""
        draft = self.drafts[0]
        try:
            with Source(STDIN) as source, draft.spool.open("wb") as file:
                while data := source.read(_BLOCK):
                    file.write(data)
        except OSError as error:
            raise draft.unwritable(error) from error
        return draft.spool

    def _compute(self, file: FastaFile, found: Survey, finished: list[bool]) -> EmbedSummary:
        check_length(self.model, int(found.lengths.max(initial=0)) + 2)
        edges = found.shard(*self.options.shard)
        begin, end = int(edges[0]), int(edges[-1])
        proteins = Proteins(
            found.names.select(begin, end), found.lengths[begin:end], found.first_of_identical(begin, end)
        )
        summary = self._summary(proteins, found)
        counts = {"proteins": summary.proteins, "residues": summary.residues, "copied": summary.copied}
        for done, wanted, draft in zip(finished, self.wanted, self.drafts, strict=True):
            if not done:
                self.stores.append(store(draft, {**wanted, **counts, "renamed": summary.renamed}, proteins))
        self.computing, began = True, time.monotonic()
        rows = FramedProteins(self.model, file.again(), found.keep)
        summary.computed = fill(
            Computer(self.model, self.token_budget, self.options.precision), self.stores, rows, edges, self._note
        )
        if self.stores:
            distinct = int(proteins.lengths[proteins.first == np.arange(len(proteins.first))].sum())
            summary.resumed = distinct - summary.computed
        summary.seconds = time.monotonic() - began
        for each in self.stores:
            each.publish()
        return summary

    def _note(self, done: int, total: int) -> None:
        self.done = done, total
        if self.progress:
            self.progress(done, total)

    def _summary(self, proteins: Proteins, found: Survey) -> EmbedSummary:
        learned = self.model.config.learned_positions
        return EmbedSummary(
            proteins=len(proteins.lengths),
            residues=int(proteins.lengths.sum()),
            copied=int((proteins.first != np.arange(len(proteins.first))).sum()),
            renamed=proteins.names.changed(),
            left_out=int((~found.keep).sum()),
            beyond_positions=int((proteins.lengths + 2 > self.model.config.max_length).sum()) * learned,
            tally=found.tally,
        )
