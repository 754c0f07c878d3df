"""ProteinGym (Notin et al. 2023): a model's scores against measured fitness in each assay, with baselines."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from protlm.checkpoint import fingerprint
from protlm.correlation import spearman
from protlm.errors import UserError, counted
from protlm.inference.engine import Computer
from protlm.proteingym.assays import SITE_INDEPENDENT, Assays, Published
from protlm.proteingym.correlation import Result
from protlm.proteingym.site_independent import site_independent
from protlm.strict_json import dumps
from protlm.tables import read_table, text_output
from protlm.variants.blosum import blosum62
from protlm.variants.notation import Variants
from protlm.variants.score import chosen_method, score_variants
from protlm.variants.variant_table import DIGITS, MEASURED, SCORE, VariantTable

MODEL, BLOSUM = "protlm", "BLOSUM62"
_LISTED = 5  # invalid rows of an assay
RECORD = "model.json"
"""File in the folder of scores that says how they were computed."""


def benchmark(
    computer: Computer,
    assays: Assays,
    method: str | None = None,
    scores: Path | None = None,
    published: Published | None = None,
    alignments: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    invalid: str = "error",
) -> Iterator[Result]:
    """Yields the result of each assay, in order.

    Args:
        computer: of the model.
        assays: see `find_assays`.
        method: see `score`.
        scores: folder for the scores of each assay, created if necessary. Scores of an earlier call with the same model
            and method are reused.
        published: results to compare with.
        alignments: folder of the alignments named in the reference table.
        progress: called with the numbers of assays done and in total.
        invalid: see `VariantTable`. Variants without a measurement are scored, but not compared.

    Raises:
        UserError: for an assay that cannot be read, or a folder with scores of another model.
    """
    method = chosen_method(computer.model, method)
    if scores is not None:
        _claim(scores, {"model": fingerprint(computer.model), "method": method, "precision": computer.precision})
    for done, assay in enumerate(assays.found, start=1):
        table = VariantTable(assay.path, assay.sequence, invalid=invalid)
        ((rows, variants),) = table.groups.values()
        measured = table.table.parsed(MEASURED)[0][rows]
        kept = scores / f"{assay.id}.csv" if scores is not None else None
        values = _reused(kept, table) if kept else None
        if values is None:
            values = table.scattered(lambda each: score_variants(computer, each, method).round(DIGITS))
            if kept:
                table.write(kept, values)
        known = int(np.isfinite(measured).sum())
        result = Result(assay, known, {MODEL: spearman(values[rows], measured)}, invalid=table.describe(_LISTED))
        if blank := len(rows) - known:
            result.notes.append(f"{counted(blank, 'variant')} without a measurement")
        result.correlations[BLOSUM] = spearman(blosum62(variants), measured)
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
    ((rows, _),) = table.groups.values()
    return values if np.isfinite(values[rows]).all() else None


def _by_site(
    result: Result, variants: Variants, measured: np.ndarray, folder: Path | None, published: Published | None
) -> float:
    """The correlation of the site-independent model, from the alignment or as published; else NaN, with a note."""
    assay = result.assay
    if folder is not None and assay.alignment and (folder / assay.alignment).is_file():
        values = site_independent(variants, folder / assay.alignment)
        if outside := int(np.isnan(values).sum()):
            result.notes.append(f"{SITE_INDEPENDENT}: {outside:,} of {len(values):,} variants outside the alignment")
        return spearman(values, measured)
    value = published(SITE_INDEPENDENT, assay.id) if published else math.nan
    if math.isnan(value):
        result.notes.append(f"no {SITE_INDEPENDENT}: neither an alignment nor a published result")
    return value
