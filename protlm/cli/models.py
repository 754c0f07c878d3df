"""Commands that convert models: export, import."""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import Model, load_network, required, say
from protlm.cli.outputs import FOLDER, check_outputs, listed
from protlm.errors import UserError

AttentionOption = Annotated[
    str | None,
    Option(
        help="Switch to another kind of attention and keep all weights. 'softmax' is linear in length and approximates "
        "'exact', but poorly where attention is sharp; fine-tune before use, as with any other kind. Default: no "
        "change."
    ),
]
Features = Annotated[
    int | None,
    Option(min=1, help="New number of random features per head of FAVOR+, which are redrawn. Default: no change."),
]


Compare = Annotated[
    bool | None,
    Option(
        "--compare/--no-compare",
        help="Compute three proteins with transformers, too, and compare. Default: if it is installed and the model "
        "has less than a billion parameters.",
    ),
]
LARGE = 1_000_000_000
"""Number of parameters from which on a model is not compared unless on request: that takes as much memory again."""


def export(
    output: Annotated[Path, Argument(help="Folder to write.")],
    model: Model = None,
    layout: Annotated[
        str,
        Option(
            "--format",
            help="folder (for protlm), hf (for transformers), or esm or esmc (classes of transformers' own).",
        ),
    ] = "folder",
    attention: AttentionOption = None,
    num_features: Features = None,
    dtype: Annotated[
        str, Option(help="Precision of the weights on disk: float32; float16 or bfloat16 halve the size.")
    ] = "float32",
    target: Annotated[
        str | None, Option(help="Of a model of 'protlm fit' with several targets: which one to export.")
    ] = None,
    compare: Compare = None,
) -> None:
    """Write a model folder from a checkpoint or another model: config and safetensors, without optimizer or pickle."""
    if output.suffix == ".ckpt":
        raise UserError(f"{output}: expected a folder to write; the checkpoint to export is given with --model")
    model = required(model)

    from protlm.checkpoint import DTYPES, check_absent
    from protlm.checkpoint import export as export_folder
    from protlm.exchange.huggingface import export_huggingface
    from protlm.exchange.native import export_native
    from protlm.exchange.pretrained import ARCHITECTURES
    from protlm.supervised.huggingface import export_predictor
    from protlm.supervised.predictor_folder import is_predictor, load_predictor

    if layout not in (formats := ("folder", "hf", *ARCHITECTURES)):
        raise UserError(f"--format {layout!r}: expected {listed(map(repr, formats))}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if layout != "folder" and dtype != "float32":
        raise UserError(f"--dtype {dtype} requires --format folder; with transformers, choose a dtype when loading")
    check_absent(output)
    check_outputs({"OUTPUT": (output, FOLDER)})
    if is_predictor(model):
        if layout != "hf" or attention or num_features:
            raise UserError(f"{model}: a model of 'protlm fit'; it is exported with --format hf only, without options")
        predictor = load_predictor(model)
        export_predictor(predictor, output, target)
        _report_export(predictor.model, output, compare, own_code=True)
        return
    if target is not None:
        raise UserError("--target: is for models of 'protlm fit'")
    network = load_network(
        model,
        "cpu",
        only=f"--format {layout} has the tokens of proteins; use --format hf",
        attention=attention,
        num_features=num_features,
        any_alphabet=layout in ("folder", "hf"),
    )
    if layout == "folder":
        export_folder(network, output, dtype)
        say(f"wrote {output}; use it with --model {output}")
        return
    if layout == "hf":
        export_huggingface(network, output, None if attention or num_features else model)
    else:
        export_native(network, output, layout)
    _report_export(network, output, compare, own_code=layout == "hf")


def import_model(
    source: Annotated[
        Path,
        Argument(
            metavar="MODEL",
            help="ESM-2 or ESMC: a Hugging Face folder or name such as facebook/esm2_t6_8M_UR50D, a .pt file of "
            "fair-esm, or a folder with a LoRA adapter.",
        ),
    ],
    output: Annotated[Path, Argument(help="Model folder to write.")],
    base: Annotated[
        Path | None, Option(help="Folder or name of the base model of an adapter. Default: the one that it names.")
    ] = None,
    revision: Annotated[
        str | None, Option(help="Branch, tag or commit of a model of the Hugging Face Hub. Default: main.")
    ] = None,
    attention: AttentionOption = None,
    num_features: Features = None,
    compare: Compare = None,
) -> None:
    """Convert a model of another library to a model folder, by default with its exact attention."""
    from protlm.checkpoint import check_absent, switch
    from protlm.checkpoint import export as export_folder
    from protlm.exchange.pretrained import load_pretrained

    check_absent(output)
    check_outputs({"OUTPUT": (output, FOLDER)})
    imported = load_pretrained(source, base, revision)
    network = imported.model
    found = _compared(network, imported.folder, compare, adapter=imported.adapter) if imported.folder else None
    if found is not None and found.equal is False:
        raise UserError(f"{source}: {found.text}; nothing was written; --no-compare imports it nevertheless")
    switch(network, attention, num_features)
    export_folder(network, output)
    c = network.config
    say(
        f"wrote {output}: {c.layers} layers, {c.heads} heads, width {c.width}, {c.attention_label} attention; "
        f"use it with --model {output}"
    )
    if found is not None:
        say(found.text + ("" if attention is None else f"; that is before the switch to {attention} attention"))
    if attention is not None and attention != "exact":
        say("the switch changes what the model computes; protlm linearise trains a student to compute nearly the same")
    if imported.left_out:
        say(f"left out: {', '.join(imported.left_out)}; fit labels with protlm fit")
    if c.head == "none":
        say("no language-model head: the model embeds proteins, but predicts no residues")


def _report_export(network: Any, output: Path, compare: bool | None, own_code: bool) -> None:
    """Says what was written, and what transformers computes from it; exits with code 1 if that differs."""
    say(f"wrote {output}; {output / 'README.md'} shows how to load it with transformers")
    found = _compared(network, output, compare, own_code)
    if found is not None:
        say(found.text)
        if found.equal is False:
            sys.exit(1)


def _compared(
    network: Any, folder: Path, compare: bool | None, own_code: bool = False, adapter: Path | None = None
) -> Any:
    """The `Comparison` with transformers; None if there is none to make."""
    from protlm.exchange.comparison import compared, installed

    if compare is None:
        compare = installed() and sum(weight.numel() for weight in network.parameters()) < LARGE
    return compared(network, folder, own_code, adapter) if compare else None
