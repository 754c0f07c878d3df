"""ProteinGym (Notin et al. 2023): a model's scores against measured fitness, assay by assay, beside baselines."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from protlm.checkpoint import fingerprint
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.metrics import spearman
from protlm.proteingym.alignment import site_independent
from protlm.proteingym.assays import SITE_INDEPENDENT, Assays, Published
from protlm.proteingym.correlation import Result
from protlm.tables import read_table
from protlm.variants.blosum import blosum62
from protlm.variants.notation import Variants
from protlm.variants.score import chosen_method, score_variants
from protlm.variants.variant_table import DIGITS, SCORE, VariantTable

MODEL, BLOSUM = "protlm", "BLOSUM62"
RECORD = "model.json"
"""In the folder of scores: what they were made with."""


def benchmark(
    computer: Computer,
    assays: Assays,
    method: str | None = None,
    scores: Path | None = None,
    published: Published | None = None,
    alignments: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """The result of each assay, in order.

    Args:
        computer: of the model.
        assays: see `find_assays`.
        method: see `score`.
        scores: folder of the scores of each assay, made if need be. What an earlier call with the same model and method
            has left there is not computed again.
        published: figures to put beside.
        alignments: folder of the alignments that the reference table names.
        progress: called with the assays done, and all.

    Raises:
        UserError: for an assay that cannot be read, or scores of another model.
    """
    method = chosen_method(computer.model, method)
    if scores is not None:
        _claim(scores, {"model": fingerprint(computer.model), "method": method, "precision": computer.precision})
    for done, assay in enumerate(assays.found, start=1):
        table = VariantTable(assay.path, assay.sequence)
        measured = table.table.numbers("DMS_score")
        kept = scores / f"{assay.id}.csv" if scores is not None else None
        values = _reused(kept, table) if kept else None
        if values is None:
            values = score_variants(computer, table.variants, method).round(DIGITS)
            if kept:
                table.write(kept, values)
        result = Result(assay, len(measured), {MODEL: spearman(values, measured)})
        result.correlations[BLOSUM] = spearman(blosum62(table.variants), measured)
        result.correlations[SITE_INDEPENDENT] = _by_site(result, table.variants, measured, alignments, published)
        for column in published.columns if published else ():
            if column != SITE_INDEPENDENT:
                result.correlations[column] = published(column, assay.id) if published else math.nan
        if progress:
            progress(done, len(assays.found))
        yield result


def _claim(folder: Path, about: dict[str, str]) -> None:
    """Notes what the scores of a folder are made with, or refuses those of another model."""
    path = folder / RECORD
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for the scores of each assay")
    if not folder.parent.is_dir():
        raise UserError(f"{folder}: there is no folder {folder.parent}; make it first")
    folder.mkdir(exist_ok=True)
    if path.exists():
        try:
            before = json.loads(path.read_text())
            other = [name for name in about if before[name] != about[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a record of scores; choose another folder with --scores") from error
        if other:
            difference = ", ".join(f"{name} {str(before[name])[:20]}, now {about[name][:20]}" for name in other)
            raise UserError(f"{folder}: holds scores made otherwise ({difference}); choose another folder")
        return
    if any(folder.glob("*.csv")):
        raise UserError(f"{folder}: holds CSV files but no {RECORD}; choose a folder of its own for scores")
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n")


def _reused(path: Path, table: VariantTable) -> np.ndarray | None:
    """Scores (n,) of an earlier call, or None if there are none of just these variants and measurements."""
    if not path.exists():
        return None
    kept = read_table(path)
    for name, cells in table.columns().items():
        if name not in kept or kept[name] != cells:
            return None
    return kept.numbers(SCORE)


def _by_site(
    result: Result, variants: Variants, measured: np.ndarray, folder: Path | None, published: Published | None
) -> float:
    """Of the alignment if it is there, else as published; without either NaN, and a note says why."""
    assay = result.assay
    if folder is not None and assay.alignment and (folder / assay.alignment).is_file():
        values = site_independent(variants, folder / assay.alignment)
        if outside := int(np.isnan(values).sum()):
            result.notes.append(
                f"{SITE_INDEPENDENT}: {outside:,} of {len(values):,} variants are outside the alignment"
            )
        return spearman(values, measured)
    value = published(SITE_INDEPENDENT, assay.id) if published else math.nan
    if math.isnan(value):
        result.notes.append(f"no {SITE_INDEPENDENT}, for there is neither an alignment nor a published figure")
    return value
