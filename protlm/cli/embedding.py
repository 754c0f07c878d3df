"""Commands about embeddings: embed, merge."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from protlm.cli.console import (
    Budget,
    Device,
    Model,
    Nucleotides,
    Precision,
    load_network,
    model_files,
    progress,
    say,
    warn,
)
from protlm.errors import UserError, counted

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output, or the draft of a run, made from something else.")
]
Layout = Annotated[str, typer.Option(help="'uniprot', 'packed' (one matrix) or 'esm-pt' (a folder of .pt files).")]


def embed(
    fasta: Annotated[Path, typer.Argument(help="Proteins, plain or compressed; - is standard input.")],
    model: Model = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="One vector a protein (HDF5).")] = None,
    per_residue: Annotated[Path | None, typer.Option(help="One vector a residue (HDF5).")] = None,
    layers: Annotated[str, typer.Option(help="0 is the embedding, -1 the last; several as 0,6,-1.")] = "-1",
    pool: Annotated[
        list[str] | None, typer.Option(help="'mean', 'max' or 'bos' (first token); can be given more than once.")
    ] = None,
    layout: Layout = "uniprot",
    dtype: Annotated[str, typer.Option(help="'float16' or 'float32', on disk.")] = "",
    precision: Precision = "float32",
    id_from: Annotated[
        str, typer.Option("--id", help="'accession' of UniProt's headers, first 'word', or whole 'header'.")
    ] = "accession",
    duplicates: Annotated[
        str, typer.Option(help="Of identifiers that occur twice: 'error', 'suffix' (X_2) or 'first'.")
    ] = "error",
    shard: Annotated[str, typer.Option(help="Only the i-th of n parts of the proteins, as 2/8; see merge.")] = "1/1",
    overwrite: Overwrite = False,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Write the embeddings of proteins. A run that was stopped or killed goes on with the same command."""
    from protlm.embedding.proteome import KeptInterrupt, embed_fasta
    from protlm.embedding.provenance import EmbedOptions, parsed_layers, parsed_shard
    from protlm.embedding.ranks import OtherRankError, Ranks

    if pool and not output:
        raise UserError("--pool: is of no use without --output, the file of one vector a protein")
    for path in (output, per_residue):
        if path and path.resolve() in {file.resolve() for file in model_files(model)}:
            raise UserError(f"{path}: is the model; name another file to write")
    options = EmbedOptions(
        parsed_layers(layers),
        tuple(pool or ("mean",)),
        dtype or None,
        precision,
        layout,
        id_from,
        duplicates,
        parsed_shard(shard),
    )
    ranks = Ranks.of_environment()
    network = load_network(model, ranks.device(device) if ranks else device, quiet=bool(ranks and ranks.rank))
    embedded = ranks.embed_fasta if ranks else embed_fasta
    try:
        with progress("embedding", "residues", quiet=bool(ranks and ranks.rank)) as report:
            summary = embedded(
                network,
                fasta,
                output,
                per_residue,
                options,
                token_budget,
                overwrite,
                allow_nucleotides,
                report,
                lambda done, total: report(done, total, "reading"),
            )
    except KeptInterrupt as stop:
        if not (ranks and ranks.rank):
            say(str(stop))
        sys.exit(130)
    except OtherRankError:
        sys.exit(2)
    outputs = ", ".join(dict.fromkeys(str(path) for path in (output, per_residue) if path))
    if summary is None:  # another rank speaks
        return
    say(*summary.describe(outputs, network.config.width))
    if summary.beyond_positions:
        warn(
            f"{counted(summary.beyond_positions, 'protein')} longer than the {network.config.max_length:,} positions "
            "this model has learned; take their embeddings with care"
        )


def merge(
    parts: Annotated[list[Path], typer.Argument(help="What 'embed --shard i/n' wrote, all of i = 1 to n.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Join the shards of an 'embed' into what it would have written without --shard."""
    from protlm.embedding.merge import merge_parts

    with progress("merging", "proteins") as report:
        about = merge_parts(parts, output, overwrite, report)
    found = f"{counted(about['proteins'], 'protein')}, {counted(about['residues'], 'residue')}"
    say(f"{output}: {found} from {counted(len(parts), 'part')}")
