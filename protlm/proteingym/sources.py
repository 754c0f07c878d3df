"""What the scores of assays rest on: homologs from ProteinGym's alignments or a search, and a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from protlm.checkpoint import fingerprint
from protlm.proteingym.assays import Assay
from protlm.variants.knowledge import Knowledge
from protlm.variants.sources import Sources


def sources_of(knowledge: Knowledge, alignments: Path | None = None) -> Callable[[Assay], Sources]:
    """What is known about the protein of an assay: its alignment in the folder or, if there is none, by a search.

    Assays of the same protein in a row share the answer.
    """
    last: list[tuple[tuple[str, Path | None], Sources]] = []

    def sources(assay: Assay) -> Sources:
        path = alignments / assay.alignment if alignments and assay.alignment else None
        path = path if path and path.is_file() else None
        key = assay.sequence, path
        if not last or last[0][0] != key:
            known = replace(knowledge, alignment=path, databases=()) if path else knowledge
            last[:] = [(key, known.of(assay.sequence))]
        return last[0][1]

    return sources


def settings(knowledge: Knowledge, scorer: str, alignments: Path | None = None) -> dict[str, str]:
    """Name -> value of what scores depend on, to recognise those of an earlier call."""
    model = knowledge.model
    sizes = [f"{Path(path).name} of {Path(path).stat().st_size:,} bytes" for path in knowledge.databases]
    return {
        "scorer": scorer,
        "model": fingerprint(model.model) if model else "none",
        "method": knowledge.method or "default",
        "precision": model.precision if model else "none",
        "homologs": "; ".join([*([str(alignments.resolve())] if alignments else []), *sizes]) or "none",
    }
