"""The `protlm` command. Each command is a few lines over a function that anyone can import."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from protlm import __version__
from protlm.errors import UserError

app = typer.Typer(
    help="Protein language models built on Performers. Train one with: python -m protlm.train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# click's UsageError, from the click that typer depends on or, since 0.26, brings along
_UsageError: Any = typer.BadParameter.__mro__[1]

Model = Annotated[Path, typer.Option("--model", "-m", help="A model folder or a training checkpoint (.ckpt).")]
Budget = Annotated[int, typer.Option(min=1, help="Most tokens computed at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Nucleotides = Annotated[bool, typer.Option("--allow-nucleotides", help="Take a file that looks like DNA or RNA.")]


@app.command()
def prepare(
    fasta: Annotated[
        list[Path], typer.Argument(help="FASTA files, plain or compressed (gz, bz2, xz, zst); - is standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The corpus to write (HDF5).")],
    clusters: Annotated[Path | None, typer.Option(help="Table of clusters: representative, tab, member.")] = None,
    split_by: Annotated[
        str, typer.Option(help="'cluster' keeps clusters whole, 'sequence' goes by the hash of each sequence.")
    ] = "",
    ood: Annotated[Path | None, typer.Option(help="File of ids of proteins or clusters to hold out as 'ood'.")] = None,
    valid: Annotated[float, typer.Option(help="Share for validation.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share for testing.")] = 0.1,
    min_length: Annotated[int, typer.Option(help="Leave out shorter proteins (residues).")] = 1,
    max_length: Annotated[int | None, typer.Option(help="Leave out longer proteins (residues).")] = None,
    drop_fragments: Annotated[
        bool, typer.Option("--drop-fragments", help="Leave out records with '(Fragment' in the header.")
    ] = False,
    nonstandard: Annotated[
        str, typer.Option(help="'keep' or 'drop' proteins with letters other than the twenty amino acids.")
    ] = "keep",
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Keep one record of each sequence, and the ids of the others.")
    ] = False,
    id_from: Annotated[
        str, typer.Option("--id", help="'accession' of UniProt's headers, or the first 'word' as it is.")
    ] = "accession",
    workers: Annotated[int, typer.Option(help="Processes; each file is read by one.")] = 1,
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Turn FASTA files into a corpus for training."""
    from protlm.sequence.ingest import Selection
    from protlm.sequence.prepare import prepare_corpus
    from protlm.sequence.splits import SplitRule, read_ids

    split_by = split_by or ("cluster" if clusters else "sequence")
    if split_by not in ("cluster", "sequence"):
        raise UserError(f"--split-by {split_by!r}: expected 'cluster' or 'sequence'")
    if split_by == "cluster" and not clusters:
        raise UserError("--split-by cluster: give the table with --clusters")
    rule = SplitRule(valid, test, clusters, split_by == "cluster", read_ids(ood) if ood else frozenset())
    selection = Selection(min_length, max_length, not drop_fragments, nonstandard, id_from, allow_nucleotides)
    with _progress("reading", "bytes") as report:
        summary = prepare_corpus(fasta, output, rule, selection, deduplicate, workers, report)
    _say(*summary.describe(output))


@app.command()
def info(
    corpus: Annotated[Path, typer.Argument(help="A corpus made by 'protlm prepare'.")],
    histogram: Annotated[Path | None, typer.Option(help="Also draw the lengths here (.png, .pdf or .svg).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Print what is in a corpus: lengths by split, clusters, residue frequencies, the unigram baseline."""
    from json import dumps

    from protlm.output import unfinished
    from protlm.sequence.corpus import Corpus
    from protlm.sequence.statistics import describe, draw_lengths, format_description

    if histogram and histogram.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--histogram {histogram}: expected a name that ends in .png, .pdf or .svg")
    opened = Corpus(corpus)
    figures = describe(opened)
    print(dumps(figures, indent=2) if json else format_description(figures))
    if histogram:
        with unfinished(histogram) as folder:
            draw_lengths(opened, folder / histogram.name)
            (folder / histogram.name).replace(histogram)


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

    network = _load(model, device)
    with _progress("embedding", "bytes") as report:
        summary = embed_fasta(network, fasta, output, per_residue, token_budget, allow_nucleotides, report)
    _say(
        f"{output}: {summary.proteins:,} proteins, {summary.residues:,} residues, {network.config.width} numbers each",
        *summary.tally.describe(),
    )
    if summary.renamed:
        _say(f"{summary.renamed:,} identifiers: '/' replaced by '_'")
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
    from rich.console import Console
    from rich.table import Table

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
    split: Annotated[
        list[str] | None,
        typer.Option(help="train, valid, test or ood; can be given more than once. Default: test and ood."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print tables by length of the protein and by residue.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here, the details too.")] = None,
    max_length: Annotated[int | None, typer.Option(min=3, help="Crop longer proteins; default: the model's.")] = None,
    share: Annotated[float, typer.Option(help="Share of the residues that is masked.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Of crops and masks.")] = 1,
    token_budget: Budget = 16_384,
    device: Device = "auto",
) -> None:
    """Print accuracy and perplexity for splits of a corpus, beside the unigram baseline."""
    from protlm.inference.evaluate import evaluate as measure
    from protlm.inference.evaluate import format_details, to_json
    from protlm.metrics import format_results
    from protlm.output import unfinished
    from protlm.sequence.corpus import Corpus

    if json and json.exists() and (not json.is_file() or json.resolve() in (corpus.resolve(), model.resolve())):
        raise UserError(f"--json {json}: is {'an input' if json.is_file() else 'no file'}; name another file to write")
    opened, network = Corpus(corpus), _load(model, device)
    length = max_length or network.config.max_length
    options = {"max_length": length, "token_budget": token_budget, "share": share, "seed": seed}
    # around all of it, so that a file that cannot be written is known at once
    with unfinished(json) if json else nullcontext() as folder:
        with _progress("evaluating", "proteins") as report:
            results = measure(network, opened, split or (), **options, progress=report)
        if json and folder:
            (folder / json.name).write_text(to_json(results, network, model, opened, options))
            (folder / json.name).replace(json)
    print(format_results(results))
    if details:
        print("", format_details(results), sep="\n")


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="The folder to write: config.json and model.safetensors.")],
    model: Model,
) -> None:
    """Write a checkpoint as a model folder, without optimizer and without pickle."""
    from protlm.checkpoint import export as write

    write(_load(model, "cpu"), output)
    _say(f"{output}: written; use it as --model {output}")


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
def _progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, gone when it is done; a function of (done, all) moves it, all 0 is unknown."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress

    amount = progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn()
    columns = (progress.TextColumn(label), progress.BarColumn(), amount)
    times = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
    with progress.Progress(*columns, *times, console=_console(), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _console() -> Any:
    """Standard error; rich is imported only when something is to be said, since that takes time."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _say_coloured(label: str, colour: str, message: str) -> None:
    from rich.text import Text

    _console().print(Text.assemble((label, colour), message))


def main() -> None:
    """The command: a mistake of the user's is one line and exit code 2; Ctrl-C is exit code 130, SIGTERM 143."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that unfinished files go
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
        _say("stopped; no output was left half-written")
        sys.exit(130)


def _warn(message: str) -> None:
    _say_coloured("warning: ", "yellow", message)


def _fail(message: str) -> NoReturn:
    _say_coloured("error: ", "red", message)
    sys.exit(2)


if __name__ == "__main__":
    main()
