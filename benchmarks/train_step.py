"""Training steps: the whole program against a bare loop, whole models against length, and memory of the paper's model.

    python -m benchmarks.train_step throughput data/swissprot.h5
    python -m benchmarks.train_step length
    python -m benchmarks.train_step memory
    python -m benchmarks.train_step figure

throughput: `python -m protlm.train` with the callbacks, loggers, progress bar and workers of an experiment, without
validation, stops now and then for a bare loop (forward, loss, backward, clipping, step, zero_grad) of a copy of the
model on the very batches that it has just trained on, kept in memory. So both have the same process, threads and
batches, and a noisy moment meets both. Tokens are counted without padding.

length: one step (forward, backward, AdamW) of a model with the sizes of conf/model/trembl.yaml but few layers, the same
number of tokens at each length, the kinds of attention taking turns.

memory: the peak of one step of the paper's model at batch 1, above what the process holds when all is imported; so
weights, gradients and the state of AdamW count as well as activations. A case that needs more than --limit says
"out of memory".

figure: forward, backward and memory of all kinds of attention against length, and the largest length in a given memory;
see lengths.py.
"""

import argparse
import copy
import csv
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from benchmarks.measure import medians, peak_bytes, positive, program
from protlm.performer import Performer, PerformerConfig
from protlm.performer.kind import Kind
from protlm.sequence.alphabet import EOS, PAD, TOKENS
from protlm.sequence.batching import Batch
from protlm.sequence.masking import IGNORE
from protlm.training.memory import return_freed_memory
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask

EXPERIMENTS = [
    "trembl_small",
    "trembl_softmax_small",
    "trembl_unidirectional_small",
    "trembl_transformer_small",
    "trembl_concat_small",
]
LENGTHS = [512, 1024, 2048, 4096, 8192]
MEMORY_LENGTHS = [1024, 4096, 8192, 16384]
ATTENTION = ["relu", "softmax", "exact", "opt"]
DIRECTIONS = {"bidirectional": False, "causal": True}
GIB = 2**30
RESERVE = 2 * GIB  # that a case of `memory` leaves to others


class BareLoop(Callback):
    """Stops training every so many steps to do the same steps in a bare loop; writes the seconds of both.

    Args:
        path: of the JSON file, written behind the last repeat.
        steps: between two stops.
        repeats: stops.
        warmup: steps of both before the clock starts.
        optimizer: makes one from the model, as that of the task.
    """

    def __init__(
        self, path: str, steps: int, repeats: int, warmup: int, optimizer: Callable[[Performer], Optimizer]
    ) -> None:
        self.path, self.steps, self.repeats, self.warmup = Path(path), steps, repeats, warmup
        self._optimizer = optimizer
        self._batches: list[Batch] = []
        self._rows: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        self._model = copy.deepcopy(pl_module.model).train()
        self._step = bare_step(self._model, self._optimizer(self._model), trainer.gradient_clip_val)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step - self.warmup
        if done >= 0 and done % self.steps == 0:
            trained, bare = time.perf_counter() - self._start, self._bare()
            if done:  # else both were warmed up
                tokens = sum(int(batch.key_mask.sum()) for batch in self._batches)
                self._rows.append({"steps": len(self._batches), "tokens": tokens, "trained": trained, "bare": bare})
                self.path.write_text(json.dumps(self._rows))
            self._batches = []
            self._start = time.perf_counter()
        self._batches.append(batch)

    def _bare(self) -> float:
        with torch.random.fork_rng():
            start = time.perf_counter()
            for batch in self._batches:
                self._step(batch)
            return time.perf_counter() - start


def bare_step(model: Performer, optimizer: Optimizer, clip: float | None = 0.5) -> Callable[[Batch], None]:
    """A training step and nothing else."""

    def step(batch: Batch) -> None:
        model.loss(model(batch.inputs, batch.key_mask, batch.segments), batch.targets).backward()
        if clip:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_throughput(
    experiments: Iterable[str], corpus: Path, steps: int, repeats: int, warmup: int, overrides: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each experiment, printed as they come."""
    print("training with everything, and a bare loop on the same batches")
    print(
        f"{'':<36}{'steps/s':>10}{'bare':>8}{'tokens/s':>11}{'bare':>9}{'of bare':>9}{'lowest':>9}{'highest':>9}",
        flush=True,
    )
    for experiment in experiments:
        with tempfile.TemporaryDirectory() as folder:
            rows = train(experiment, corpus, Path(folder), steps, repeats, warmup, overrides)
        shares = [row["bare"] / row["trained"] for row in rows]
        found: dict[str, Any] = {"experiment": experiment}
        for unit in ("steps", "tokens"):
            for name in ("trained", "bare"):
                found[f"{name}_{unit}_per_second"] = statistics.median(row[unit] / row[name] for row in rows)
        found |= {"share": statistics.median(shares), "lowest_share": min(shares), "highest_share": max(shares)}
        rates = [found[f"{name}_steps_per_second"] for name in ("trained", "bare")]
        tokens = [found[f"{name}_tokens_per_second"] for name in ("trained", "bare")]
        print(
            f"{experiment:<36}{rates[0]:>10.2f}{rates[1]:>8.2f}{tokens[0]:>11,.0f}{tokens[1]:>9,.0f}"
            f"{found['share']:>9.1%}{min(shares):>9.1%}{max(shares):>9.1%}",
            flush=True,
        )
        yield found


def train(
    experiment: str, corpus: Path, folder: Path, steps: int, repeats: int, warmup: int, overrides: Sequence[str]
) -> list[dict[str, float]]:
    """Runs `python -m protlm.train` with a `BareLoop`; returns what that has written.

    Raises:
        RuntimeError: if the program fails.
    """
    result = folder / "seconds.json"
    options = f"path:'{result}',steps:{steps},repeats:{repeats},warmup:{warmup},optimizer:${{optimizer}}"
    arguments = [
        f"+experiment={experiment}",
        f"+callbacks.bare={{_target_:benchmarks.train_step.BareLoop,{options}}}",
        f"trainer.max_steps={warmup + steps * repeats + 1}",  # the last batch is there to stop at
        "trainer.val_check_interval=1000000",
        "trainer.max_time=10:00:00:00",
        "trainer.limit_test_batches=1",
    ]
    run_protlm([*arguments, *overrides], corpus, folder)
    return json.loads(result.read_text())


def run_protlm(overrides: Sequence[str], corpus: Path, folder: Path) -> None:
    """`python -m protlm.train` in a process of its own, whose progress bar takes its output for a terminal.

    Raises:
        RuntimeError: if it fails, with what it wrote to stderr.
    """
    command = [sys.executable, "-m", "protlm.train", *overrides]
    command += [f"data.corpus='{corpus.resolve()}'", f"hydra.run.dir='{folder}'"]
    environment = {**os.environ, "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm"}
    root = Path(__file__).parents[1]  # from where `benchmarks` can be imported
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Sizes:
    """Of the model, by default that of conf/model/trembl.yaml."""

    layers: int = 36
    width: int = 512
    heads: int = 8
    feed_forward: int = 1024
    features: int = 256

    def build(self, attention: str | Kind, causal: bool, max_length: int) -> Performer:
        """With random weights and the paper's dropout."""
        torch.manual_seed(0)
        config = PerformerConfig(
            len(TOKENS),
            PAD,
            self.layers,
            self.heads,
            self.width,
            self.feed_forward,
            attention=attention,
            causal=causal,
            max_length=max_length,
            num_features=self.features,
            dropout=0.1,
        )
        return Performer(config).train()


def random_batch(count: int, length: int) -> Batch:
    """Residues without padding, one in seven to be predicted."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(EOS + 1, len(TOKENS), (count, length), generator=generator)
    scored = torch.rand(count, length, generator=generator) < 0.15
    return Batch(inputs, inputs.masked_fill(~scored, IGNORE), scored, torch.ones_like(scored))


def measure_length(
    lengths: Iterable[int], sizes: Sizes, tokens: int, repeats: int, directions: Iterable[str], kinds: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row for each direction, length and kind of attention, printed as they come."""
    shape = f"{sizes.layers} layers of width {sizes.width}, feed-forward {sizes.feed_forward}"
    for direction in directions:
        print(f"\n{direction}, {shape}, {tokens:,} tokens a step: milliseconds (tokens/s, ratio to OPT, to exact)")
        print(" " * 7 + "".join(f"{kind:>30}" for kind in kinds), flush=True)
        for length in lengths:
            batch = random_batch(max(1, tokens // length), length)
            runs = {}
            for kind in kinds:
                model = sizes.build(kind, DIRECTIONS[direction], length)
                runs[kind] = partial(bare_step(model, adamw(model)), batch)
            times = medians(runs, repeats)
            rows = []
            for kind in kinds:
                row = {"direction": direction, "length": length, "attention": kind, "batch": len(batch.inputs)}
                row |= {"seconds": times[kind], "tokens_per_second": batch.inputs.numel() / times[kind]}
                row |= {f"to_{other}": times[kind] / times.get(other, math.nan) for other in ("opt", "exact")}
                rows.append(row)
            cells = (
                f"{r['seconds'] * 1e3:.0f} ({r['tokens_per_second']:,.0f}, {r['to_opt']:.2f}, {r['to_exact']:.2f})"
                for r in rows
            )
            print(f"{length:>7}" + "".join(f"{cell:>30}" for cell in cells), flush=True)
            yield from rows


@dataclass(frozen=True)
class MemoryCase:
    """One figure of `memory`."""

    attention: str | Kind
    direction: str
    checkpointing: bool
    length: int


def step_memory(case: MemoryCase, sizes: Sizes, threads: int, limit: int) -> tuple[int, float] | None:
    """Peak bytes of everything and seconds of one step, measured in this process; None if they do not fit."""
    torch.set_num_threads(threads)
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory ends in spite of the limit, this process goes first
    seconds = 0.0

    def full_step(sizes: Sizes, length: int) -> None:
        nonlocal seconds
        model = sizes.build(case.attention, DIRECTIONS[case.direction], length)
        model.activation_checkpointing = case.checkpointing
        if case.checkpointing:
            return_freed_memory()  # as LanguageModelTask does
        step = bare_step(model, adamw(model))
        step(random_batch(1, min(length, 32)))  # now the optimizer has its state, as it has during every later step
        start = time.perf_counter()
        step(random_batch(1, length))
        seconds = time.perf_counter() - start

    full_step(Sizes(1, 16, 2, 16, 8), 32)  # libraries load
    most = kibibytes("/proc/self/status", "VmData") * 1024 + limit
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # more is refused, so that the machine does not run out
    try:
        return peak_bytes(lambda: full_step(sizes, case.length)), seconds
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "memory" in str(error):
            return None
        raise


def measure_memory(
    lengths: Iterable[int], sizes: Sizes, kinds: Iterable[str], directions: Iterable[str], limit: int
) -> Iterator[dict[str, Any]]:
    """A row for each case, printed as they come."""
    context = multiprocessing.get_context("spawn")
    name = f"batch 1, {sizes.layers} layers of width {sizes.width}: GiB at the peak of a step, and seconds"
    print(f"{name}\n{'':<30}{'length':>8}{'all kept':>20}{'checkpointing':>20}", flush=True)
    for kind in kinds:
        for direction in directions:
            for length in lengths:
                print(f"{kind + ', ' + direction:<30}{length:>8}", end="", flush=True)
                for checkpointing in (False, True):
                    case = MemoryCase(kind, direction, checkpointing, length)
                    try:
                        with ProcessPoolExecutor(1, context) as pool:
                            found = pool.submit(step_memory, case, sizes, torch.get_num_threads(), limit).result()
                    except BrokenProcessPool:  # killed
                        found = None
                    cell = f"{found[0] / GIB:.2f} ({found[1]:.1f} s)" if found else "out of memory"
                    print(f"{cell:>20}", end="\n" if checkpointing else "", flush=True)
                    peak, seconds = found or ("", "")
                    yield {**asdict(case), "layers": sizes.layers, "peak_bytes": peak, "seconds": seconds}


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


def kibibytes(path: str, field: str) -> int:
    """A figure of a file in /proc (Linux)."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def add_sizes(parser: argparse.ArgumentParser, layers: int) -> None:
    parser.add_argument("--layers", type=positive, default=layers)
    for name in ("width", "heads", "feed_forward", "features"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, default=getattr(Sizes, name))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS)


def main() -> None:
    from benchmarks import lengths  # which imports this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)

    part = parts.add_parser("throughput", help="`python -m protlm.train` against a bare loop")
    part.add_argument("corpus", type=Path, help="made by `protlm prepare`")
    part.add_argument("--experiments", nargs="+", default=EXPERIMENTS, metavar="NAME", help="of conf/experiment")
    part.add_argument("--steps", type=positive, default=50, help="of the program, then of the bare loop, and so on")
    part.add_argument("--repeats", type=positive, default=9, help="turns of which the median is taken")
    part.add_argument("--warmup", type=positive, default=20, help="steps before the first turn")
    part.add_argument("--overrides", nargs="+", default=[], help="more options of protlm.train, such as data.workers=1")

    part = parts.add_parser("length", help="one step of a whole model against length")
    part.add_argument("--lengths", type=positive, nargs="+", default=LENGTHS)
    part.add_argument("--tokens", type=positive, default=8192, help="of a step, at any length")
    part.add_argument("--repeats", type=positive, default=3, help="runs of which the median is taken, after one more")
    part.add_argument("--attention", nargs="+", default=ATTENTION, metavar="KIND")
    add_sizes(part, layers=2)
    part.set_defaults(directions=list(DIRECTIONS))

    part = parts.add_parser("memory", help="of one step of the paper's model, with and without checkpointing")
    part.add_argument("--lengths", type=positive, nargs="+", default=MEMORY_LENGTHS)
    part.add_argument("--attention", nargs="+", default=["relu"], metavar="KIND", help="relu, softmax, exact, ...")
    part.add_argument("--limit", type=float, metavar="GIB", help="of a case; by default all but 2 of those free")
    add_sizes(part, layers=Sizes.layers)
    part.set_defaults(directions=["bidirectional"])

    part = parts.add_parser("figure", help="speed, memory and largest length of all kinds of attention")
    lengths.add_options(part)
    add_sizes(part, layers=3)
    part.set_defaults(directions=list(DIRECTIONS), feed_forward=2048)

    for part in parts.choices.values():
        part.add_argument("--csv", type=Path, help="by default docs/results/train_PART.csv")
    options = parser.parse_args()
    path = options.csv or Path("docs/results") / f"train_{options.part}.csv"
    if options.part == "throughput":
        write_csv(
            measure_throughput(
                options.experiments, options.corpus, options.steps, options.repeats, options.warmup, options.overrides
            ),
            path,
        )
        return
    if options.part == "figure":
        lengths.measure(options, path)
        return
    sizes = Sizes(options.layers, options.width, options.heads, options.feed_forward, options.features)
    if options.part == "length":
        write_csv(
            measure_length(
                options.lengths, sizes, options.tokens, options.repeats, options.directions, options.attention
            ),
            path,
        )
    else:
        free = kibibytes("/proc/meminfo", "MemAvailable") * 1024 - RESERVE
        limit = int(options.limit * GIB) if options.limit else free
        write_csv(measure_memory(options.lengths, sizes, options.attention, options.directions, limit), path)


if __name__ == "__main__":
    program(main)
