"""A predictor on disk: config.json, head.safetensors, a report, a card and, on request, the base model.

No pickle is executed. The base model is referred to by its path and fingerprint, or copied into `base/`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from protlm import bundled, checkpoint
from protlm.errors import UserError
from protlm.strict_json import dumps
from protlm.supervised.card import card
from protlm.supervised.linear_head import LinearHead
from protlm.supervised.report_page import report_page

if TYPE_CHECKING:
    from protlm.supervised.predictor import Predictor

VERSION = 1
CONFIG, HEAD, BASE = "config.json", "head.safetensors", "base"
BUNDLED = "bundled"


def is_predictor(path: Any) -> bool:
    """Whether a path is a folder of a predictor."""
    try:
        return json.loads((Path(path) / CONFIG).read_text())["format"] == checkpoint.PREDICTOR
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_predictor(predictor: "Predictor", folder: str | Path, copy_base: bool = False) -> None:
    """Writes a folder; it appears under its name only once it is complete.

    Raises:
        UserError: if the folder exists, or the base model has no path and is not copied.
    """
    base = dict(predictor.base)
    if copy_base:
        base["path"] = BASE
    elif not base.get("path"):
        raise UserError("the base model was given as an object, without a path; set copy_base to save it", "copy_base")
    heads, tensors = [], {}
    for number, head in enumerate(predictor.heads):
        tensors[f"{number}.weight"] = torch.from_numpy(head.weight.copy())
        tensors[f"{number}.bias"] = torch.from_numpy(head.bias.copy())
        heads.append(
            {
                "target": head.target,
                "kind": head.kind,
                "per_residue": head.per_residue,
                "classes": list(head.classes),
                "features": list(head.blocks),
                "temperature": head.temperature,
            }
        )
    described = {"format": checkpoint.PREDICTOR, "version": VERSION, "base": base, "heads": heads}
    with checkpoint.new_folder(folder) as partial:
        try:
            save_file(tensors, partial / HEAD)
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
        (partial / HEAD).chmod(partial.stat().st_mode & 0o666)
        (partial / CONFIG).write_text(dumps(described, indent=2) + "\n")
        (partial / "report.json").write_text(dumps(predictor.report, indent=2) + "\n")
        (partial / "report.html").write_text(report_page(predictor.report), encoding="utf-8")
        (partial / "README.md").write_text(card(predictor.report, Path(folder).name), encoding="utf-8")
        if copy_base:
            checkpoint.export(predictor.model, partial / BASE)


def load_predictor(folder: str | Path, model: Any = None, base: str | Path | None = None) -> "Predictor":
    """Loads a folder written by `write_predictor`.

    Args:
        folder: to read.
        model: loads the base model from its path; by default `checkpoint.load`.
        base: path of the base model, if it has moved.

    Raises:
        UserError: for a folder that is damaged, or a base model that is missing or another one.
    """
    from protlm.supervised.predictor import Predictor

    folder = Path(folder)
    if not is_predictor(folder):
        found = "not one of these" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {found}; expected a folder with a fitted head, which `protlm fit` writes")
    described = json.loads((folder / CONFIG).read_text())
    if described.get("version") != VERSION:
        raise UserError(f"{folder}: of version {described.get('version')}, expected {VERSION}; update protlm")
    try:
        tensors = load_file(folder / HEAD)
        heads = [
            LinearHead(
                head["target"],
                head["kind"],
                head["per_residue"],
                tuple(head["classes"]),
                tuple(head["features"]),
                tensors[f"{number}.weight"].numpy(),
                tensors[f"{number}.bias"].numpy(),
                head["temperature"],
            )
            for number, head in enumerate(described["heads"])
        ]
        report = json.loads((folder / "report.json").read_text())
        expected, path = described["base"]["fingerprint"], described["base"]["path"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: damaged or incomplete ({error}); fit it again") from error
    own = Path(base) if base is not None else bundled.path() if path == BUNDLED else folder / path
    if not own.exists():
        raise UserError(f"{folder}: its base model {own} is missing; give its new path as base", "base")
    network = (model or checkpoint.load)(own)
    if checkpoint.fingerprint(network) != expected:
        raise UserError(
            f"{own}: not the model that {folder} was fitted with; give the path of that one as base", "base"
        )
    return Predictor(network, heads, report, {**described["base"], "path": str(own) if path != BUNDLED else path})
