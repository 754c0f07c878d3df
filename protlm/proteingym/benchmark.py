"""ProteinGym (Notin et al. 2023): scores against measured fitness or annotations in each assay, with baselines."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from protlm.errors import UserError, counted
from protlm.proteingym.assays import SITE_INDEPENDENT, Assay, Assays, Published
from protlm.proteingym.correlation import Result
from protlm.proteingym.measurements import Measurements, measurements
from protlm.proteingym.site_independent import site_independent
from protlm.proteingym.sources import alignment_of
from protlm.strict_json import dumps
from protlm.tables import read_table, text_output
from protlm.variants.assessment import assess
from protlm.variants.blosum import blosum62
from protlm.variants.notation import Variants
from protlm.variants.sources import Sources
from protlm.variants.variant_table import DIGITS, SCORE, VariantTable

MODEL, BLOSUM = "protlm", "BLOSUM62"
_LISTED = 5  # invalid rows of an assay
RECORD = "model.json"
"""File in the folder of scores that says how they were computed."""


def benchmark(
    assays: Assays,
    sources: Callable[[Assay], Sources],
    scorer: str = "auto",
    scores: Path | None = None,
    about: dict[str, str] | None = None,
    published: Published | None = None,
    alignments: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    invalid: str = "error",
) -> Iterator[Result]:
    """Yields the result of each assay, in order.

    Args:
        assays: see `find_assays`.
        sources: what the scores of an assay may rest on.
        scorer: see `assess`.
        scores: folder for the scores of each assay, created if necessary. Scores of an earlier call with the same
            `about` are reused.
        about: what the scores depend on, by name, such as the fingerprint of the model.
        published: results to compare with.
        alignments: folder of the alignments named in the reference table, for the site-independent baseline.
        progress: called with the numbers of assays done and in total.
        invalid: see `VariantTable`. Variants without a measurement are scored, but not compared.

    Raises:
        UserError: for an assay that cannot be read, or a folder with scores of other settings.
    """
    if scores is not None:
        _claim(scores, about or {})
    for done, assay in enumerate(assays.found, start=1):
        table = VariantTable(assay.path, assay.sequence, invalid=invalid)
        ((rows, variants),) = table.groups.values()
        whole = measurements(table.table)
        measured = Measurements(whole.values[rows], whole.metric)
        kept = scores / f"{assay.id}.csv" if scores is not None else None
        values = _reused(kept, table) if kept else None
        if values is None:
            values = np.full(len(table.table.rows), np.nan)
            try:
                values[rows] = assess(variants, sources(assay), scorer).values.round(DIGITS)
            except UserError as error:
                raise UserError(f"{assay.id}: {error}") from error
            if kept:
                table.write(kept, values)
        known = np.isfinite(measured.values)
        compared = int((known & np.isfinite(values[rows])).sum())
        result = Result(assay, compared, {MODEL: measured.agreement(values[rows])}, metric=measured.metric)
        result.invalid += table.describe(_LISTED)
        if blank := int((~known).sum()):
            result.notes.append(f"{counted(blank, 'variant')} without a measurement")
        if without := int((known & ~np.isfinite(values[rows])).sum()):
            result.notes.append(f"{counted(without, 'variant')} without a score")
        substitutions = np.where(variants.substitutions, blosum62(variants), np.nan)
        if len(variants.position) and np.array_equal(
            values[rows][variants.substitutions], substitutions[variants.substitutions]
        ):
            result.notes.append("scores by BLOSUM62 alone: without homologs and a model, or as requested")
        result.correlations[BLOSUM] = measured.agreement(substitutions)
        result.correlations[SITE_INDEPENDENT] = _by_site(result, variants, measured, alignments, published)
        for column in published.columns if published else ():
            if published and column != SITE_INDEPENDENT:
                result.correlations[column] = published(column, assay.id)
        if progress:
            progress(done, len(assays.found))
        yield result


def _claim(folder: Path, about: dict[str, str]) -> None:
    """Records how the scores in a folder are computed; raises a UserError if it has those of another model."""
    path = folder / RECORD
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for scores")
    if not folder.parent.is_dir():
        raise UserError(f"{folder}: there is no folder {folder.parent}; create it first")
    folder.mkdir(exist_ok=True)
    if path.exists():
        try:
            before = json.loads(path.read_text())
            other = [name for name in about if before[name] != about[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged; choose another folder for scores") from error
        if other:
            difference = ", ".join(f"{name} {str(before[name])[:20]}, now {about[name][:20]}" for name in other)
            raise UserError(f"{folder}: contains scores of other settings ({difference}); choose another folder")
        return
    if any(folder.glob("*.csv")):
        raise UserError(f"{folder}: contains CSV files but no {RECORD}; choose another folder for scores")
    with text_output(path) as file:
        file.write(dumps(about, indent=2) + "\n")


def _reused(path: Path, table: VariantTable) -> np.ndarray | None:
    """Scores (n,) of an earlier call, or None if there are none for the same variants and measurements."""
    if not path.exists():
        return None
    kept = read_table(path)
    for name, cells in table.columns().items():
        if name not in kept or kept[name] != cells:
            return None
    values = kept.numbers(SCORE, missing=True)
    ((rows, variants),) = table.groups.values()
    return values if np.isfinite(values[rows][variants.substitutions]).all() else None


def _by_site(
    result: Result, variants: Variants, measured: Measurements, folder: Path | None, published: Published | None
) -> float:
    """The correlation of the site-independent model, from the alignment or as published; else NaN, with a note."""
    assay = result.assay
    if path := alignment_of(assay, folder):
        values = site_independent(variants, path)
        if outside := int(np.isnan(values).sum()):
            result.notes.append(f"{SITE_INDEPENDENT}: {outside:,} of {len(values):,} variants outside the alignment")
        return measured.agreement(values)
    value = published(SITE_INDEPENDENT, assay.id) if published else math.nan
    if math.isnan(value):
        result.notes.append(f"no {SITE_INDEPENDENT}: neither an alignment nor a published result")
    return value
