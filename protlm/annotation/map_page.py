"""A map as a self-contained page: points to hover, search and zoom, coloured by a label; it loads nothing."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from protlm.annotation.coordinates import Coordinates
from protlm.errors import counted
from protlm.plots.page import page_of
from protlm.tables import BLANKS, text_output

PARTS = Path(__file__).parent / "page"
GROUPS = 10
"""Values with a colour of their own, the most frequent ones; there are as many colours in the page."""
NUMERIC = 12
"""Distinct numbers from which a column is drawn as a scale."""


def write_map(
    path: Path,
    title: str,
    ids: Sequence[str],
    coordinates: Coordinates,
    columns: Mapping[str, Sequence[str]],
    colour: str | None = None,
    record: str = "protein",
) -> None:
    """Writes the page.

    Args:
        path: of the page; it appears when it is complete.
        title: of the page.
        ids: (n,).
        coordinates: of each.
        columns: name -> n cells, shown for the sequence that is pointed at.
        colour: the one that decides the colour.
        record: what a point is.
    """
    spread = float(np.ptp(coordinates.values)) or 1.0
    digits = 5 - int(np.floor(np.log10(spread)))
    x, y = coordinates.values.round(digits).T.tolist()
    data = {
        "ids": list(ids),
        "x": x,
        "y": y,
        "axes": coordinates.axes,
        "records": f"{record}s",
        "columns": [{"name": name, "cells": list(cells)} for name, cells in columns.items()],
        "colour": {"name": colour, **(colours_of(columns[colour]) if colour else {})},
    }
    settings = ", ".join(f"{name} {value}" for name, value in coordinates.settings.items())
    about = f"{counted(len(ids), record)}; {coordinates.method.upper()}{' with ' if settings else ''}{settings}"
    template, style, script = (
        (PARTS / f"map.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js")
    )
    body = Template(template).substitute(title=html.escape(title), about=html.escape(about), record=record)
    with text_output(path) as file:
        file.write(page_of(title, body, style, script, data))


def colours_of(cells: Sequence[str]) -> dict[str, Any]:
    """How a column becomes colours: a scale of many numbers, otherwise a colour for each of the most frequent values.

    >>> colours_of(["a", "b", "a", ""])["group"]
    [0, 1, 0, None]
    >>> colours_of([str(n / 2) for n in range(20)])["high"]
    9.5
    """
    known = [cell for cell in cells if cell.casefold() not in BLANKS]
    numbers = [_number(cell) for cell in known]
    if len(set(numbers)) >= NUMERIC and None not in numbers:
        values = [None if cell.casefold() in BLANKS else _number(cell) for cell in cells]
        finite = [value for value in numbers if value is not None]
        return {"values": values, "low": min(finite), "high": max(finite)}
    frequent = Counter(known).most_common()
    names = [name for name, _ in frequent[:GROUPS]]
    groups = [{"name": name, "count": number} for name, number in frequent[:GROUPS]]
    if others := frequent[GROUPS:]:
        what = counted(len(others), "other")
        groups.append({"name": what, "count": sum(number for _, number in others)})
    number = {name: place for place, (name, _) in enumerate(frequent)}
    group = [None if cell not in number else min(number[cell], len(names)) for cell in cells]
    return {"groups": groups, "group": group}


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
