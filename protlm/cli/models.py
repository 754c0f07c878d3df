"""Commands about models: export, import-esm."""

from pathlib import Path
from typing import Annotated

import typer

from protlm.cli.console import Model, load_network, say
from protlm.errors import UserError

Attention = Annotated[
    str | None,
    typer.Option(
        help="Switch to this kind and keep all weights: 'softmax', linear in length, estimates 'exact', badly where "
        "attention is sharp; train on before use, also for others such as 'relu'. Default: no change."
    ),
]
Features = Annotated[
    int | None, typer.Option(min=1, help="Random features of FAVOR+, drawn anew. Default: as many as before.")
]


def export(
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    model: Model = None,
    layout: Annotated[
        str, typer.Option("--format", help="'folder' for protlm, or 'hf' for Hugging Face's transformers.")
    ] = "folder",
    attention: Attention = None,
    num_features: Features = None,
    dtype: Annotated[
        str, typer.Option(help="Of the weights on disk: float32, or float16 or bfloat16 for half the size.")
    ] = "float32",
) -> None:
    """Write a model as a folder, without optimizer and without pickle."""
    from protlm.checkpoint import DTYPES, check_absent
    from protlm.checkpoint import export as export_folder
    from protlm.exchange.huggingface import export_huggingface

    if layout not in ("folder", "hf"):
        raise UserError(f"--format {layout!r}: expected 'folder' or 'hf'")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if layout == "hf" and dtype != "float32":
        raise UserError(f"--dtype {dtype}: is for --format folder; transformers takes a dtype when it loads a model")
    check_absent(output)  # before what takes time
    network = load_network(model, "cpu", attention=attention, num_features=num_features)
    if layout == "folder":
        export_folder(network, output, dtype)
        say(f"{output}: written; use it as --model {output}")
    else:
        export_huggingface(network, output)
        say(f"{output}: written; {output / 'README.md'} shows how transformers loads it")


def import_esm(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR", help="A folder of Hugging Face with an ESM-2 model.")],
    output: Annotated[Path, typer.Argument(help="The model folder to write.")],
    attention: Attention = None,
    num_features: Features = None,
) -> None:
    """Turn ESM-2 into a model folder, with exact attention unless another is asked for."""
    from protlm.checkpoint import check_absent, switch
    from protlm.checkpoint import export as export_folder
    from protlm.exchange.esm import load_esm

    check_absent(output)
    network = load_esm(source)
    switch(network, attention, num_features)
    export_folder(network, output)
    c = network.config
    say(
        f"{output}: {c.layers} layers, {c.heads} heads, width {c.width}, {c.attention} attention; "
        f"use it as --model {output}"
    )
