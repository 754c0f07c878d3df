"""The command predict."""

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    Nucleotides,
    Packed,
    Precision,
    announced,
    model_files,
    progress,
    say,
)
from protlm.cli.embedding import Overwrite, parsed_shard
from protlm.cli.outputs import PICTURE, PREDICTIONS, check_outputs
from protlm.errors import UserError, counted
from protlm.files import STDOUT

if TYPE_CHECKING:
    from protlm.embedding.survey import EmbedSummary


def predict(
    fasta: Annotated[list[Path], Argument(help="FASTA files, plain or compressed; - for standard input.")],
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
    picture: Annotated[
        Path | None,
        Option(help="Picture (.png, .pdf, .svg) of the predictions along one protein; without --output, nothing else."),
    ] = None,
    target: Annotated[list[str] | None, Option(help="What to predict; repeatable. Default: all targets.")] = None,
    base: Annotated[Path | None, Option(help="Base model, if it has moved.")] = None,
    shard: Annotated[
        str,
        Option(
            help="Predict only the i-th of n shards, such as 2/8; see merge. 'auto' or 'auto/n': that of the task of a "
            "SLURM, PBS, SGE or LSF array job."
        ),
    ] = "1/1",
    overwrite: Overwrite = False,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Predict labels of proteins or residues with a model from 'protlm fit'.

    To resume a run that was stopped or killed, repeat the command.
    """
    from protlm.embedding.ranks import OtherRankError, Ranks
    from protlm.embedding.resumable import ResumableInterrupt
    from protlm.model_api import placed
    from protlm.sequence.fasta_files import FastaFiles, checked_inputs
    from protlm.supervised.prediction_output import checked_heads, fingerprint_of, predict_fasta, predict_on_ranks
    from protlm.supervised.predictor_folder import load_predictor

    used = [*fasta, *model_files(model), *(model / name for name in ("head.safetensors", "report.json"))]
    check_outputs({"--output": (output, PREDICTIONS), "--picture": (picture, PICTURE)}, used)
    part = parsed_shard(shard)
    printed = output is None or str(output) == STDOUT
    if printed and part != (1, 1):
        raise UserError("--shard requires --output")
    ranks = None if printed or picture else Ranks.of_environment()
    quiet = bool(ranks and ranks.rank)
    if not ranks:  # before the model is loaded; of several ranks, all would report the error
        FastaFiles(checked_inputs(fasta), allow_nucleotides, invalid=invalid).check_start()
    predictor = load_predictor(model, base=base)
    network = placed(predictor.model, ranks.device(device) if ranks else device, attention_backend, packed_batches)
    if not quiet:
        announced(network)
    heads = checked_heads(predictor, target or ())
    names = [head.target for head in heads]
    if picture and len(heads) > 1:
        raise UserError("--picture: several targets; choose one with --target")
    if picture or printed:
        if picture and fasta == [Path(STDOUT)]:
            raise UserError("--picture: standard input is read only once; give a file")
        with progress("predicting", "residues") as report:
            options = (heads, token_budget, precision, report)
            if picture:
                _draw(picture, predictor, _one(fasta, allow_nucleotides, invalid), options)
            if printed and not picture:
                _print(predictor, fasta, allow_nucleotides, invalid, options)
    if printed:
        return
    assert output is not None
    try:
        with progress("predicting", "residues", quiet=quiet) as report:
            arguments: tuple[Any, ...] = (
                predictor, fingerprint_of(model), fasta, output, names, token_budget, precision, part, overwrite,
                allow_nucleotides, invalid, report, lambda done, total: report(done, total, "reading"),
            )  # fmt: skip
            summary = predict_on_ranks(ranks, *arguments) if ranks else predict_fasta(*arguments)
    except ResumableInterrupt as stop:
        if not quiet:
            say(str(stop))
        sys.exit(130)
    except OtherRankError:
        sys.exit(2)
    if summary is None:  # rank 0 reports
        return
    say(*_described(summary, output))


def _print(predictor: Any, fasta: list[Path], allow_nucleotides: bool, invalid: str, options: tuple[Any, ...]) -> None:
    """Writes CSV to standard output while it is computed."""
    from protlm.sequence.fasta import FastaFile, none_left
    from protlm.supervised.prediction_output import predicted_records
    from protlm.supervised.prediction_table import write_text
    from protlm.tables import text_output

    files = [FastaFile(path, allow_nucleotides, invalid=invalid) for path in fasta]
    answers = predicted_records(predictor, chain.from_iterable(files), *options)
    if (first := next(answers, None)) is None:  # before anything is written
        raise none_left(files[-1].path, files[-1].tally)
    count = [0]

    def every() -> Any:
        for answer in chain([first], answers):
            count[0] += 1
            yield answer

    with text_output() as file:
        write_text(file, every(), options[0])
    say(f"standard output: {counted(count[0], 'protein')}", *(line for one in files for line in one.tally.lines()))


def _one(fasta: list[Path], allow_nucleotides: bool, invalid: str) -> Any:
    """The only protein of the input."""
    from protlm.sequence.fasta import FastaFile, none_left

    files = [FastaFile(path, allow_nucleotides, invalid=invalid) for path in fasta]
    found = list(zip(chain.from_iterable(files), range(2), strict=False))
    if not found:
        raise none_left(files[-1].path, files[-1].tally)
    if len(found) > 1:
        raise UserError(f"--picture: {fasta[0]} has more than one protein; expected a file with one")
    return found[0][0]


def _draw(picture: Path, predictor: Any, record: Any, options: tuple[Any, ...]) -> None:
    """Draws the predictions along one protein."""
    from protlm.plots.positions import check_picture
    from protlm.plots.residue_tracks import residue_tracks
    from protlm.supervised.prediction_output import predicted_records

    head = options[0][0]
    if not head.per_residue:
        raise UserError(f"--picture: {head.target} is predicted per protein; a picture shows targets per residue")
    check_picture(picture, len(record.sequence))
    (answer,) = predicted_records(predictor, [record], *options)
    values = answer.values[head.target]
    curves = {name: values[:, number] for number, name in enumerate(head.classes or (head.target,))}
    label = f"probability of {head.target}" if head.classes else head.target
    residue_tracks(picture, record.sequence, curves, label, record.id, bool(head.classes))
    say(f"{picture}: {record.id}, {counted(len(record.sequence), 'residue')}")


def _described(summary: "EmbedSummary", output: Path) -> list[str]:
    if summary.complete:
        return [f"{output}: already complete; nothing was done"]
    lines = [f"{output}: {counted(summary.proteins, 'protein')}, {counted(summary.residues, 'residue')}"]
    lines[0] += f"; {summary.seconds:.1f} s"
    for count, noun, what in (
        (summary.resumed, "residue", "computed by an earlier run"),
        (summary.copied, "protein", "identical to an earlier sequence, computed once"),
    ):
        if count:
            lines.append(f"{counted(count, noun)}: {what}")
    return [*lines, *summary.tally.lines()]
