"""What all commands share: options, the model, messages and progress on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="A model folder or a training checkpoint (.ckpt). Default: the model that comes with protlm.",
    ),
]
Budget = Annotated[int, typer.Option(min=1, help="Most tokens computed at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="'float32', or 'bfloat16' for products in 16 bits.")]
Nucleotides = Annotated[bool, typer.Option("--allow-nucleotides", help="Take a file that looks like DNA or RNA.")]


def load_network(path: Path | None, device: str, quiet: bool = False, **attention: Any) -> Any:
    """The model of the option; the model in the box, which is said unless `quiet`, if none is named."""
    from protlm.model_api import load

    return load(named(path) if quiet else path, device, **attention)


def named(model: Path | None) -> Path:
    """The model of the option, or the folder of the model in the box."""
    from protlm.bundled import path

    return path() if model is None else model


def model_files(model: Path | None) -> list[Path]:
    """What must not be written over."""
    model = named(model)
    return [model, *(model / name for name in ("config.json", "model.safetensors"))]


class Report(Protocol):
    """Moves a progress bar; 0 in all is unknown, and a stage stands in place of the bar's label."""

    def __call__(self, done: int, total: int, stage: str = "") -> None: ...


@contextmanager
def progress(label: str, unit: str, quiet: bool = False) -> Iterator[Report]:
    """A progress bar on standard error, gone when it is done.

    Args:
        label: stands before it, unless a stage is named.
        unit: of what is counted; "bytes" are shown as such, "residues" also by the second.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, stage="": None
        return
    from rich import progress as rich

    amount = rich.DownloadColumn() if unit == "bytes" else rich.TextColumn("{task.fields[amount]}")
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), amount)
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, *times, console=console(), transient=True) as bar:
        task = bar.add_task(label, total=None, amount="")

        def move(done: int, total: int, stage: str = "") -> None:
            if bar.tasks[0].description != (stage or label):
                bar.reset(task, description=stage or label)
            amount = f"{done:,}/{total:,}" if total else f"{done:,}"
            if unit == "residues" and not stage:
                amount += f" {unit}, {bar.tasks[0].speed or 0:,.0f}/s"
            bar.update(task, completed=done, total=total or None, amount=amount)

        yield move


def console() -> Any:
    """Standard error; rich is imported only when something is to be said, since that takes time."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def say_coloured(label: str, colour: str, message: str) -> None:
    from rich.text import Text

    console().print(Text.assemble((label, colour), message))


def warn(message: str) -> None:
    say_coloured("warning: ", "yellow", message)


def fail(message: str) -> NoReturn:
    say_coloured("error: ", "red", message)
    sys.exit(2)
