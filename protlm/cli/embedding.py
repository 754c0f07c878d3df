"""Commands about embeddings: embed, merge."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Budget,
    Device,
    Invalid,
    Model,
    Nucleotides,
    Precision,
    load_network,
    model_files,
    progress,
    say,
)
from protlm.errors import UserError, counted

if TYPE_CHECKING:
    from protlm.embedding.survey import EmbedSummary

Overwrite = Annotated[bool, Option("--overwrite", help="Replace outputs made from other input or with other options.")]
Layout = Annotated[
    str, Option(help="'uniprot' (HDF5, one dataset each), 'packed' (HDF5, one matrix) or 'esm-pt' (.pt files).")
]


def embed(
    fasta: Annotated[Path, Argument(help="FASTA file, plain or compressed; - for standard input.")],
    model: Model = None,
    output: Annotated[Path | None, Option("--output", "-o", help="File for one vector per protein.")] = None,
    per_residue: Annotated[Path | None, Option(help="File for one vector per residue.")] = None,
    layers: Annotated[
        str, Option(help="One or more layers, such as 0,6,-1; 0 is the token embedding, -1 the last layer.")
    ] = "-1",
    pool: Annotated[
        list[str] | None, Option(help="'mean', 'max' or 'bos' (first token); repeatable. Default: mean.")
    ] = None,
    layout: Layout = "uniprot",
    dtype: Annotated[
        str,
        Option(
            help="Data type of the stored values: 'float16' or 'float32'. Default: float32 for esm-pt, else float16."
        ),
    ] = "",
    precision: Precision = "float32",
    id_from: Annotated[
        str, Option("--id", help="Identifier: UniProt 'accession', first 'word' or whole 'header'.")
    ] = "accession",
    duplicates: Annotated[str, Option(help="Duplicate identifiers: 'error', 'suffix' (X, X_2) or 'first'.")] = "error",
    shard: Annotated[str, Option(help="Embed only the i-th of n shards, such as 2/8; see merge.")] = "1/1",
    overwrite: Overwrite = False,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Embed proteins. To resume a run that was stopped or killed, repeat the command."""
    from protlm.embedding.layouts import checked_outputs
    from protlm.embedding.proteome import EmbedOptions, ResumableInterrupt, embed_fasta
    from protlm.embedding.ranks import OtherRankError, Ranks
    from protlm.sequence.fasta import FastaFile

    if pool and not output:
        raise UserError("--pool requires --output")
    for path in (output, per_residue):
        if path and path.resolve() in {file.resolve() for file in model_files(model)}:
            raise UserError(f"{path}: is the model; choose another file to write")
    stored = (_parsed_layers(layers), tuple(pool or ("mean",)), dtype or None)
    options = EmbedOptions(*stored, precision, layout, id_from, duplicates, _parsed_shard(shard), invalid)
    ranks = Ranks.of_environment()
    if not ranks:  # or all of them would report the error
        checked_outputs(layout, options.pools, fasta, output, per_residue)
        FastaFile(fasta, allow_nucleotides, id_from, invalid=invalid).check_start()
    network = load_network(model, ranks.device(device) if ranks else device, quiet=bool(ranks and ranks.rank))
    embedded = ranks.embed_fasta if ranks else embed_fasta
    try:
        with progress("embedding", "residues", quiet=bool(ranks and ranks.rank)) as report:
            more: dict[str, Any] = {"token_budget": token_budget, "allow_nucleotides": allow_nucleotides}
            more |= {"progress": report, "reading": lambda done, total: report(done, total, "reading")}
            summary = embedded(network, fasta, output, per_residue, options, overwrite=overwrite, **more)
    except ResumableInterrupt as stop:
        if not (ranks and ranks.rank):
            say(str(stop))
        sys.exit(130)
    except OtherRankError:
        sys.exit(2)
    if summary is None:  # rank 0 reports
        return
    outputs = ", ".join(dict.fromkeys(str(path) for path in (output, per_residue) if path))
    say(*_described(summary, outputs, network.config.width))


def _described(summary: "EmbedSummary", outputs: str, width: int) -> list[str]:
    if summary.complete:
        return [f"{outputs}: already complete; nothing was done"]
    speed = f"{summary.computed / summary.seconds:,.0f} residues/s" if summary.computed else "nothing left to compute"
    lines = [
        f"{outputs}: {counted(summary.proteins, 'protein')}, {counted(summary.residues, 'residue')}, "
        f"width {width:,}; {summary.seconds:.1f} s, {speed}"
    ]
    for count, noun, what in (
        (summary.resumed, "residue", "computed by an earlier run"),
        (summary.copied, "protein", "identical to an earlier sequence, computed once"),
        (summary.renamed, "identifier", "stored under another name ('/' becomes '_'; suffixes); the original is kept"),
        (summary.left_out, "record", "left out, duplicate identifier"),
        (summary.beyond_positions, "protein", "longer than the positions that the model has learned"),
    ):
        if count:
            lines.append(f"{counted(count, noun)}: {what}")
    return [*lines, *summary.tally.lines()]


def _parsed_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text!r}: expected numbers such as -1 or 0,6,-1") from None


def _parsed_shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--shard {text!r}: expected i/n, such as 2/8")
    return int(part), int(parts)


def merge(
    shards: Annotated[list[Path], Argument(help="The outputs of 'embed --shard i/n' for i = 1 to n.")],
    output: Annotated[Path, Option("--output", "-o", help="File or folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Join shards written by 'embed --shard' into one file or folder."""
    from protlm.embedding.merge import merge_shards

    with progress("merging", "proteins") as report:
        description = merge_shards(shards, output, overwrite, report)
    found = f"{counted(description['proteins'], 'protein')}, {counted(description['residues'], 'residue')}"
    say(f"{output}: {found} from {counted(len(shards), 'shard')}")
