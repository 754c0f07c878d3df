"""Whether the code in one checkout is slower on the CPU than that in another.

    git worktree add ../before COMMIT
    python -m benchmarks.versions ../before .      # five minutes

Both run in a process of their own, with the same interpreter and libraries, and take turns call by call. On a machine
whose speed varies by a third from minute to minute, medians of separate runs say nothing about 5 %; the median ratio of
neighbouring calls does. Attention has B=1, H=8, d=64, M=256, and float32. Each case is printed as soon as it is timed;
the CSV file is written at the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch

from benchmarks.generate import Case, tokens_after
from benchmarks.measure import PASSES, amount, positive, program, seconds
from benchmarks.models import Sizes, bare_step, random_batch
from benchmarks.tables import check_outputs, markdown, replace_csv
from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.performer import FavorAttention
from protlm.training.optimizer import muon

KINDS = ("softmax", "relu")
PLACES = ("bidirectional 1024", "bidirectional 8192", "causal 4096")
CASES = [
    *(f"attention {kind} {place} {part}" for kind in KINDS for place in PLACES for part in PASSES),
    *(f"training step {kind}" for kind in KINDS),
    "embed 40 proteins",
    "embed 5,000 residues",
    "generate 20 tokens",
]
FEWEST, MOST = 9, 61  # turns


def call_of(case: str) -> Callable[[], None]:
    """What is timed, in the process of a checkout."""
    kind, *words = case.split()
    if kind == "attention":
        kernel, direction, length, part = words
        attention = FavorAttention(64, 256, kernel=kernel, causal=direction == "causal", seed=0)
        generator = torch.Generator().manual_seed(0)
        return PASSES[part](attention, [torch.randn(1, 8, int(length), 64, generator=generator) for _ in range(3)])
    if kind == "training":
        model = Sizes(4, 128, 4, 512, 64).build(words[1], causal=False, max_length=512)
        step, batch = bare_step(model, muon(model)), random_batch(8, 512)
        return lambda: step(batch)
    if kind == "generate":
        example = Case("softmax", 1000)
        return tokens_after(example, example.model(), 20)
    model = Sizes(6, 320, 8, 1280).build("relu", causal=False, max_length=5000).eval()
    letters = "MAKTGLSEVRDNPIQFYWHC" * 250
    sequences = [letters] if words[1] == "residues" else [letters[: 100 + 10 * i] for i in range(40)]

    def embedding() -> None:
        for _ in embed(model, sequences, pool="mean"):
            pass

    return embedding


def serve() -> None:
    """Times one call for each line that arrives; a line with a case chooses what."""
    call = None
    for line in sys.stdin:
        call = call_of(line.strip()) if call is None or line.strip() else call
        print(seconds(call), flush=True)


class Version:
    """The process of one checkout.

    Args:
        checkout: its folder.
        threads: of PyTorch.

    Raises:
        UserError: if it is not a checkout of protlm.
    """

    def __init__(self, checkout: Path, threads: int) -> None:
        if not (checkout / "protlm" / "performer").is_dir() or not (checkout / "benchmarks").is_dir():
            raise UserError(f"{checkout}: expected a checkout of protlm, such as one made by git worktree add")
        self.checkout = checkout
        own = {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-P", __file__, "--serve"]
        pipe = subprocess.PIPE
        # a session of its own, so that Ctrl-C ends only the process that asks, which ends this one
        self._process = subprocess.Popen(
            command, env={**os.environ, **own}, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self, case: str = "") -> float:
        """Of one call; the first call of a case names it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(case, file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())
        except (ValueError, BrokenPipeError):
            raise UserError(f"{self.checkout}: its code cannot compute this case; the error is above") from None


class Row(NamedTuple):
    """Median milliseconds of both, and the median of the ratios of neighbouring calls."""

    case: str
    turns: int
    before_ms: float
    after_ms: float
    ratio: float


def compare(before: Version, after: Version, case: str, budget: float) -> Row:
    """Times calls of one case until the budget, in seconds, is spent, but at least `FEWEST`."""
    both = (before, after)
    for version in both:
        version.seconds(case)
    once = sum(version.seconds() for version in both)
    turns = min(MOST, max(FEWEST, int(budget / once)))
    times = [{version: version.seconds() for version in both[:: 1 if turn % 2 else -1]} for turn in range(turns)]
    old, new = ([1000 * turn[version] for turn in times] for version in both)
    ratio = statistics.median(y / x for x, y in zip(old, new, strict=True))
    return Row(case, turns, statistics.median(old), statistics.median(new), ratio)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--budget", type=amount, default=15.0, help="seconds for each case")
    parser.add_argument("--only", default="", help="cases with this text, such as 'causal'")
    parser.add_argument("--csv", type=Path, default=Path("docs/results/versions.csv"))
    options = parser.parse_args(given)
    cases = [case for case in CASES if options.only in case]
    if not cases:
        raise UserError(f"--only {options.only}: expected a part of one of: {'; '.join(CASES)}")
    check_outputs(options.csv)
    with Version(options.before, options.threads) as before, Version(options.after, options.threads) as after:
        rows = []
        for case in cases:
            rows.append(compare(before, after, case, options.budget))
            print(f"{case}: {rows[-1].ratio:.3f}", flush=True)
    replace_csv([row._asdict() for row in rows], options.csv)
    cells = [[str(x) if isinstance(x, str | int) else f"{x:.3f}" for x in row] for row in rows]
    print(markdown(Row._fields, cells))


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else program(main)
