"""Preparing, opening and sampling a corpus, against plain reading of the same files.

`python -m benchmarks.ingest FASTA` prints a table and writes it as CSV. `prepare` is compared
by the processor time of whole commands, which take turns; the median counts.
"""

import argparse
import csv
import gzip
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import positive

BARE = """
import gzip, sys
from Bio.SeqIO.FastaIO import SimpleFastaParser
with gzip.open(sys.argv[1], "rt") if sys.argv[1].endswith(".gz") else open(sys.argv[1]) as file:
    for header, sequence in SimpleFastaParser(file):
        pass
"""
PEAK = """
from pathlib import Path
def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print("peak", 1024 * int(line.split()[1]))
"""
IMPORT = (
    PEAK
    + """
import protlm.cli, protlm.corpus.prepare
peak()
"""
)
COMMAND = (
    PEAK
    + """
from protlm.cli import main
main()
peak()
"""
)
COMMON = """
import sys, time
from protlm.batching.batches import ProteinBatches, Objective
from protlm.batching.samplers import EndlessBatches
from protlm.corpus.reader import Corpus
from protlm.batching.masking import Masking
"""
FIRST = (
    PEAK
    + COMMON
    + """
start = time.perf_counter()
batches = ProteinBatches(Corpus(sys.argv[1]), "train", Objective(False, Masking()), 1024, 16384, seed=1)
batches[next(iter(EndlessBatches(batches)))]
print(time.perf_counter() - start)
peak()
"""
)
READY = (
    COMMON
    + """
from torch.utils.data import DataLoader
batches = ProteinBatches(Corpus(sys.argv[1]), "train", Objective(False, Masking()), 1024, 16384, seed=1)
loader = iter(DataLoader(batches, batch_size=None, sampler=EndlessBatches(batches), num_workers=1))
batches = int(sys.argv[2])
for _ in range(batches // 20):
    next(loader)
start, tokens = time.perf_counter(), 0
for _ in range(batches):
    tokens += int(next(loader).key_mask.sum())
print(tokens / (time.perf_counter() - start))
"""
)
ACCESS = (
    COMMON
    + """
import numpy as np
corpus = Corpus(sys.argv[1])
indices = np.random.default_rng(0).integers(0, len(corpus), 1_000_000).tolist()
start = time.perf_counter()
for index in indices:
    corpus[index]
print(len(indices) / (time.perf_counter() - start))
"""
)


BATCHES = 500
"""Whose making is timed."""


@dataclass
class Run:
    """A finished process."""

    seconds: float
    processor: float
    """Seconds of processor time."""
    output: str

    @property
    def peak(self) -> int:
        """Peak memory in bytes, as the process printed it."""
        return int(self.output.split("peak ")[1])


def run(command: Sequence[str | Path], output: int | None = None) -> Run:
    """Runs a command to its end; its output is kept, or goes to a file descriptor.

    Raises:
        RuntimeError: if it fails.
    """
    with tempfile.TemporaryFile() as out:
        start, before = time.perf_counter(), os.times()
        code = subprocess.run(list(map(str, command)), stdout=out if output is None else output, stderr=out).returncode
        seconds, after = time.perf_counter() - start, os.times()
        out.seek(0)
        text = out.read().decode()
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))}: {text}")
    processor = sum(after[2:4]) - sum(before[2:4])  # of child processes
    return Run(seconds, processor, text)


def python(code: str, *arguments: str | Path) -> Run:
    """Runs Python code with arguments."""
    return run([sys.executable, "-c", code, *arguments])


def prepare(*arguments: str | Path) -> Run:
    """Runs `protlm prepare`; the corpus, always named last, is removed first."""
    Path(arguments[-1]).unlink(missing_ok=True)  # removing a large file takes time that is not the command's
    return python(COMMAND, "prepare", *arguments[:-1], "-o", arguments[-1])


def ratio(first: list[float], second: list[float]) -> float:
    """Median of the first over median of the second."""
    return statistics.median(first) / statistics.median(second)


class Table:
    """Rows of measured values and their targets, printed as they are added."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        print(f"{'measure':<62}{'measured':>22}{'target':>22}")

    def add(self, name: str, measured: str, target: str) -> None:
        self.rows.append((name, measured, target))
        print(f"{name:<62}{measured:>22}{target:>22}", flush=True)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("measure", "measured", "target"), *self.rows])


def decompress(fasta: Path, target: Path, copies: int = 1) -> None:
    """Writes the text of a FASTA file a number of times."""
    from protlm.sequence.stream import Source

    with target.open("wb") as out:
        for _ in range(copies):
            with Source(fasta) as source, source.content() as content:
                shutil.copyfileobj(content, out, 1 << 20)


def wrap(fasta: Path, target: Path, width: int = 60) -> None:
    """Writes a FASTA file with wrapped sequences, as UniProt distributes it."""
    from protlm.sequence.fasta import FastaFile

    with target.open("wb") as out:
        for chunk in FastaFile(fasta).chunks():
            for header, sequence in zip(chunk.headers, chunk.sequences, strict=True):
                lines = (sequence[start : start + width] for start in range(0, len(sequence), width))
                out.write(b"\n".join((header, *lines, b"")))


def synthesise(path: Path, proteins: int, mean: int = 30) -> None:
    """Writes random proteins with lengths that are exponentially distributed, at least one residue."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
    with path.open("wb") as out:
        for start in range(0, proteins, 100_000):
            count = min(100_000, proteins - start)
            lengths = 1 + generator.exponential(mean - 1, count).astype(int)
            residues = letters[generator.integers(20, size=lengths.sum())].tobytes()
            ends = np.cumsum(lengths).tolist()
            out.write(
                b"".join(
                    b">p%d\n%b\n" % (start + i, residues[a:b])
                    for i, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
                )
            )


def padding(corpus: Path) -> float:
    """Fraction of a batch that is padding, over an epoch of batches of 16,384 tokens and proteins of up to 1,024."""
    from protlm.batching.batches import Objective, ProteinBatches
    from protlm.batching.masking import Masking
    from protlm.corpus.reader import Corpus

    opened = Corpus(corpus)
    computed = real = 0
    for key in ProteinBatches(opened, "train", Objective(False, Masking()), 1024, 16384, seed=1).plan(0):
        lengths = np.minimum(opened.lengths_of(key[:, 1]) + 2, 1024)
        computed += int(lengths.max()) * len(lengths)
        real += int(lengths.sum())
    return 1 - real / computed


def measure(fasta: Path, clusters: Path | None, folder: Path, repeats: int, synthetic: int, table: Table) -> None:
    """Measures everything on a FASTA file, with temporary files in a folder."""
    plain, corpus = folder / "plain.fasta", folder / "corpus.h5"
    decompress(fasta, plain)
    wrapped = folder / "wrapped.fasta"
    wrap(plain, wrapped)
    for form, path in (("one line per sequence", plain), ("wrapped at 60", wrapped)):
        packed = path.with_suffix(".fasta.gz")
        with path.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as out:
            shutil.copyfileobj(source, out, 1 << 20)
        for name, file in ((form, path), (f"{form}, .gz", packed)):
            pairs = [(python(BARE, file).processor, prepare(file, corpus).processor) for _ in range(repeats + 1)]
            bare, ours = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
            table.add(f"prepare, {name}, against SimpleFastaParser", f"{ours / bare:.2f} ({ours:.2f} s)", "at most 1.8")
        packed.unlink()
    wrapped.unlink()
    table.add("random access, proteins/s", f"{float(python(ACCESS, corpus).output):,.0f}", "at least 300,000")
    ready = statistics.median(float(python(READY, corpus, str(BATCHES)).output) for _ in range(repeats))
    table.add("batches ready to train, one worker, tokens/s", f"{ready:,.0f}", "at least 3,000,000")
    table.add("padding", f"{padding(corpus):.1%}", "under 6 %")

    imported = python(IMPORT).peak
    ten = folder / "ten.fasta"
    decompress(plain, ten, 10)
    for options in ([], ["--deduplicate"], *([["--clusters", clusters]] if clusters else [])):
        small, large = (prepare(path, *options, corpus).peak - imported for path in (plain, ten))
        table.add(
            " ".join(["peak memory above import, 1x and 10x", *map(str, options[:1])]),
            f"{small / 2**20:.0f}, {large / 2**20:.0f} MiB ({large / small - 1:+.0%})",
            "400 MiB, within 10 %",
        )
    ten.unlink()
    halves = [folder / "five.fasta", folder / "other.fasta"]
    for half in halves:
        decompress(plain, half, 5)
    one, two = [], []
    for _ in range(max(2, repeats // 2)):
        one.append(prepare(*halves, corpus).seconds)
        two.append(prepare(*halves, "--workers", "2", corpus).seconds)
    table.add(
        "two workers on two files of 5x, against one worker",
        f"{ratio(one, two):.2f} ({statistics.median(two):.1f} s)",
        "at least 1.6",
    )
    for path in (*halves, plain):
        path.unlink()
    short = folder / "short.fasta"
    synthesise(short, synthetic)
    made = prepare(short, corpus)
    table.add(
        f"prepare of {synthetic:,} short proteins, above import",
        f"{made.seconds:.0f} s, {(made.peak - imported) / 2**20:.0f} MiB",
        "",
    )
    short.unlink()
    opened = python(FIRST, corpus)
    table.add("opening them to the first shuffled batch", f"{float(opened.output.split()[0]):.2f} s", "under 8 s")
    table.add("peak memory of that process", f"{opened.peak / 2**20:.0f} MiB", "under 1,536 MiB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__.splitlines()[0])
    parser.add_argument("fasta", type=Path, help="proteins, plain or compressed; the targets are for 160 M residues")
    parser.add_argument("--clusters", type=Path, help="table of their clusters, to measure memory with clusters, too")
    parser.add_argument("--repeats", type=positive, default=5, help="number of runs; the median is reported")
    parser.add_argument(
        "--synthetic", type=positive, default=50_000_000, help="number of short proteins for the last rows"
    )
    parser.add_argument("--folder", type=Path, help="for temporary files; about 25 times the plain file is needed")
    parser.add_argument("--csv", type=Path, default=Path("docs/results/ingest.csv"))
    options = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options.fasta, options.clusters, Path(folder), options.repeats, options.synthetic, table)
    table.write(options.csv)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
