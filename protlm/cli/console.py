"""What all commands share: options, the model, messages and progress on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from protlm.errors import UserError

Model = Annotated[Path, typer.Option("--model", "-m", help="A model folder or a training checkpoint (.ckpt).")]
Budget = Annotated[int, typer.Option(min=1, help="Most tokens computed at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Nucleotides = Annotated[bool, typer.Option("--allow-nucleotides", help="Take a file that looks like DNA or RNA.")]


def load_network(path: Path, device: str) -> Any:
    import torch

    from protlm.checkpoint import load

    network = load(path)
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: cannot be used here ({str(error).splitlines()[0]})") from error


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, gone when it is done; a function of (done, all) moves it, all 0 is unknown."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress as rich

    amount = rich.DownloadColumn() if unit == "bytes" else rich.MofNCompleteColumn()
    columns = (rich.TextColumn(label), rich.BarColumn(), amount)
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, *times, console=console(), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


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
