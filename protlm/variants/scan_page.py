"""A self-contained page of a scan: a heat map and a table to search, sort and download; it loads nothing."""

import html
import math
import re
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from protlm.errors import UserError, counted
from protlm.plots.page import page_of
from protlm.plots.palette import AMINO_ACIDS
from protlm.sequence.alphabet import STANDARD
from protlm.sequence.fasta import Record
from protlm.tables import text_output
from protlm.variants.assessment import REASON, Assessment
from protlm.variants.tracks import tracks_of

LONGEST = 5_000
"""Maximum number of residues: a longer scan is more than a browser likes."""
PARTS = Path(__file__).parent / "page"
LEGEND = {
    "blosum62": "BLOSUM62, in half bits: how common the exchange is in any protein.",
    "profile": "Log-odds of variant and wild type in a profile of homologs, in nats: below 0, homologs avoid it.",
    "model": "Log-likelihood of the variant minus that of the wild type, in nats: below 0, the model avoids it.",
    "blend": "Log-odds of variant and wild type by homologs, and by the model if there is one, in nats: below 0, "
    "they avoid it.",
}


def check_page(path: Path, length: int) -> None:
    """Raises a UserError for a protein that is too long."""
    if length > LONGEST:
        raise UserError(f"{path}: {length:,} residues are too many for a page; expected at most {LONGEST:,}")


def write_page(
    path: Path, record: Record, assessment: Assessment, columns: dict[str, Any], digits: dict[str, int], offset: int
) -> None:
    """Writes the page.

    Args:
        path: of the page; it appears when it is complete.
        record: the protein.
        assessment: of its variants.
        columns: name -> values, of the table; see `ScanResult.columns`.
        digits: decimals of the columns of numbers.
        offset: number of residues of the numbering before the sequence.
    """
    table = {name: _plain(values) for name, values in columns.items() if name != REASON or any(values)}
    data = {
        "sequence": record.sequence,
        "offset": offset,
        "letters": AMINO_ACIDS.order,
        "matrix": _plain(assessment.singles[:, [STANDARD.index(letter) for letter in AMINO_ACIDS.order]].round(3)),
        "tracks": _tracks(assessment),
        "columns": [{"name": name, "digits": min(digits[name], 3) if name in digits else None} for name in table],
        "rows": list(map(list, zip(*table.values(), strict=True))),
        "file": re.sub(r"[^\w.-]+", "_", record.id) + ".csv",
    }
    summary = assessment.summary()
    length, number = counted(len(record.sequence), "residue"), counted(len(assessment.variants), "variant")
    template, style, script = (
        (PARTS / f"scan.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js")
    )
    body = Template(template).substitute(
        name=html.escape(record.id),
        about=html.escape("; ".join(filter(None, [record.description, length, number]))),
        summary=html.escape(f"{summary[:1].upper()}{summary[1:]}."),
        legend=html.escape(LEGEND[assessment.chosen]),
    )
    with text_output(path) as file:
        file.write(page_of(f"{record.id}: variant effects", body, style, script, data))


def _tracks(assessment: Assessment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    known = np.isfinite(assessment.singles)
    if known.any():
        sums = np.where(known, assessment.singles, 0).sum(1)
        mean = np.divide(sums, known.sum(1), out=np.full(len(sums), np.nan), where=known.any(1))
        found.append({"name": "mean score", "values": _plain(mean.round(3)), "score": True})
    for track in tracks_of(assessment):
        if isinstance(track.values, str):
            found.append({"name": track.name, "values": track.values})
        else:
            high = track.high or float(np.nanmax(track.values)) or 1.0
            found.append({"name": track.name, "values": _plain(track.values.round(3)), "high": high})
    return found


def _plain(values: Any) -> Any:
    """Arrays and lists as JSON has them: null for NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
        return [None if math.isnan(value) else value for value in values.tolist()]
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return [_plain(row) for row in values]
    return list(values)
