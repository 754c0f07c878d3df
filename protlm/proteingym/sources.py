"""What the scores of assays rest on: homologs from ProteinGym's alignments or a search, and a model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from protlm.checkpoint import fingerprint
from protlm.progress import Progress
from protlm.proteingym.assays import Assay
from protlm.variants.knowledge import Knowledge
from protlm.variants.sources import Sources

SUFFIXES = (".a3m", ".a3m.gz", ".a2m", ".a2m.gz", ".sto", ".sto.gz", ".fasta", ".aln")


def sources_of(knowledge: Knowledge, alignments: Path | None = None) -> Callable[[Assay], Sources]:
    """What is known about the protein of an assay: its alignment in the folder or, if there is none, by a search.

    Assays of the same protein in a row share the answer.
    """
    last: list[tuple[tuple[str, Path | None], Sources]] = []

    def sources(assay: Assay) -> Sources:
        path = alignment_of(assay, alignments)
        key = assay.sequence, path
        if not last or last[0][0] != key:
            known = replace(knowledge, alignment=path, databases=()) if path else knowledge
            last[:] = [(key, known.of(assay.sequence))]
        return last[0][1]

    return sources


def search_together(
    knowledge: Knowledge, assays: Sequence[Assay], alignments: Path | None = None, progress: Progress | None = None
) -> None:
    """Puts the alignments of all assays that need a search into the cache; they share the reading of the databases."""
    if not (knowledge.databases and knowledge.cache):
        return
    queries = list(dict.fromkeys(assay.sequence for assay in assays if not alignment_of(assay, alignments)))
    for _ in knowledge.searched(queries, progress):
        pass


def alignment_of(assay: Assay, folder: Path | None) -> Path | None:
    """The file of an assay in the folder: the one that the reference table names or, without a table, `ID.a3m`."""
    if folder is None:
        return None
    names = [assay.alignment] if assay.alignment else [f"{assay.id}{suffix}" for suffix in SUFFIXES]
    return next((folder / name for name in names if (folder / name).is_file()), None)


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
