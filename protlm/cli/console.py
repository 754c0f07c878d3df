"""Shared by all commands: options, loading the model, messages and progress on standard error."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer
from typer import Option

from protlm.errors import OtherAlphabetError, ProtlmWarning, UserError, no_model
from protlm.missing_model import no_such_model
from protlm.progress import Progress, Stage, plain_lines

if TYPE_CHECKING:
    from protlm.sequence.letters import Alphabet

LINE_EVERY = 30.0
"""Seconds between two lines of progress in a log."""

MODEL_VARIABLE = "PROTLM_MODEL"
"""Environment variable with the model of commands that need one and are given none."""


def given_path(text: str) -> Path | None:
    """Of an argument; None for an empty one, as of an unset variable of the shell, and not the current folder."""
    return Path(text) if text else None


def model_option(about: str) -> Any:
    """The option --model, which the environment variable may give."""
    return Option("--model", "-m", envvar=MODEL_VARIABLE, parser=given_path, metavar="PATH", help=about)


Model = Annotated[Path | None, model_option("Model folder or training checkpoint (.ckpt).")]
Budget = Annotated[int, typer.Option(min=1, help="Maximum number of tokens in a batch.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Backend = Annotated[
    str,
    typer.Option(
        "--attention-backend", help="auto, cpu, eager, triton or flex: what computes attention; see docs/gpu.md."
    ),
]
Packed = Annotated[
    bool | None,
    Option(
        "--packed-batches/--padded-batches", help="Default: packed, without padding, on a GPU if attention takes them."
    ),
]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16 for 16-bit matrix products.")]
Nucleotides = Annotated[bool, typer.Option("--allow-nucleotides", help="Accept a file that looks like DNA or RNA.")]

Invalid = Annotated[
    str, Option(help="Invalid records: 'error' stops at the first, 'skip' leaves them out and lists them at the end.")
]


def load_network(path: Path, device: str, quiet: bool = False, only: str = "", **options: Any) -> Any:
    """The model of the option; unless `quiet`, its attention is announced on a GPU.

    `only` says why a command refuses models of other alphabets than that of proteins; `options` are those of `load`.
    """
    from protlm.model_api import load

    try:
        network = load(path, device, **options)
    except OtherAlphabetError as error:
        raise UserError(f"{error.found}; {only or error.advice}") from error
    return network if quiet else announced(network)


def announced(network: Any) -> Any:
    """The model, after a line that says what computes attention from random features, where there is a choice."""
    if network.embedding.weight.is_cuda and (used := network.backend_in_use):
        say(f"attention: {used}")
    return network


class LateNetwork:
    """The model of the option, loaded at its first use, or at once if it may be of another alphabet than proteins'.

    So input is checked before a model of proteins is loaded, and read as the alphabet of another model says.

    Args:
        only: see `load_network`; by default, any alphabet is accepted.
    """

    def __init__(self, path: Path, device: str, only: str = "", **options: Any) -> None:
        from protlm.checkpoint import may_be_of_other_letters
        from protlm.sequence.alphabets import PROTEIN, alphabet_of

        self._load = partial(load_network, path, device, only=only, any_alphabet=not only, **options)
        other = may_be_of_other_letters(path)
        self.alphabet: Alphabet = alphabet_of(self.network.config.alphabet) if other else PROTEIN

    @cached_property
    def network(self) -> Any:
        return self._load()


def required(
    model: Path | None,
    otherwise: str = "",
    name: str = "--model MODEL",
    kinds: str = "a model folder or a checkpoint (.ckpt)",
) -> Path:
    """The path of the option or of the environment variable.

    Args:
        model: value of the option, which is by default that of the variable.
        otherwise: end of the message: what needs no model.
        name: of the option, for the message.
        kinds: of models, for the message.

    Raises:
        UserError: without a model, and it says how to get one; or if the variable names none.
    """
    if model is None:
        raise UserError(f"{no_model(f'{name} or the environment variable {MODEL_VARIABLE}, {kinds}')}{otherwise}")
    if not model.exists() and str(model) == os.environ.get(MODEL_VARIABLE):
        raise UserError(f"environment variable {MODEL_VARIABLE}: {no_such_model(model)}")
    return model


def named(context: typer.Context, model: Path | None) -> Path | None:
    """The path of the option on the command line, and not that of the environment variable."""
    source = context.get_parameter_source("model")
    return None if source is not None and source.name == "ENVIRONMENT" else model


def model_files(model: Path) -> list[Path]:
    """The files of the model, which must not be overwritten."""
    return [model, *(model / name for name in ("config.json", "model.safetensors"))]


class Report(Protocol):
    """Advances a progress bar; a total of 0 is unknown, and a stage replaces the label."""

    def __call__(self, done: int, total: int, stage: str = "") -> None: ...


@contextmanager
def progress(label: str, unit: str, quiet: bool = False) -> Iterator[Report]:
    """A progress bar on standard error, removed at the end; without a terminal, a line every half minute.

    Args:
        label: shown before the bar.
        unit: that is counted; "bytes" are formatted as such, "residues" are also shown per second.
        quiet: show nothing.
    """
    if quiet:
        yield lambda done, total, stage="": None
        return
    if not sys.stderr.isatty():
        yield _lines(label, unit)
        return
    from rich import progress as rich
    from rich.console import Console

    amount = rich.DownloadColumn() if unit == "bytes" else rich.TextColumn("{task.fields[amount]}")
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), amount)
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, *times, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, amount="")

        def move(done: int, total: int, stage: str = "") -> None:
            if bar.tasks[0].description != (stage or label):
                bar.reset(task, description=stage or label)
            amount = f"{done:,}/{total:,}" if total else f"{done:,}"
            if unit == "residues" and not stage:
                amount += f" {unit}, {bar.tasks[0].speed or 0:,.0f}/s"
            bar.update(task, completed=done, total=total or None, amount=amount)

        yield move


@contextmanager
def stages() -> Iterator[Stage]:
    """Progress of one stage after another, each from its first report until it is complete or another begins."""
    with ExitStack() as stack:
        shown: list[Report] = []

        def hide() -> None:
            stack.close()
            shown.clear()

        def stage(label: str, unit: str) -> Progress:
            hide()

            def report(done: int, total: int) -> None:
                if not shown:
                    shown.append(stack.enter_context(progress(label, unit)))
                shown[0](done, total)
                if 0 < total <= done:
                    hide()

            return report

        yield stage


def _lines(label: str, unit: str) -> Report:
    """Lines for a log; a stage, such as reading, is counted in bytes."""
    reports: dict[str, Progress] = {}

    def report(done: int, total: int, stage: str = "") -> None:
        if stage not in reports:
            reports[stage] = plain_lines(say, stage or label, "bytes" if stage else unit, LINE_EVERY)
        reports[stage](done, total)

    return report


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    typer.echo(typer.style("warning: ", fg="yellow") + message, err=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints each `ProtlmWarning` of the library once, as one line."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, ProtlmWarning):
                other(message, category, *where)
            elif str(message) not in shown:
                shown.add(str(message))
                warn(str(message))

        warnings.simplefilter("always", ProtlmWarning)
        warnings.showwarning = show
        yield


def fail(message: str) -> NoReturn:
    """Prints an error in one line, also if it quotes a name or sequence of several lines, and exits with code 2."""
    typer.echo(typer.style("error: ", fg="red") + " ".join(message.splitlines()), err=True)
    sys.exit(2)
