"""The command predict."""

from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    Nucleotides,
    Packed,
    Precision,
    model_files,
    progress,
    say,
)
from protlm.cli.outputs import FASTA, HDF5, TABLE, OutputKind, check_outputs
from protlm.errors import counted
from protlm.files import STDOUT

PREDICTIONS = OutputKind(
    "a file of predictions", (*TABLE.suffixes, ".parquet", *HDF5.suffixes, *FASTA.suffixes), text=True
)


def predict(
    fasta: Annotated[Path, Argument(help="FASTA file, plain or compressed; - for standard input.")],
    model: Annotated[Path, Option("--model", "-m", help="Folder of protlm fit.")],
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="Table (.csv, .tsv, .parquet), HDF5 (.h5), or labels of residues as FASTA (.fasta). Default: CSV on "
            "standard output.",
        ),
    ] = None,
    target: Annotated[list[str] | None, Option(help="What to predict; repeatable. Default: all targets.")] = None,
    base: Annotated[Path | None, Option(help="Base model, if it has moved.")] = None,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Predict labels of proteins or residues with a model from 'protlm fit'."""
    from protlm.model_api import placed
    from protlm.sequence.fasta import FastaFile, none_left
    from protlm.supervised.prediction_hdf5 import write_hdf5
    from protlm.supervised.prediction_output import checked_heads, predicted_records
    from protlm.supervised.prediction_table import write_parquet, write_strings, write_text
    from protlm.supervised.predictor_folder import load_predictor

    used = [fasta, *model_files(model), *(model / name for name in ("head.safetensors", "report.json"))]
    check_outputs({"--output": (output, PREDICTIONS)}, used)
    file = FastaFile(fasta, allow_nucleotides, invalid=invalid)
    file.check_start()
    predictor = load_predictor(model, base=base)
    placed(predictor.model, device, attention_backend, packed_batches)
    heads = checked_heads(predictor, target or ())
    suffix = output.suffix.lower() if output and str(output) != STDOUT else ".csv"
    write: Any = {".parquet": write_parquet} | dict.fromkeys(HDF5.suffixes, write_hdf5)
    write |= dict.fromkeys(FASTA.suffixes, write_strings) | dict.fromkeys(TABLE.suffixes, write_text)
    with progress("predicting", "residues") as report:
        count = [0]
        answers = predicted_records(predictor, file, heads, count, token_budget, precision, report)
        if (first := next(answers, None)) is None:  # before anything is written
            raise none_left(file.path, file.tally)
        write[suffix](output, chain([first], answers), heads)
    say(f"{output or 'standard output'}: {counted(count[0], 'protein')}", *file.tally.lines())
