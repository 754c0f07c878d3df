"""The `protlm` command. Each command is a few lines over a function that anyone can import."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from protlm import __version__
from protlm.errors import UserError

app = typer.Typer(
    help="Protein language models built on Performers. Train one with: python -m protlm.train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

# click's UsageError, from the click that typer depends on or, since 0.26, brings along
_UsageError: Any = typer.BadParameter.__mro__[1]

Model = Annotated[Path, typer.Option("--model", "-m", help="A model folder or a training checkpoint (.ckpt).")]
Budget = Annotated[int, typer.Option(min=1, help="Most tokens computed at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Nucleotides = Annotated[bool, typer.Option("--allow-nucleotides", help="Take a file that looks like DNA or RNA.")]


@app.command()
def prepare(
    fasta: Annotated[list[Path], typer.Argument(help="FASTA files, plain or compressed (gz, bz2, xz, zst).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The corpus to write (HDF5).")],
    clusters: Annotated[Path | None, typer.Option(help="Table of clusters: representative, tab, member.")] = None,
    split_by: Annotated[
        str, typer.Option(help="'cluster' keeps clusters whole, 'sequence' goes by the hash of each sequence.")
    ] = "",
    ood: Annotated[Path | None, typer.Option(help="File of ids of proteins or clusters to hold out as 'ood'.")] = None,
    valid: Annotated[float, typer.Option(help="Share for validation.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share for testing.")] = 0.1,
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Turn FASTA files into a corpus for training."""
    from protlm.sequence.corpus import prepare_corpus
    from protlm.sequence.splits import SplitRule, read_clusters, read_ids

    split_by = split_by or ("cluster" if clusters else "sequence")
    if split_by not in ("cluster", "sequence"):
        raise UserError(f"--split-by {split_by!r}: expected 'cluster' or 'sequence'")
    if split_by == "cluster" and not clusters:
        raise UserError("--split-by cluster: give the table with --clusters")
    rule = SplitRule(
        valid=valid,
        test=test,
        clusters=read_clusters(clusters) if clusters else {},
        whole_clusters=split_by == "cluster",
        held_out=read_ids(ood) if ood else frozenset(),
    )
    with _progress("reading", DownloadColumn()) as report:
        summary = prepare_corpus(fasta, output, rule, allow_nucleotides, report)
    for line in summary.describe(output):
        messages.print(line)


@app.command()
def embed(
    fasta: Annotated[Path, typer.Argument(help="Proteins, plain or compressed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Mean embedding of each protein (HDF5).")],
    model: Model,
    per_residue: Annotated[Path | None, typer.Option(help="Also write every residue's embedding here.")] = None,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Write the embeddings of proteins, in the layout of UniProt's HDF5 files."""
    from protlm.inference.embed import embed_fasta
    from protlm.sequence.fasta import describe_changes

    network = _load(model, device)
    with _progress("embedding", DownloadColumn()) as report:
        summary = embed_fasta(network, fasta, output, per_residue, token_budget, allow_nucleotides, report)
    messages.print(
        f"{output}: {summary.proteins:,} proteins, {summary.residues:,} residues, {network.config.width} numbers each"
    )
    for line in describe_changes(summary.changes, summary.changed_records):
        messages.print(line)
    if summary.renamed:
        messages.print(f"{summary.renamed:,} identifiers: '/' replaced by '_'")
    if summary.beyond_positions:
        _warn(
            f"{summary.beyond_positions:,} proteins are longer than the {network.config.max_length:,} positions this "
            "model has learned; take their embeddings with care"
        )


@app.command()
def fill(
    sequence: Annotated[str, typer.Argument(help="A protein with <mask> in place of residues, as MKT<mask>LLI.")],
    model: Model,
    top: Annotated[int, typer.Option(min=1, max=20, help="Residues to show for each mask.")] = 5,
    device: Device = "auto",
) -> None:
    """Show the likeliest residues where a sequence has <mask>."""
    from protlm.inference.fill import fill as predict

    table = Table(box=None, pad_edge=False)
    for column in ("position", "residue", "probability"):
        table.add_column(column, justify="left" if column == "residue" else "right")
    for prediction in predict(_load(model, device), sequence, top):
        for residue, probability in zip(prediction.residues, prediction.probabilities, strict=True):
            table.add_row(str(prediction.position), residue, f"{probability:.3f}")
    Console(highlight=False).print(table)


@app.command()
def evaluate(
    corpus: Annotated[Path, typer.Argument(help="A corpus made by 'protlm prepare'.")],
    model: Model,
    max_length: Annotated[int | None, typer.Option(min=3, help="Crop longer proteins; default: the model's.")] = None,
    token_budget: Budget = 16_384,
    device: Device = "auto",
) -> None:
    """Print accuracy and perplexity for each split of a corpus, beside the unigram baseline."""
    from protlm.inference.evaluate import evaluate as measure
    from protlm.metrics import format_results
    from protlm.sequence.corpus import Corpus

    opened, network = Corpus(corpus), _load(model, device)
    with _progress("evaluating", MofNCompleteColumn()) as report:
        results = measure(network, opened, max_length, token_budget, progress=report)
    print(format_results(results))


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="The folder to write: config.json and model.safetensors.")],
    model: Model,
) -> None:
    """Write a checkpoint as a model folder, without optimizer and without pickle."""
    from protlm.checkpoint import export as write

    write(_load(model, "cpu"), output)
    messages.print(f"{output}: written; use it as --model {output}")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit


def _load(path: Path, device: str) -> Any:
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
def _progress(label: str, amount: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, gone when it is done; a function of (done, all) moves it."""
    columns = (TextColumn(label), BarColumn(), amount, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main() -> None:
    """The command: a mistake of the user's is one line and exit code 2; Ctrl-C is exit code 130."""
    try:
        interrupted = app(standalone_mode=False) == 130
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except _UsageError as error:
        # without any arguments the message is empty: the help has been printed already
        if text := error.format_message().strip().rstrip("."):
            _fail(f"{text}; see: {error.ctx.command_path} --help" if error.ctx else text)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    if interrupted:
        messages.print("stopped; no output was left half-written")
        sys.exit(130)


def _warn(message: str) -> None:
    messages.print(Text.assemble(("warning: ", "yellow"), message))


def _fail(message: str) -> NoReturn:
    messages.print(Text.assemble(("error: ", "red"), message))
    sys.exit(2)


if __name__ == "__main__":
    main()
