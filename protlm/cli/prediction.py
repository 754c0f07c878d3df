"""Commands that predict residues: fill, generate."""

import math
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from protlm.cli.console import (
    MODEL_VARIABLE,
    Backend,
    Budget,
    Device,
    Invalid,
    LateNetwork,
    Model,
    Nucleotides,
    Packed,
    Precision,
    load_network,
    model_files,
    model_option,
    progress,
    required,
    say,
)
from protlm.cli.outputs import FASTA, JSON, PICTURE, TSV, OutputKind, check_outputs, chosen_format
from protlm.errors import UserError, counted
from protlm.files import STDOUT

FORMATS = {"table": OutputKind("text", text=True), "tsv": TSV, "json": JSON}
Causal = Annotated[Path | None, model_option("Folder or training checkpoint (.ckpt) of a causal model.")]


def fill(
    proteins: Annotated[
        str,
        Argument(
            metavar="SEQUENCE|FASTA",
            help="A sequence with <mask> in place of residues, such as 'MKT<mask>LLI', a FASTA file of such sequences "
            "(of a model of bytes, any file), or - for standard input.",
        ),
    ],
    model: Model = None,
    top: Annotated[
        int | None, Option(help="Number of amino acids (bases, bytes) per mask. Default: 5, or all of fewer.")
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the table here (.tsv, .txt or .json).")] = None,
    layout: Annotated[str, Option("--format", help="table, tsv or json; by default the suffix of --output.")] = "",
    matrix: Annotated[
        Path | None, Option(help="Write the probabilities of all amino acids at every position here (TSV).")
    ] = None,
    logo: Annotated[
        Path | None, Option(help="Draw every position of one protein as a sequence logo (.png, .pdf or .svg).")
    ] = None,
    heatmap: Annotated[
        Path | None, Option(help="Draw every position of one protein as a heat map (.png, .pdf or .svg).")
    ] = None,
    one_pass: Annotated[
        bool,
        Option(
            "--one-pass",
            help="For --matrix, --logo and --heatmap: mask no position. One pass instead of one per residue, but the "
            "model sees the residue it predicts.",
        ),
    ] = False,
    precision: Precision = "float32",
    token_budget: Budget = 16_384,
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Predict amino acids, or letters of the model's alphabet, at each <mask>, or probabilities at every position."""
    model = required(model)

    from protlm.inference.engine import Computer
    from protlm.inference.predictions import PredictionFiles, check_pictures, columns, write_predictions, write_rows
    from protlm.inference.sequences import open_sequences
    from protlm.tables import aligned, text_output

    layout = chosen_format(output, layout, FORMATS, "table")
    output = None if str(output) == STDOUT else output
    if output and layout == "table":
        raise UserError("--format table is for standard output; expected --format tsv or json with --output")
    outputs = PredictionFiles(output, layout, matrix, logo, heatmap)
    loaded = LateNetwork(model, device, attention_backend=attention_backend, packed_batches=packed_batches)
    alphabet = loaded.alphabet
    opened = open_sequences(proteins, alphabet, True, allow_nucleotides, invalid=invalid)
    inputs = [Path(proteins)] if opened.source else []
    check_outputs(
        {
            "--output": (output, FORMATS[layout]),
            "--matrix": (matrix, TSV),
            "--logo": (logo, PICTURE),
            "--heatmap": (heatmap, PICTURE),
        },
        [*inputs, *model_files(model)],
    )
    records = check_pictures(opened, outputs, alphabet)
    computer = Computer(loaded.network, token_budget, precision)
    unit = "bytes" if opened.source and not outputs.every_position else "positions"
    with progress("predicting", unit) as report:
        rows = write_predictions(computer, records, outputs, top, one_pass, report)
    with text_output() as file:
        if rows and layout != "table":
            write_rows(rows, file, layout, alphabet)
        elif rows:
            cells = ([name, str(i), str(rank), residue, f"{p:.3f}"] for name, i, rank, residue, p in rows)
            print(aligned(columns(alphabet), cells, left=(0, 3)), file=file)
    say(*opened.lines(alphabet.unit))


def generate(
    model: Causal = None,
    n: Annotated[int, Option("-n", min=1, help="Number of sequences.")] = 1,
    prefix: Annotated[str, Option(help="Amino acids (bases, text) with which each sequence starts.")] = "",
    temperature: Annotated[float, Option(help="Divides the logits; 0 always takes the most probable token.")] = 1.0,
    top_p: Annotated[
        float,
        Option(help="Nucleus sampling: draw from the most probable tokens with at least this total probability."),
    ] = 1.0,
    max_length: Annotated[
        int, Option(min=1, help="Maximum length in residues (bases, bytes); longer sequences are cut.")
    ] = 1_000,
    min_length: Annotated[int, Option(min=1, help="Minimum length, likewise.")] = 1,
    seed: Annotated[int, Option(min=0, help="Random seed.")] = 0,
    batch_size: Annotated[int, Option(min=1, help="Sequences generated together.")] = 16,
    output: Annotated[
        Path | None, Option("--output", "-o", help="FASTA file to write. Default: standard output.")
    ] = None,
    device: Device = "auto",
    attention_backend: Backend = "auto",
) -> None:
    """Generate new proteins, or sequences of the model's alphabet, with a causal model, as FASTA."""
    if model is None:
        raise UserError(
            f"no model given; expected --model MODEL or the environment variable {MODEL_VARIABLE}, a causal model. To "
            "train one on your proteins: python -m protlm.train model.causal=true data.fasta=proteins.fasta"
        )
    model = required(model)

    from protlm.inference.generate import generate as sample
    from protlm.sequence.alphabets import alphabet_of
    from protlm.tables import text_output

    check_outputs({"--output": (output, FASTA)}, model_files(model))
    network = load_network(model, device, attention_backend=attention_backend, any_alphabet=True)
    alphabet = alphabet_of(network.config.alphabet)
    options = {"temperature": temperature, "top_p": top_p, "seed": seed}
    drawn = ended = residues = 0
    log_likelihood = 0.0
    with text_output(output) as file, progress("generating", "positions") as report:
        for protein in sample(network, n, prefix, temperature, top_p, max_length, seed, batch_size, min_length, report):
            file.write(protein.fasta(**options))
            residues, ended = residues + len(protein.letters), ended + protein.ended
            drawn, log_likelihood = drawn + protein.drawn, log_likelihood + protein.log_likelihood
    perplexity = math.exp(min(700.0, -log_likelihood / drawn))
    settings = ", ".join(f"{name} {value:g}" for name, value in options.items())
    say(
        f"{output or 'standard output'}: {counted(n, alphabet.record)}, {counted(residues, alphabet.unit)}, perplexity "
        f"{perplexity:.2f}; {ended:,} complete, {n - ended:,} cut at {max_length:,} {alphabet.unit}s",
        f"model {model}, prefix {prefix or 'none'}, {settings}",
    )
