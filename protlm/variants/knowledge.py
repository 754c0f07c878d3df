"""Where to find what scores may rest on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from protlm.errors import UserError
from protlm.homology.alignment import Alignment, read_alignment
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
    """

    alignment: str | Path | Alignment | None = None
    databases: Sequence[str | Path] = ()
    threads: int | None = None
    cache: bool = True
    structure: str | Path | None = None
    model: "Computer | None" = None
    method: str | None = None
    report: Callable[..., None] | None = None

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
        from protlm.homology.cache import default_folder
        from protlm.homology.search import find_homologs

        return find_homologs(
            wild_type,
            self.databases,
            threads=self.threads,
            progress=partial(self.report, stage="searching") if self.report else None,
            cache=default_folder() if self.cache else None,
        )
