"""The command check."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from protlm.cli.console import (
    MODEL_VARIABLE,
    Backend,
    Device,
    Packed,
    Precision,
    announced,
    given_path,
    load_network,
    required,
    say,
)
from protlm.errors import UserError


def check(
    model: Annotated[
        Path | None,
        Argument(
            metavar="[MODEL]",
            envvar=MODEL_VARIABLE,
            parser=given_path,
            help="Model folder, also one for transformers or of protlm fit.",
        ),
    ] = None,
    write: Annotated[
        bool, Option("--write", help="Record the values of this machine in a folder that has none yet.")
    ] = False,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
) -> None:
    """Recompute embeddings and logits of three sequences, and say by how much they differ from those kept in MODEL.

    Exit code 0 if all are within the tolerance of the precision, 1 if not, 2 if there is nothing to compare with.
    """
    model = required(model, name="MODEL", kinds="a model folder (protlm export)")

    from protlm import golden
    from protlm.exchange.pretrained import is_for_transformers, load_pretrained
    from protlm.inference.engine import Computer
    from protlm.inference.reproduction import recomputed
    from protlm.model_api import placed
    from protlm.sequence.alphabets import alphabet_of
    from protlm.supervised.predictor_folder import base_of, is_predictor
    from protlm.tables import aligned

    folder = base_of(model) if is_predictor(model) else model
    if is_for_transformers(folder):
        network = announced(placed(load_pretrained(folder).model, device, attention_backend, packed_batches))
    else:
        options = {"attention_backend": attention_backend, "packed_batches": packed_batches, "any_alphabet": True}
        network = load_network(folder, device, **options)
    if not folder.is_dir():
        raise UserError(f"{folder}: a checkpoint keeps no golden values; export it to a model folder: protlm export")
    kept = golden.read(folder)
    if kept is None and is_for_transformers(folder):
        raise UserError(
            f"{folder}: no golden values in this folder of transformers; import it: protlm import {folder} MODEL"
        )
    if write:
        if kept is not None:
            raise UserError(f"{folder}: has golden values already; without --write they are compared")
        golden.record(network, folder)
        say(f"wrote {folder / golden.FILE}")
        return
    if kept is None:
        raise UserError(
            f"{folder}: no golden values: an earlier version of protlm wrote it, or {golden.FILE} was removed; to "
            "record those of a machine that you trust, use --write"
        )
    if folder != model:
        say(f"base model: {folder}")
    found = golden.differences(recomputed(Computer(network, precision=precision)), kept.values)
    header = (alphabet_of(network.config.alphabet).record, "values", "max. difference", "relative")
    lines = [(one.protein, one.quantity, f"{one.absolute:.2g}", f"{one.relative:.2g}") for one in found]
    print(aligned(header, lines, left=(0, 1)))
    tolerance, where = golden.TOLERANCES[precision], f"{next(network.parameters()).device}, {precision}"
    if all(one.relative <= tolerance for one in found):
        print(f"{where}: as recorded ({kept.source}), within the relative tolerance of {tolerance:g}")
        return
    print(
        f"{where}: not as recorded ({kept.source}): beyond the relative tolerance of {tolerance:g}; this machine "
        "computes something else, or the weights have changed since"
    )
    sys.exit(1)
