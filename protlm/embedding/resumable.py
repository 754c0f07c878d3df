"""A run over all proteins of FASTA files that continues after a kill: survey, compare, compute by windows, finish."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protlm.embedding.description import differences
from protlm.embedding.outputs import Output, is_complete
from protlm.embedding.representations import PartialOutput
from protlm.embedding.survey import EmbedSummary, Proteins, Survey, survey
from protlm.errors import UserError
from protlm.files import UnwritableError
from protlm.inference.engine import check_length
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.sequence.alphabets import alphabet_of
from protlm.sequence.fasta_files import FastaFiles, described_inputs
from protlm.sequence.stream import STDIN, Source

_BLOCK = 1 << 20  # bytes of standard input copied at a time


class ResumableInterrupt(KeyboardInterrupt):
    """Ctrl-C after part of the output was computed; the message says how to resume."""


@dataclass(frozen=True)
class FastaOptions:
    """How the proteins are read; see `EmbedOptions`."""

    allow_nucleotides: bool
    identifier: str
    duplicates: str
    invalid: str
    shard: tuple[int, int]


@dataclass(frozen=True)
class ShardOfSurvey:
    """The proteins of a run.

    Attributes:
        file: that they come from.
        found: all proteins of the file.
        proteins: those of the shard.
        start: number of proteins of the file before the shard.
        edges: (w + 1,) where the windows of the shard begin, and its end.
    """

    file: FastaFiles
    found: Survey
    proteins: Proteins
    start: int
    edges: np.ndarray


@dataclass
class ResumableRun:
    """One call of `embed_fasta` or `predict_fasta`.

    Args:
        description: of what is computed, and how.
        options: how the proteins are read.
        compute: writes the windows that partial outputs lack, calls `note`, and completes `summary`.
        model: that computes.
        overwrite: replace outputs and partial outputs made from something else.
        progress: called with the residues done and in total.
        reading: called before, while the FASTA is checked, with the bytes read and in total.
    """

    description: dict[str, Any]
    options: FastaOptions
    compute: Callable[["ResumableRun", list[PartialOutput], ShardOfSurvey], None]
    model: Performer
    overwrite: bool
    progress: Progress | None
    reading: Progress | None
    partials: list[PartialOutput] = field(default_factory=list)
    summary: EmbedSummary = field(default_factory=EmbedSummary)
    computing: bool = False
    done: tuple[int, int] = (0, 0)
    """Residues computed, by this run or an earlier one, and in total."""

    def run(self, inputs: list[Path], outputs: Sequence[Output]) -> EmbedSummary:
        """See `embed_fasta`."""
        with ExitStack() as stack:
            self.partials = [stack.enter_context(PartialOutput.opened(output)) for output in outputs]
            try:
                self._run(inputs)
            except KeyboardInterrupt as error:
                if kept := self._kept():
                    raise ResumableInterrupt(f"stopped; {kept}") from error
                raise
            except SystemExit as error:  # the signal SIGTERM
                if kept := self._kept():
                    error.add_note(f"terminated; {kept}")
                raise
            except UserError as error:
                if self.computing and (kept := self._kept()):
                    raise UserError(f"{error}; {kept}") from error
                raise
        return self.summary

    def note(self, done: int, total: int) -> None:
        """Reports progress."""
        self.done = done, total
        if self.progress:
            self.progress(done, total)

    def _run(self, inputs: list[Path]) -> None:
        description, options = dict(self.description), self.options
        complete = self._compare(description)
        name = STDIN if inputs == [Path(STDIN)] else ""
        paths = [self._copied_stdin()] if name else inputs
        if all(complete) and all(self._compare({**description, "source": described_inputs(paths, name)})):
            self.summary = EmbedSummary(complete=True)
            return
        label = name and "standard input"
        alphabet = alphabet_of(self.model.config.alphabet)
        file = FastaFiles(paths, options.allow_nucleotides, options.identifier, label, options.invalid, alphabet)
        file.refuse(self._refusal)
        first = self.partials[0]
        try:
            found = survey(file, first.folder, options.duplicates, self.reading)
        except OSError as error:
            raise UnwritableError.of(first.output.path, error) from error
        description["source"] = {**found.source, **({"name": name} if name else {})}
        complete = self._compare(description)
        check_length(self.model, int(found.lengths.max(initial=0)) + 2)
        edges = found.shard(*options.shard)
        start = int(edges[0])
        part = ShardOfSurvey(file, found, found.proteins(start, int(edges[-1])), start, edges - start)
        self.summary = summary = self._summarised(part.proteins, found)
        counts = {name: getattr(summary, name) for name in ("proteins", "residues", "copied", "renamed")}
        partials = [partial for partial, is_complete in zip(self.partials, complete, strict=True) if not is_complete]
        for partial in partials:
            partial.start({**partial.output.described(description), **counts}, part.proteins, part.edges)
        if partials:
            self.computing, started = True, time.monotonic()
            self.compute(self, partials, part)
            summary.resumed = int(part.proteins.lengths[part.proteins.is_distinct].sum()) - summary.computed
            for partial in partials:
                partial.finish()
            summary.seconds = time.monotonic() - started

    def _refusal(self, name: bytes) -> str | None:
        """Why one of the outputs cannot hold a protein of this name; None if all can."""
        reasons = (partial.output.stored.refuse(name) for partial in self.partials)
        return next((reason for reason in reasons if reason), None)

    def _kept(self) -> str:
        """How an interrupted run resumes, for its message; empty if nothing was computed."""
        if not any(partial.has_values for partial in self.partials):
            return ""
        done = f" ({self.done[0]:,} of {self.done[1]:,} residues done)" if self.done[0] else ""
        return f"computed results are kept; repeat the command to resume{done}"

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

    def _summarised(self, proteins: Proteins, found: Survey) -> EmbedSummary:
        names, config = proteins.names, self.model.config
        slashes = all(partial.output.stored.slashes for partial in self.partials)
        beyond = int((proteins.lengths + 2 > config.max_length).sum())
        return EmbedSummary(
            proteins=len(proteins.lengths),
            residues=int(proteins.lengths.sum()),
            copied=int((~proteins.is_distinct).sum()),
            renamed=len(names.renamed) if slashes else names.changed(),
            left_out=int((~found.keep).sum()),
            beyond_positions=beyond * config.learned_positions,
            tally=found.tally,
        )
