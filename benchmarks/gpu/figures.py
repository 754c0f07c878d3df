"""Rows of the results: figures, those that must not exceed a limit, and cases that fail."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.tables import markdown

Row = dict[str, Any]
KEY = ("part", "case", "direction", "length", "pass", "measure")
"""The columns that tell rows apart."""
COLUMNS = (*KEY, "value", "unit", "limit", "card", "driver", "torch", "triton", "protlm", "date")


def row(
    part: str, case: str, measure: str, value: float, unit: str = "", limit: float | None = None, **more: Any
) -> Row:
    """One figure: of what, which measure, its value and unit; `limit` is the largest value that passes."""
    where = {"direction": "", "length": "", "pass": ""} | more
    figure = {"measure": measure, "value": value, "unit": unit, "limit": "" if limit is None else limit}
    return {"part": part, "case": case, **where, **figure}


def way(causal: bool) -> str:
    """The name of a direction."""
    return "causal" if causal else "bidirectional"


def name_of(figure: Row) -> str:
    """A row, without its value."""
    return ", ".join(str(figure[column]) for column in KEY if figure[column] != "")


def beyond(rows: Iterable[Row]) -> list[str]:
    """One line for each figure above its limit, NaN included."""
    found = [r for r in rows if r["limit"] != "" and not r["value"] <= r["limit"]]
    return [f"{name_of(r)}: {r['value']:.3g}, expected at most {r['limit']:.3g}" for r in found]


@contextmanager
def attempt(what: str, failed: list[str] | None = None) -> Iterator[None]:
    """A case that may fail without ending its part; its name and the reason are printed, and added to `failed`."""
    try:
        yield
    except Exception as error:  # of any package in the comparison
        line = f"{what}: {type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:200]}"
        print(line, file=sys.stderr, flush=True)
        if failed is not None:
            failed.append(line)


def check(failed: list[str]) -> None:
    """Ends a part with an error if cases of it failed."""
    if failed:
        raise RuntimeError(f"{len(failed)} failed: {'; '.join(failed)}")


def merged(old: Iterable[Row], new: Iterable[Row], complete: Iterable[str]) -> list[Row]:
    """The rows of earlier runs and of this one, by part.

    Args:
        old, new: rows; columns that older ones do not have stay empty.
        complete: parts all of whose old rows go; of others, only those of the same figure do.
    """
    new, complete = list(new), set(complete)
    same = {_key(r) for r in new}
    kept = [r for r in old if r["part"] not in complete and _key(r) not in same]
    rows = [{column: r.get(column, "") for column in COLUMNS} for r in (*kept, *new)]
    order = list(dict.fromkeys(r["part"] for r in rows))
    return sorted(rows, key=lambda r: order.index(r["part"]))


def _key(figure: Row) -> tuple[str, ...]:
    return tuple(str(figure[column]) for column in KEY)


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    names = ["part", "direction", "length", "pass", "case", "measure", "value", "unit", "limit"]
    return markdown(names, [[f"{r[n]:.4g}" if isinstance(r[n], float) else r[n] for n in names] for r in rows])
