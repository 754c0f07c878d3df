"""Attention and the 36-layer model on a CUDA device, against what PyTorch offers; under ten minutes, without a network.

    python -m benchmarks.gpu                       # all parts
    python -m benchmarks.gpu attention model       # some of them

Parts: correctness (kernels against float64), invariance (a protein alone, packed, padded, and among others in another
order), attention (against scaled_dot_product_attention's flash kernels, FlexAttention, PyTorch operations and, if
installed, performer-pytorch and flash-linear-attention), model (training steps of the 36-layer model), packing (the
same on proteins, padded and packed), embedding (residues per second), resume (through `python -m protlm.train`) and
generation. Times are medians of events on the device. Each row of the CSV names card, driver and versions.

Each part runs in a process of its own, within its share of the time and what earlier parts left of theirs. A part that
fails keeps its rows and does not end the others. In the CSV, a part replaces its own earlier rows only. The exit code
is 1 if a part failed or a figure is above its limit.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

import protlm
from benchmarks.gpu.correctness import correctness, invariance
from benchmarks.gpu.device import DEVICE
from benchmarks.gpu.figures import Row, beyond, merged, table
from benchmarks.gpu.operator import attention
from benchmarks.gpu.processes import PartError, items_of
from benchmarks.gpu.resuming import resume
from benchmarks.gpu.whole_model import embedding, generation, model, packing
from benchmarks.measure import program
from benchmarks.tables import check_outputs, read_rows, replace_csv
from protlm.errors import UserError

LIMIT = 570.0
"""Seconds for all parts together."""
WRITTEN_EVERY = 5.0
"""Seconds between two versions of the CSV file."""


class Part(NamedTuple):
    """What yields the rows, and its share of the time."""

    run: Callable[[], Iterator[Row]]
    share: float


PARTS = {
    "correctness": Part(correctness, 110),
    "invariance": Part(invariance, 30),
    "attention": Part(attention, 150),
    "model": Part(model, 100),
    "packing": Part(packing, 20),
    "embedding": Part(embedding, 50),
    "resume": Part(resume, 70),
    "generation": Part(generation, 40),
}


def environment() -> Row:
    """Card, driver and versions."""
    names = {"protlm": protlm.__version__}
    for name in ("torch", "triton"):
        try:
            names[name] = version(name)
        except PackageNotFoundError:
            names[name] = ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = ""
    return {"card": torch.cuda.get_device_name(DEVICE), "driver": driver, **names, "date": date.today().isoformat()}


def measure(parts: dict[str, Part], output: Path, where: Row, limit: float) -> tuple[list[Row], list[str]]:
    """Runs parts and writes their rows.

    Args:
        parts: by name.
        output: the CSV file.
        where: columns of each row: card, driver, versions, date.
        limit: seconds for all parts together.

    Returns:
        The rows, and a line for each part that failed and each figure above its limit.
    """
    old, rows, failed, complete = read_rows(output), [], [], set()
    scale, until, written = limit / sum(part.share for part in parts.values()), time.monotonic(), time.monotonic()
    for name, part in parts.items():
        begin, until = time.monotonic(), until + scale * part.share
        try:
            for one in items_of(part.run, until):
                rows.append(one | where)
                if time.monotonic() > written + WRITTEN_EVERY:
                    replace_csv(merged(old, rows, complete), output)
                    written = time.monotonic()
            complete.add(name)
        except PartError as error:
            failed.append(f"{name}: {error}")
        finally:
            if rows:
                replace_csv(merged(old, rows, complete), output)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return rows, failed + beyond(rows)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"which of: {', '.join(PARTS)}; default: all")
    parser.add_argument("--output", type=Path, default=Path("docs/results/gpu.csv"), help="CSV file to write")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        raise UserError(f"part {unknown[0]!r}: expected one of {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise UserError("no CUDA device was found; this benchmark needs one")
    check_outputs(arguments.output)
    chosen = {name: PARTS[name] for name in arguments.parts or PARTS}
    rows, failed = measure(chosen, arguments.output, environment(), LIMIT)
    print(table(rows))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    program(main)
