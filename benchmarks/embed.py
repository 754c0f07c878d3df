"""`protlm embed` against the bare forward of the same model and against transformers' EsmModel.

`python -m benchmarks.embed compare FASTA LONG_FASTA` embeds evenly spaced proteins of FASTA, all of LONG_FASTA, and the
longest of these alone. Each measurement runs in its own process, in turns, and the median is reported: for the command,
of the whole process, including imports; for the two others, of the forward pass only. The models have random weights
and the same depth and width.

`python -m benchmarks.embed many` embeds short random proteins into each layout, a tenth of them and all.
`python -m benchmarks.embed peptides` embeds and evaluates the same peptides of 8 to 50 residues.
`python -m benchmarks.embed invariance FASTA` compares proteins computed alone and in batches.
"""

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import positive
from protlm.batching.batches import pad
from protlm.checkpoint import export, load
from protlm.embedding.in_memory import embed
from protlm.inference.engine import PRECISIONS, batches
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import MASK, PAD, STANDARD, TOKENS, encode, with_ends
from protlm.sequence.fasta import FastaFile, Record

MIB = 1 << 20
MANY_LAYOUTS = {"uniprot": ".h5", "packed": ".h5", "npz": ".npz", "csv": ".csv", "parquet": ".parquet"}
KINDS = ("protlm embed", "bare forward", "EsmModel")
ESM_HEAD = 16  # width of a head in ESM-2 of 8 M parameters


def performer(layers: int, width: int) -> Performer:
    """A Performer-ReLU with random weights, heads of 64 and 64 features."""
    torch.manual_seed(0)
    heads = max(1, width // 64)
    config = PerformerConfig(
        len(TOKENS), PAD, layers, heads, width, 4 * width, positions="rotary", num_features=64, dropout=0.0
    )
    return Performer(config).eval()


def forward_function(kind: str, model: Path, layers: int, width: int) -> Callable[[torch.Tensor], Any]:
    """A function from tokens (B, L) to representations of each residue (B, L, width)."""
    if kind == "bare forward":
        return load(model).hidden
    from transformers import EsmConfig, EsmModel

    config = EsmConfig(
        vocab_size=len(TOKENS),
        pad_token_id=PAD,
        mask_token_id=MASK,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // ESM_HEAD,
        intermediate_size=4 * width,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
        layer_norm_eps=1e-5,
        attn_implementation="sdpa",
    )
    esm = EsmModel(config, add_pooling_layer=False).eval()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        real = tokens != PAD
        return esm(tokens, attention_mask=None if bool(real.all()) else real.long()).last_hidden_state

    return forward


def forward_alone(kind: str, fasta: Path, model: Path, layers: int, width: int, token_budget: int) -> float:
    """Seconds of the forward passes over all proteins, sorted by length, in the batches of the command."""
    forward = forward_function(kind, model, layers, width)
    rows = [with_ends(encode(record.sequence)) for record in FastaFile(fasta)]
    with torch.inference_mode():
        forward(torch.from_numpy(rows[0][None, :64]).long())  # warm-up
        start = time.perf_counter()
        for batch in batches(np.array(list(map(len, rows))), token_budget):
            forward(torch.from_numpy(pad([rows[i] for i in batch], PAD)).long())
        return time.perf_counter() - start


def process(command: Sequence[str | Path]) -> tuple[float, float, str]:
    """Runs a process; returns its seconds, peak memory in bytes, and output."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {child.returncode}")
    return seconds, usage.ru_maxrss * 1024, output


def measured(kind: str, fasta: Path, folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds, and the peak memory of the process in bytes."""
    model, budget = folder / "model", str(options.token_budget)
    if kind == "protlm embed":
        output = folder / "embeddings.h5"
        output.unlink(missing_ok=True)
        seconds, peak, _ = process(
            ["-m", "protlm", "embed", fasta, "-o", output, "--model", model, "--token-budget", budget]
        )
        return seconds, peak
    sizes = ["--layers", str(options.layers), "--width", str(options.width), "--token-budget", budget]
    _, peak, output = process(["-m", "benchmarks.embed", "forward", kind, fasta, model, *sizes])
    return float(output), peak


def write_fasta(records: Sequence[Record], path: Path) -> None:
    path.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in records))


def compare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each set of proteins and each of `KINDS`."""
    every = sum(1 for _ in FastaFile(options.fasta)) // options.proteins
    some = list(itertools.islice(FastaFile(options.fasta), 0, None, max(1, every)))[: options.proteins]
    long = list(FastaFile(options.long))
    longest = max(long, key=lambda record: len(record.sequence))
    sets = {f"{len(some):,} proteins": some, f"the {len(long)} of {options.long.name}": long, longest.id: [longest]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(performer(options.layers, options.width), folder / "model")
        for name, records in sets.items():
            fasta = folder / "proteins.fasta"
            write_fasta(records, fasta)
            residues = sum(len(record.sequence) for record in records)
            runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
            repeats = options.repeats if records is some else options.repeats_long
            for _, kind in itertools.product(range(repeats), KINDS):
                runs[kind].append(measured(kind, fasta, folder, options))
            seconds = {kind: statistics.median(one[0] for one in runs[kind]) for kind in KINDS}
            for kind in KINDS:
                yield {
                    "set": name,
                    "residues": residues,
                    "longest": max(len(record.sequence) for record in records),
                    "what": kind,
                    "runs": repeats,
                    "seconds": round(seconds[kind], 2),
                    "residues/s": round(residues / seconds[kind]),
                    "peak MiB": round(max(one[1] for one in runs[kind]) / MIB),
                    "command against it": round(seconds[kind] / seconds["protlm embed"], 3),
                }


def many(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each layout and number of proteins."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(STANDARD.encode(), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(performer(1, 64), folder / "model")
        for proteins, layout in itertools.product((options.proteins // 10, options.proteins), MANY_LAYOUTS):
            fasta, output = folder / f"{proteins}.fasta", folder / f"{layout}{proteins}{MANY_LAYOUTS[layout]}"
            if not fasta.exists():
                rows = letters[generator.integers(0, len(letters), (proteins, options.length))]
                fasta.write_text("".join(f">protein{i}\n{row.tobytes().decode()}\n" for i, row in enumerate(rows)))
            chosen = ["--layout", layout] if layout in ("uniprot", "packed") else ["--format", layout]
            seconds, peak, _ = process(
                ["-m", "protlm", "embed", fasta, "-o", output, *chosen, "--model", folder / "model"]
            )
            yield {
                "layout": layout,
                "proteins": proteins,
                "residues of each": options.length,
                "seconds": round(seconds, 1),
                "peak MiB": round(peak / MIB),
                "file MiB": round(output.stat().st_size / MIB, 1),
            }


def peptides(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for embedding and one for evaluating, with the seconds of the whole commands, in turns."""
    generator, letters = np.random.default_rng(0), np.frombuffer(STANDARD.encode(), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fasta, corpus, model = folder / "peptides.fasta", folder / "peptides.h5", folder / "model"
        export(performer(options.layers, options.width), model)
        lengths = generator.integers(8, 51, options.proteins)
        rows = (letters[generator.integers(0, 20, length)].tobytes().decode() for length in lengths)
        fasta.write_text("".join(f">peptide{i}\n{row}\n" for i, row in enumerate(rows)))
        process(["-m", "protlm", "prepare", fasta, "-o", corpus])
        commands = {
            "embed": ["embed", fasta, "-o", folder / "embeddings.h5", "--layout", "packed"],
            "evaluate": ["evaluate", corpus, *(f"--split={split}" for split in ("train", "valid", "test"))],
        }
        for command, arguments in commands.items():
            seconds, peak, _ = process(["-m", "protlm", *arguments, "--model", model])
            sizes = {"layers": options.layers, "width": options.width, "peptides": options.proteins}
            yield {"command": command, **sizes, "seconds": round(seconds, 1), "peak MiB": round(peak / MIB)}


def invariance(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row per precision, threads and order: the largest difference between proteins alone and in batches."""
    every = max(1, sum(1 for _ in FastaFile(options.fasta)) // options.proteins)
    records = itertools.islice(FastaFile(options.fasta), 0, None, every)
    sequences = [record.sequence for record in records][: options.proteins]
    model, threads = performer(options.layers, options.width), torch.get_num_threads()
    orders = {
        "as they come": np.arange(len(sequences)),
        "shuffled": np.random.default_rng(0).permutation(len(sequences)),
    }
    for precision in PRECISIONS:
        torch.set_num_threads(1)
        alone = [next(embed(model, [sequence], precision=precision)) for sequence in sequences]
        sizes = np.concatenate([np.abs(row).ravel() for row in alone])
        for count, (order, places) in itertools.product((1, 2), orders.items()):
            torch.set_num_threads(count)
            together = embed(model, [sequences[i] for i in places], options.token_budget, precision=precision)
            differences = [np.abs(row - alone[i]).max() for i, row in zip(places, together, strict=True)]
            yield {
                "precision": precision,
                "threads": count,
                "order": order,
                "proteins": len(sequences),
                "largest difference": float(f"{max(differences):.2g}"),
                "root mean square of values": float(f"{np.sqrt((sizes**2).mean()):.3g}"),
            }
    torch.set_num_threads(threads)


def print_and_write(rows: Iterator[dict[str, Any]], path: Path) -> None:
    """Prints each row as it is measured, and writes all of them as CSV."""
    kept = []
    for row in rows:
        kept.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, kept[0])
            writer.writeheader()
            writer.writerows(kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("compare", help="residues/s and memory, compared with the bare forward pass and EsmModel")
    part.add_argument("fasta", type=Path, help="proteins of ordinary length, such as Swiss-Prot")
    part.add_argument("long", type=Path, help="long proteins")
    part.add_argument("--proteins", type=positive, default=2000, help="number to take from the first file")
    part.add_argument("--repeats", type=positive, default=3)
    part.add_argument("--repeats-long", type=positive, default=1)
    part = parts.add_parser("many", help="time, memory and file size for many short proteins")
    part.add_argument("--proteins", type=positive, default=100_000)
    part.add_argument("--length", type=positive, default=30)
    part = parts.add_parser("peptides", help="embedding and evaluating the same peptides")
    part.add_argument("--proteins", type=positive, default=100_000)
    part = parts.add_parser("invariance", help="proteins alone and in batches")
    part.add_argument("fasta", type=Path)
    part.add_argument("--proteins", type=positive, default=200)
    part = parts.add_parser("forward", help="one forward pass in its own process; used by compare")
    part.add_argument("kind", choices=KINDS[1:])
    part.add_argument("fasta", type=Path)
    part.add_argument("model", type=Path)
    for name, part in parts.choices.items():
        if name != "many":
            part.add_argument("--layers", type=positive, default=6)
            part.add_argument("--width", type=positive, default=320)
            part.add_argument("--token-budget", type=positive, default=16_384)
        if name != "forward":
            part.add_argument("--csv", type=Path, default=Path(f"docs/results/embed_{name}.csv"))
    options = parser.parse_args()
    if options.part == "forward":
        print(
            forward_alone(*(getattr(options, n) for n in ("kind", "fasta", "model", "layers", "width", "token_budget")))
        )
    else:
        rows = {"compare": compare, "many": many, "peptides": peptides, "invariance": invariance}[options.part](options)
        print_and_write(rows, options.csv)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
