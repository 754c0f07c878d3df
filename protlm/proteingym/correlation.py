"""Agreement of scores with measurements, averaged as in ProteinGym, and its tables.

Source of the average: Notin et al. 2023, and `performance_DMS_benchmarks.py` of ProteinGym 1.x.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from protlm.errors import counted
from protlm.proteingym.assays import Assay
from protlm.proteingym.measurements import SPEARMAN
from protlm.tables import aligned


@dataclass
class Result:
    """Spearman correlations of one assay, or areas under the ROC curve, by model; NaN if unknown."""

    assay: Assay
    variants: int
    correlations: dict[str, float]
    notes: list[str] = field(default_factory=list)
    """Why a correlation is missing, or of fewer variants."""
    invalid: list[str] = field(default_factory=list)
    """Lines that count and list the rows that were not scored."""
    metric: str = SPEARMAN


def averages(
    values: Sequence[float], uniprot: Sequence[str], selection: Sequence[str]
) -> tuple[dict[str, float], float]:
    """ProteinGym's average: assays -> UniProt id within a selection type -> selection type -> all; ignores NaN.

    Returns the mean of each selection type with values, by name, and the mean of these means.

    >>> averages([0.2, 0.4, 0.5, 0.9], ["A", "A", "B", "A"], ["Activity", "Activity", "Activity", "Binding"])
    ({'Activity': 0.4, 'Binding': 0.9}, 0.65)
    """
    proteins: dict[str, dict[str, list[float]]] = {}
    for value, protein, kind in zip(values, uniprot, selection, strict=True):
        if not math.isnan(value):
            proteins.setdefault(kind, {}).setdefault(protein, []).append(value)
    kinds = {
        kind: math.fsum(math.fsum(few) / len(few) for few in groups.values()) / len(groups)
        for kind, groups in sorted(proteins.items())
    }
    return kinds, math.fsum(kinds.values()) / len(kinds) if kinds else math.nan


def to_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: the assays, the average of each selection type, and the average over all.

    Averages have "average" in place of the name, and the total number of variants; correlations and areas under the
    curve are averaged separately.
    """
    models = list(results[0].correlations)
    rows = [[r.assay.id, r.assay.uniprot, r.assay.selection, r.metric, str(r.variants)] for r in results]
    rows = [[*row, *map(_cell, r.correlations.values())] for row, r in zip(rows, results, strict=True)]
    for metric in dict.fromkeys(result.metric for result in results):
        some = [result for result in results if result.metric == metric]
        uniprot, selection = [r.assay.uniprot for r in some], [r.assay.selection for r in some]
        means = {m: averages([r.correlations[m] for r in some], uniprot, selection) for m in models}
        for kind in sorted(set(selection)):
            count = sum(r.variants for r in some if r.assay.selection == kind)
            values = (means[m][0].get(kind, math.nan) for m in models)
            rows.append(["average", "", kind, metric, str(count), *map(_cell, values)])
        total = str(sum(r.variants for r in some))
        rows.append(["average", "", "all", metric, total, *(_cell(means[m][1]) for m in models)])
    return ["DMS_id", "UniProt_ID", "coarse_selection_type", "metric", "variants", *models], rows


def format_correlations(results: Sequence[Result]) -> str:
    """A table of assays and averages, followed by notes on missing values."""
    names, rows = to_rows(results)
    cells = [
        [assay, selection, metric, f"{int(variants):,}", *(f"{float(value):.3f}" if value else "-" for value in values)]
        for assay, _, selection, metric, variants, *values in rows
    ]
    header, *lines = aligned(["assay", "selection", "metric", "variants", *names[5:]], cells, (0, 1, 2)).splitlines()
    rule = "-" * max(map(len, lines))
    notes = Counter(note for result in results for note in result.notes)
    return "\n".join(
        [
            *(header, rule, *lines[: len(results)], rule, *lines[len(results) :]),
            *(f"{counted(count, 'assay')}: {note}" for note, count in notes.items()),
        ]
    )


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
