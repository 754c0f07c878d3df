"""Embeds in child processes that kill themselves: `python killed.py MODEL FASTA FOLDER LAYOUT KILLS`.

A moment is a call that a kill could hit: of the disk, of HDF5, or of the progress. At a write half of the bytes are
written. Prints a line for each child: the kind of moment it died at, or "done", behind which the outputs get a number.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - here, so that not every child waits for it

from protlm.checkpoint import load
from protlm.embedding import layouts, survey
from protlm.embedding.proteome import embed_fasta
from protlm.embedding.provenance import EmbedOptions

survey.WINDOW = 3_000


def run(moment: int, report: int, arguments: list[Any]) -> None:
    """In a child: dies at the moment of that number, counted from 1; tells the kind, or how many there were."""
    seen = 0

    def passes(kind: str) -> bool:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.write(report, kind.encode())
        return seen != moment

    def deadly(module: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        calls = 0

        def call(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if (name != "create_simple" or calls % 40 == 0) and not passes(name):
                if name == "pwrite":
                    real(given[0], bytes(given[1])[: len(given[1]) // 2], given[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)

        setattr(module, name, call)

    for module, name in ((os, "pwrite"), (os, "replace"), (os, "fsync"), (layouts.h5s, "create_simple")):
        deadly(module, name)
    model, fasta, outputs, layout = arguments

    def progress(done: int, total: int) -> None:
        if not passes("progress"):
            os.kill(os.getpid(), signal.SIGKILL)

    embed_fasta(model, fasta, *outputs, EmbedOptions(layout=layout), 1_000, progress=progress, reading=progress)
    os.write(report, f"done {seen}".encode())


def child(moment: int, arguments: list[Any]) -> str:
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            run(moment, writing, arguments)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def main() -> None:
    folder, layout, kills = Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    model, fasta = load(sys.argv[1]), Path(sys.argv[2])
    whole, killed = ([folder / f"{name}-{kind}" for kind in ("proteins", "residues")] for name in ("whole", "killed"))
    moments = int(child(0, [model, fasta, whole, layout]).split()[1])
    chance, finished = random.Random(layout), 0
    said = [""]
    while kills or said[0] != "done":
        moment = chance.randint(1, moments // 5) if kills else 0
        said = child(moment, [model, fasta, killed, layout]).split() or ["failed"]
        print(said[0], flush=True)
        if said[0] == "done":
            finished += 1
            for path in killed:
                path.rename(f"{path}-{finished}")
        elif said[0] == "failed":
            return
        else:
            kills -= 1


if __name__ == "__main__":
    main()
