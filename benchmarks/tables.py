"""CSV files of measurements."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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
