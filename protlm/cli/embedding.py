"""Commands about embeddings: embed, merge."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    Model,
    Nucleotides,
    Packed,
    Precision,
    load_network,
    model_files,
    progress,
    required,
    say,
)
from protlm.cli.outputs import EMBEDDINGS, FOLDER, MERGED, check_outputs
from protlm.embedding.array_job import shard_of_array_task
from protlm.errors import UserError, counted

if TYPE_CHECKING:
    from protlm.embedding.survey import EmbedSummary
    from protlm.sequence.letters import Alphabet

Overwrite = Annotated[bool, Option("--overwrite", help="Replace outputs made from other input or with other options.")]
Format = Annotated[str, Option("--format", help="h5, npz, csv or parquet. Default: by the suffix of each output.")]
Layout = Annotated[
    str,
    Option(
        help="'uniprot' (HDF5, one dataset each; default of h5), 'packed' (HDF5, one matrix) or 'esm-pt' (.pt files)."
    ),
]
FORMATS = ("h5", "npz", "csv", "parquet")
LAYOUTS = ("uniprot", "packed", "esm-pt")


def embed(
    fasta: Annotated[
        list[Path],
        Argument(help="FASTA files, plain or compressed; - for standard input. Of a model of bytes, any files."),
    ],
    model: Model = None,
    output: Annotated[Path | None, Option("--output", "-o", help="File for one vector per protein.")] = None,
    per_residue: Annotated[Path | None, Option(help="File for one vector per residue.")] = None,
    layers: Annotated[
        str, Option(help="One or more layers, such as 0,6,-1; 0 is the token embedding, -1 the last layer.")
    ] = "-1",
    pool: Annotated[
        list[str] | None, Option(help="'mean', 'max' or 'bos' (first token); repeatable. Default: mean.")
    ] = None,
    file_format: Format = "",
    layout: Layout = "",
    dtype: Annotated[
        str,
        Option(
            help="Precision of the output: 'float16' or 'float32'. Default: float16 in h5 and npz, otherwise float32."
        ),
    ] = "",
    precision: Precision = "float32",
    identifier: Annotated[
        str, Option("--id", help="Identifier: UniProt 'accession', first 'word' or whole 'header'.")
    ] = "accession",
    duplicates: Annotated[str, Option(help="Duplicate identifiers: 'error', 'suffix' (X, X_2) or 'first'.")] = "error",
    shard: Annotated[
        str,
        Option(
            help="Embed only the i-th of n shards, such as 2/8; see merge. 'auto' or 'auto/n': that of the task of a "
            "SLURM, PBS, SGE or LSF array job."
        ),
    ] = "1/1",
    overwrite: Overwrite = False,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Embed proteins, or what the model is of. To resume a run that was stopped or killed, repeat the command."""
    model = required(model)

    from protlm.checkpoint import may_be_of_other_letters
    from protlm.embedding.outputs import checked_outputs
    from protlm.embedding.proteome import EmbedOptions, embed_fasta
    from protlm.embedding.ranks import OtherRankError, Ranks
    from protlm.embedding.resumable import ResumableInterrupt
    from protlm.sequence.alphabets import alphabet_of
    from protlm.sequence.fasta_files import FastaFiles, checked_inputs

    if pool and not output:
        raise UserError("--pool requires --output")
    chosen = _chosen_layout(file_format, layout)
    kind = EMBEDDINGS[chosen]
    both = kind != FOLDER or output != per_residue  # a folder can hold both
    check_outputs(
        {"--output": (output, kind), "--per-residue": (per_residue if both else None, kind)},
        [*fasta, *model_files(model)],
    )
    stored = (_parsed_layers(layers), tuple(pool or ("mean",)), dtype or None)
    options = EmbedOptions(*stored, precision, chosen, identifier, duplicates, parsed_shard(shard), invalid)
    ranks = Ranks.of_environment()
    if not ranks:  # before the model is loaded; of several ranks, all would report the error
        inputs = checked_inputs(fasta)
        checked_outputs(options.layout, options.dtype, options.pools, inputs, output, per_residue)
        if not may_be_of_other_letters(model):
            FastaFiles(inputs, allow_nucleotides, identifier, invalid=invalid).check_start()
    network = load_network(
        model,
        ranks.device(device) if ranks else device,
        quiet=bool(ranks and ranks.rank),
        attention_backend=attention_backend,
        packed_batches=packed_batches,
        any_alphabet=True,
    )
    alphabet = alphabet_of(network.config.alphabet)
    embedded = ranks.embed_fasta if ranks else embed_fasta
    try:
        with progress("embedding", f"{alphabet.unit}s", quiet=bool(ranks and ranks.rank)) as report:
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
    say(*_described(summary, outputs, network.config.width, alphabet))


def _described(summary: "EmbedSummary", outputs: str, width: int, alphabet: "Alphabet") -> list[str]:
    unit, record = alphabet.unit, alphabet.record
    if summary.complete:
        return [f"{outputs}: already complete; nothing was done"]
    speed = "nothing left to compute"
    if summary.computed:
        speed = (
            f"of which {summary.computing:.1f} s in the model, {summary.computed / summary.computing:,.0f} {unit}s/s"
        )
    lines = [
        f"{outputs}: {counted(summary.proteins, record)}, {counted(summary.residues, unit)}, "
        f"width {width:,}; {summary.seconds:.1f} s, {speed}"
    ]
    for count, noun, what in (
        (summary.resumed, unit, "computed by an earlier run"),
        (summary.copied, record, "identical to an earlier sequence, computed once"),
        (summary.renamed, "identifier", "stored under another name ('/' becomes '_'; suffixes); the original is kept"),
        (summary.left_out, "record", "left out, duplicate identifier"),
        (summary.beyond_positions, record, "longer than the positions that the model has learned"),
    ):
        if count:
            lines.append(f"{counted(count, noun)}: {what}")
    return [*lines, *summary.tally.lines(unit)]


def _chosen_layout(file_format: str, layout: str) -> str:
    """The layout of the outputs; empty to go by their suffixes."""
    if file_format and file_format not in FORMATS:
        raise UserError(f"--format {file_format!r}: expected one of {', '.join(FORMATS)}")
    if layout and layout not in LAYOUTS:
        raise UserError(f"--layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if layout and file_format and (file_format != "h5" or layout == "esm-pt"):
        raise UserError(f"--layout {layout} does not apply to --format {file_format}; leave out one of them")
    return layout or ("uniprot" if file_format == "h5" else file_format)


def _parsed_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text!r}: expected numbers such as -1 or 0,6,-1") from None


def parsed_shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if part == "auto" and (not slash or (parts.isascii() and parts.isdigit())):
        try:
            found = shard_of_array_task(os.environ, int(parts) if slash else None)
        except UserError as error:
            example = ", such as --shard auto/100, or i/n" if str(error).endswith("number of shards") else ""
            raise UserError(f"--shard {text}: {error}{example}") from error
        say(f"shard {found.part}/{found.parts} ({found.source})")
        return found.part, found.parts
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--shard {text!r}: expected i/n, such as 2/8, auto or auto/n")
    if not 1 <= int(part) <= int(parts):
        raise UserError(f"--shard {text}: expected i/n with i from 1 to n")
    return int(part), int(parts)


def merge(
    shards: Annotated[
        list[Path], Argument(help="The outputs of 'embed' or 'predict' with --shard i/n for i = 1 to n.")
    ],
    output: Annotated[Path, Option("--output", "-o", help="File or folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Join shards written by 'embed --shard' or 'predict --shard' into one file or folder."""
    from protlm.embedding.layouts import LAYOUTS as EMBEDDED
    from protlm.embedding.merge import merge_shards
    from protlm.supervised.prediction_layouts import layouts

    check_outputs({"--output": (output, FOLDER if any(path.is_dir() for path in shards) else MERGED)}, shards)
    with progress("merging", "proteins") as report:
        description = merge_shards(shards, output, overwrite, report, EMBEDDED | layouts())
    found = f"{counted(description['proteins'], 'protein')}, {counted(description['residues'], 'residue')}"
    say(f"{output}: {found} from {counted(len(shards), 'shard')}")
