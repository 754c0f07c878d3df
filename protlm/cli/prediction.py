"""Commands that fill in residues: fill."""

from typing import Annotated

import typer

from protlm.cli.console import Device, Model, load_network


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
    for prediction in predict(load_network(model, device), sequence, top):
        for residue, probability in zip(prediction.residues, prediction.probabilities, strict=True):
            table.add_row(str(prediction.position), residue, f"{probability:.3f}")
    Console(highlight=False).print(table)
