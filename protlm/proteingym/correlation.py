"""Rank correlations of scores with measurements, averaged as ProteinGym does, and as tables.

Source of the average: Notin et al. 2023, and `performance_DMS_benchmarks.py` of ProteinGym 1.x.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from protlm.errors import counted
from protlm.proteingym.assays import Assay


@dataclass
class Result:
    """Spearman correlations of one assay, by the name of the model; NaN where there is none."""

    assay: Assay
    variants: int
    correlations: dict[str, float]
    notes: list[str] = field(default_factory=list)
    """Why a figure is missing."""


def averages(
    values: Sequence[float], uniprot: Sequence[str], selection: Sequence[str]
) -> tuple[dict[str, float], float]:
    """ProteinGym's average: assays -> UniProt id within a selection type -> selection type -> all.

    Args:
        values: (n,) of n assays; NaN is left out.
        uniprot: (n,) identifiers of the proteins.
        selection: (n,) selection types.

    Returns:
        The mean of each selection type that has values, by name, and the mean of these.

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
    """Names of columns and cells: a row for each assay, then one for each selection type's average, then that of all.

    The rows of averages have "average" instead of an assay's name; "variants" is then how many there are in all.
    """
    models = list(results[0].correlations)
    uniprot, selection = [r.assay.uniprot for r in results], [r.assay.selection for r in results]
    means = {m: averages([r.correlations[m] for r in results], uniprot, selection) for m in models}
    rows = [
        [r.assay.id, r.assay.uniprot, r.assay.selection, str(r.variants), *map(_cell, r.correlations.values())]
        for r in results
    ]
    for kind in sorted(set(selection)):
        count = sum(r.variants for r in results if r.assay.selection == kind)
        rows.append(["average", "", kind, str(count), *(_cell(means[m][0].get(kind, math.nan)) for m in models)])
    rows.append(["average", "", "all", str(sum(r.variants for r in results)), *(_cell(means[m][1]) for m in models)])
    return ["DMS_id", "UniProt_ID", "coarse_selection_type", "variants", *models], rows


def format_results(results: Sequence[Result]) -> str:
    """A plain table of assays and averages, and a line for each thing that is missing."""
    names, rows = to_rows(results)
    table = [["assay", "selection", "variants", *names[4:]]]
    for assay, _, selection, variants, *figures in rows:
        table.append([assay, selection, f"{int(variants):,}", *(f"{float(x):.3f}" if x else "-" for x in figures)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for number, row in enumerate(table):
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        if number in (1, len(results) + 1):
            lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
        lines.append("  ".join((*left, *right)))
    for note, count in Counter(note for result in results for note in result.notes).items():
        lines.append(f"{counted(count, 'assay')}: {note}")
    return "\n".join(lines)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
