"""Commands about embeddings: embed."""

from pathlib import Path
from typing import Annotated

import typer

from protlm.cli.console import Budget, Device, Model, Nucleotides, load_network, progress, say, warn


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

    network = load_network(model, device)
    with progress("embedding", "bytes") as report:
        summary = embed_fasta(network, fasta, output, per_residue, token_budget, allow_nucleotides, report)
    say(
        f"{output}: {summary.proteins:,} proteins, {summary.residues:,} residues, {network.config.width} numbers each",
        *summary.tally.describe(),
    )
    if summary.renamed:
        say(f"{summary.renamed:,} identifiers: '/' replaced by '_'")
    if summary.beyond_positions:
        warn(
            f"{summary.beyond_positions:,} proteins are longer than the {network.config.max_length:,} positions this "
            "model has learned; take their embeddings with care"
        )
