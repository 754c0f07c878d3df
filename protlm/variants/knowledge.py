"""Where to find what scores may rest on."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from protlm.errors import ProtlmWarning, UserError, counted
from protlm.homology.alignment import Alignment, read_alignment
from protlm.progress import Progress
from protlm.variants.sources import Sources, chosen_scorer

if TYPE_CHECKING:
    from protlm.inference.engine import Computer


@dataclass(frozen=True)
class Knowledge:
    """Where to find what scores may rest on; `of` finds it for one protein.

    Attributes:
        alignment: of one protein's homologs, or the path of a file.
        databases: FASTA files to search for homologs, if there is no alignment.
        threads: of the search.
        cache: keep alignments of searches, and reuse them, in `homology.cache.default_folder`.
        structure: PDB or mmCIF file of one protein.
        model: a language model, with its method.
        report: gets the progress of the search, in bytes as a stage, and of the model, in passes.
        allow_nucleotides: accept databases that look like DNA or RNA.
        invalid: "skip" leaves out invalid records of the databases, with a warning; otherwise they are errors.
    """

    alignment: str | Path | Alignment | None = None
    databases: Sequence[str | Path] = ()
    threads: int | None = None
    cache: bool = True
    structure: str | Path | None = None
    model: "Computer | None" = None
    method: str | None = None
    report: Callable[..., None] | None = None
    allow_nucleotides: bool = False
    invalid: str = "error"

    def chosen(self, scorer: str) -> str:
        """The scorer, before anything is searched or computed; see `chosen_scorer`."""
        return chosen_scorer(scorer, bool(self.alignment or self.databases), self.model is not None)

    def of(self, wild_type: str) -> Sources:
        """What is known about one protein."""
        structure = None
        if self.structure is not None:
            from protlm.variants.structure import read_structure

            structure = read_structure(self.structure, wild_type)
        return Sources(self._aligned(wild_type), self.model, self.method, structure, self.report)

    def _aligned(self, wild_type: str) -> Alignment | None:
        if isinstance(self.alignment, Alignment):
            if self.alignment.query != wild_type:
                raise UserError("alignment: its query is not the wild type", "alignment")
            return self.alignment
        if self.alignment is not None:
            return read_alignment(self.alignment, wild_type)
        if not self.databases:
            return None
        report = partial(self.report, stage="searching") if self.report else None
        (alignment,) = self.searched([wild_type], report)
        return alignment

    def searched(self, wild_types: Sequence[str], progress: Progress | None) -> Iterator[Alignment]:
        """The homologs of several proteins in the databases; a warning says how many invalid records were skipped."""
        from protlm.homology.cache import default_folder
        from protlm.homology.options import SearchOptions
        from protlm.homology.search import search
        from protlm.homology.targets import Targets

        targets = Targets(self.databases, self.allow_nucleotides, "skip" if self.invalid == "skip" else "error")
        cache = default_folder() if self.cache else None
        yield from search(wild_types, targets, SearchOptions(), self.threads, progress, cache)
        if skipped := targets.tally.skipped:
            more = f", and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
            what = counted(len(skipped), "invalid record")
            warnings.warn(f"{what} of the databases {skipped[0]}{more}", ProtlmWarning, stacklevel=2)
