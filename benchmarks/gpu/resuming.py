"""Whether a run that is stopped and resumed has the same weights as an uninterrupted one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.figures import Row, attempt, check, row
from protlm.errors import UserError

KINDS = ("relu", "softmax")
ROOT = Path(__file__).parents[2]


def resume() -> Iterator[Row]:
    """How many tensors of a run that was stopped and resumed differ, in any bit, from an uninterrupted one's."""
    failed: list[str] = []
    with ThreadPoolExecutor() as pool:
        for kind, future in [(kind, pool.submit(resumed, kind)) for kind in KINDS]:
            with attempt(kind, failed):
                yield row("resume", kind, "tensors that differ", future.result(), "", 0)
    check(failed)


def resumed(kind: str) -> int:
    """Trains the demo for 40 steps, and for 20 and then 20 more: the number of tensors that differ."""
    with TemporaryDirectory() as folder:
        corpus = f"{folder}/families.h5"
        tables = ["--clusters", "data/families.clusters.tsv", "--split-by", "sequence", "--ood"]
        tables += ["data/families.ood.txt"]
        python("protlm", "prepare", "data/families.fasta.gz", *tables, "-o", corpus)
        states = []
        for name, steps in (("whole", (40,)), ("resumed", (20, 40))):
            for count in steps:
                options = [f"data.corpus={corpus}", f"trainer.max_steps={count}", f"hydra.run.dir={folder}/{name}"]
                options += [f"model/attention={kind}", "trainer.limit_test_batches=2", "ckpt_path=auto"]
                python("protlm.train", "+experiment=demo", *options)
            path = f"{folder}/{name}/checkpoints/last.ckpt"
            states.append(torch.load(path, map_location="cpu", weights_only=False)["state_dict"])
        return sum(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def python(module: str, *arguments: str) -> None:
    """Runs a module of protlm in the checkout; raises UserError with the last line that it prints if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{module}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
