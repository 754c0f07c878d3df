"""Commands that predict residues: fill, generate."""

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from protlm.cli.console import Budget, Device, Model, Nucleotides, Precision, load_network, model_files, progress, say
from protlm.errors import UserError, counted

Unidirectional = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="A unidirectional model: a folder or a training checkpoint (.ckpt)."),
]


def fill(
    proteins: Annotated[
        str,
        typer.Argument(
            metavar="SEQUENCE|FASTA",
            help="A protein with <mask> in place of residues, as 'MKT<mask>LLI', or a FASTA file of such; - is "
            "standard input.",
        ),
    ],
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Residues to show for each mask.")] = 5,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table here (.tsv or .json).")] = None,
    layout: Annotated[str, typer.Option("--format", help="'table', 'tsv' or 'json'; default: as --output ends.")] = "",
    matrix: Annotated[
        Path | None, typer.Option(help="Also write all twenty probabilities at every position here (TSV).")
    ] = None,
    logo: Annotated[Path | None, typer.Option(help="Draw these as a sequence logo (.png, .pdf or .svg).")] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Draw these as a heat map (.png, .pdf or .svg).")] = None,
    one_pass: Annotated[
        bool,
        typer.Option("--one-pass", help="For these, do not mask each position in turn: faster, but the model sees it."),
    ] = False,
    precision: Precision = "float32",
    token_budget: Budget = 16_384,
    device: Device = "auto",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Show the likeliest residues where proteins have <mask>; or the probabilities at every position."""
    from protlm.inference.engine import Computer
    from protlm.inference.predictions import Filling, Outputs, write_rows

    layout = layout or (output.suffix[1:] if output else "table")
    if output and layout not in ("tsv", "json"):
        raise UserError(f"--output {output}: expected a name that ends in .tsv or .json, or --format tsv or json")
    if layout not in ("table", "tsv", "json"):
        raise UserError(f"--format {layout!r}: expected table, tsv or json")
    outputs = Outputs(output, layout, matrix, logo, heatmap)
    filling = Filling(proteins, outputs, allow_nucleotides, model_files(model))
    computer = Computer(load_network(model, device), token_budget, precision)
    with progress("predicting", "positions" if filling.every or not filling.file else "bytes") as report:
        rows = filling.run(computer, top, one_pass, report)
    if output or (filling.every and not rows):
        pass  # all that was asked for is in files
    elif layout == "table":
        _print_table(rows)
    else:
        write_rows(rows, sys.stdout, layout)
    if filling.file:
        for line in filling.file.tally.describe():
            say(line)


def generate(
    model: Unidirectional = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many proteins.")] = 1,
    prefix: Annotated[str, typer.Option(help="Residues that each begins with.")] = "",
    temperature: Annotated[float, typer.Option(help="Logits are divided by it; 0 takes the likeliest residue.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest residues only that together have this probability.")
    ] = 1.0,
    max_length: Annotated[int, typer.Option(min=1, help="Cut proteins that do not end before (residues).")] = 1_000,
    min_length: Annotated[int, typer.Option(min=1, help="Let no protein end before (residues).")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same proteins.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Proteins drawn together.")] = 16,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The FASTA file to write; default: standard output.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw new proteins from a unidirectional model, as FASTA."""
    from protlm.files import atomic_output
    from protlm.inference.generate import generate as draw

    if model is None:
        raise UserError(
            "no --model given; expected a unidirectional one (trained with model.causal=true), as the box's is not"
        )
    if output and output.is_dir():
        raise UserError(f"{output}: is a folder; expected the name of a file to write")
    if output and output.resolve() in {path.resolve() for path in model_files(model)}:
        raise UserError(f"{output}: is the model; name another file to write")
    network = load_network(model, device)
    options = {"temperature": temperature, "top_p": top_p, "seed": seed}
    drawn = ended = residues = 0
    log_likelihood = 0.0
    with (
        atomic_output(output) if output else nullcontext() as partial,
        progress("generating", "positions") as report,
    ):
        found = draw(network, n, prefix, temperature, top_p, max_length, seed, batch_size, min_length, report)
        file = partial.open("w") if partial else nullcontext(sys.stdout)
        with file as lines:
            for protein in found:
                lines.write(protein.fasta(**options))
                residues, ended = residues + len(protein.sequence), ended + protein.ended
                drawn, log_likelihood = drawn + protein.drawn, log_likelihood + protein.log_likelihood
    perplexity = math.exp(min(700.0, -log_likelihood / drawn))
    settings = ", ".join(f"{name} {value:g}" for name, value in options.items())
    say(
        f"{output or 'standard output'}: {counted(n, 'protein')}, {counted(residues, 'residue')}, perplexity "
        f"{perplexity:.2f}; ended by themselves {ended:,}, cut at {max_length:,} residues {n - ended:,}",
        f"model {model}, prefix {prefix or 'none'}, {settings}",
    )


def _print_table(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    from protlm.inference.predictions import COLUMNS

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("protein", "residue") else "right", overflow="fold")
    for name, position, rank, residue, probability in rows:
        table.add_row(name, str(position), str(rank), residue, f"{probability:.3f}")
    Console(highlight=False, markup=False).print(table)
