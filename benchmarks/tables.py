"""Outputs of benchmarks: files checked before anything is computed, CSV written as it comes, Markdown tables."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.plots.positions import check_picture

METRICS = ("accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity")
"""The metrics of a split, in results.json and along.json."""
DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError)
"""Raised while reading a file that is damaged or something else."""


def check_folder(folder: Path) -> None:
    """Creates a folder and checks that files can be written in it; `UserError` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def check_outputs(*files: Path, picture: Path | None = None) -> None:
    """Creates the folders of output files and checks that the files can be written.

    Args:
        files: of any kind.
        picture: one more file, whose suffix must be that of a picture.

    Raises:
        UserError: if one cannot be written.
    """
    if picture is not None:
        check_picture(picture)
    for path in (*files, *([picture] if picture else [])):
        check_folder(path.parent)
        try:
            if path.exists():
                path.open("ab").close()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def whole(value: float) -> int | str:
    """A cell with an integer; empty for NaN."""
    return int(value) if math.isfinite(value) else ""


def read_json(path: Path) -> Any:
    """A file that a benchmark wrote.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the sub-command that trains again") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it, and train again") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes each row as soon as it is computed, so that an interrupted benchmark keeps its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = None
        for row in rows:
            values = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            if writer is None:
                writer = csv.DictWriter(file, list(values), lineterminator="\n")
                writer.writeheader()
            writer.writerow(values)
            file.flush()


def replace_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes all rows atomically."""
    with atomic_output(path) as partial:
        write_csv(rows, partial)


def replace_json(value: Any, path: Path) -> None:
    """Writes a JSON file atomically."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", numbers: bool = False) -> str:
    """A Markdown table, after a title if there is one; `numbers` aligns all columns but the first to the right.

    >>> print(markdown(["kind", "seconds"], [["relu", 2]], "Steps"))
    Steps
    <BLANKLINE>
    | kind | seconds |
    | --- | --- |
    | relu | 2 |
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, rule, *rows)]
    return "\n".join([*([title, ""] if title else []), *lines])
