"""CSV files of measurements."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from protlm.errors import UserError
from protlm.plots.positions import check_picture

METRICS = ("accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity")
"""Of a split, in results.json and along.json."""
DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError)
"""What reading a file of something else raises."""


def check_outputs(*files: Path, picture: Path | None = None) -> None:
    """Makes sure, before anything is computed, that files can be written; makes their folders.

    Args:
        files: of any kind.
        picture: one more file, of a kind that can be drawn.

    Raises:
        UserError: if one cannot.
    """
    if picture is not None:
        check_picture(picture)
    for path in (*files, *([picture] if picture else [])):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.open("ab").close()
            else:
                TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def whole(value: float) -> int | str:
    """For a cell: a whole number, or nothing for one that is not known (nan)."""
    return int(value) if math.isfinite(value) else ""


def read_json(path: Path) -> Any:
    """A file that a benchmark has written.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the sub-command that trains again") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it, and train again") from error


def write_csv(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Writes a line for each row as it comes, so that a run that is cut leaves what it has."""
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
