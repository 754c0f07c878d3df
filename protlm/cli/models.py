"""Commands about models: export."""

from pathlib import Path
from typing import Annotated

import typer

from protlm.cli.console import Model, load_network, say


def export(
    output: Annotated[Path, typer.Argument(help="The folder to write: config.json and model.safetensors.")],
    model: Model,
) -> None:
    """Write a checkpoint as a model folder, without optimizer and without pickle."""
    from protlm.checkpoint import export as write

    write(load_network(model, "cpu"), output)
    say(f"{output}: written; use it as --model {output}")
