"""Embeds in child processes that kill themselves: `python killed.py MODEL FASTA FOLDER KILLS`.

A moment is a call during which a kill could do harm: to the disk, to HDF5, or to the progress, which is reported while
a window is half written. For each layout the script prints one line: the layout and what each child died at, in order;
"done" is a child that finished, after which its outputs get a number.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from protlm.checkpoint import load
from protlm.embedding import hdf5, layouts, survey
from protlm.embedding.proteome import EmbedOptions, embed_fasta

survey.WINDOW_TOKENS = 1_000
os.sync = lambda: None  # would wait for the writes of all processes
CALLS = ((os, "replace", 1), (os, "fsync", 1), (shutil, "rmtree", 1), (hdf5.h5d, "create", 15), (torch, "save", 15))
"""Module, function, and how many of its calls make a moment."""


def run(moment: int, report: int, arguments: list[Any]) -> None:
    """In a child: dies at the moment of that number, counted from 1; reports its kind, or the number of moments."""
    seen = 0

    def pass_or_die(kind: str) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.write(report, kind.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def make_deadly(module: Any, name: str, every: int) -> None:
        real: Callable[..., Any] = getattr(module, name)
        calls = 0

        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % every == 0:
                pass_or_die(name)
            return real(*given, **named)

        setattr(module, name, call)

    for each in CALLS:
        make_deadly(*each)
    model, fasta, outputs, layout = arguments

    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            pass_or_die("progress")

    embed_fasta(model, fasta, *outputs, EmbedOptions(layout=layout), 300, progress=progress, reading=progress)
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
        return pipe.read().decode() or "failed"


def main() -> None:
    model, fasta, folder, kills = load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    for layout in layouts.LAYOUTS:
        chance = random.Random(1)
        whole, killed = (
            [folder / f"{layout}-{n}-{kind}" for kind in ("proteins", "residues")] for n in ("whole", "killed")
        )
        moments = int(child(0, [model, fasta, whole, layout]).split()[1])
        deaths: list[str] = []
        while len(deaths) - deaths.count("done") < kills or deaths[-1] != "done":
            enough = len(deaths) - deaths.count("done") >= kills
            moment = 0 if enough else chance.randint(1, moments // 2)
            deaths.append(child(moment, [model, fasta, killed, layout]).split()[0])
            if deaths[-1] == "failed":
                break
            if deaths[-1] == "done":
                for path in killed:
                    for each in (path, path.with_name(f"{path.name}.json")):  # the second one is of a CSV table
                        if each.exists():
                            each.rename(f"{path}-{deaths.count('done')}{each.name[len(path.name) :]}")
        print(layout, *deaths, flush=True)


if __name__ == "__main__":
    main()
