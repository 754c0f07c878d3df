"""A predictor on disk: config.json, head.safetensors, a report, a card, adapters and, on request, the base model.

No pickle is executed. The base model is referred to by its path and fingerprint, or copied into `base/`; adapters are
in the files of peft.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from protlm import checkpoint
from protlm.errors import UserError
from protlm.strict_json import dumps
from protlm.supervised.card import card
from protlm.supervised.linear_head import LinearHead
from protlm.supervised.report_page import report_page
from protlm.supervised.tuning.adapters import CONFIG as ADAPTERS
from protlm.supervised.tuning.adapters import Adapters
from protlm.supervised.tuning.head import TunedHead

if TYPE_CHECKING:
    from protlm.supervised.predictor import Head, Predictor

VERSION = 1
CONFIG, HEAD, BASE = "config.json", "head.safetensors", "base"
NO_LONGER_SHIPPED = "bundled"
"""Path of the base model that earlier versions shipped."""


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
    if copy_base:  # with its adapters, which are part of its weights
        base = {"path": BASE, "fingerprint": checkpoint.fingerprint(predictor.model)}
    elif not base.get("path"):
        raise UserError("the base model was given as an object, without a path; set copy_base to save it", "copy_base")
    heads, tensors = [], {}
    for number, head in enumerate(predictor.heads):
        for name, tensor in _tensors(head).items():
            tensors[f"{number}.{name}"] = tensor
        heads.append(_described(head))
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
        elif predictor.adapters is not None:
            predictor.adapters.save(partial)


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
        found = "no fitted head there" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {found}; expected a folder with a fitted head, which `protlm fit` writes")
    described = json.loads((folder / CONFIG).read_text())
    if described.get("version") != VERSION:
        raise UserError(f"{folder}: of version {described.get('version')}, expected {VERSION}; update protlm")
    try:
        tensors = load_file(folder / HEAD)
        heads = [_head(one, number, tensors) for number, one in enumerate(described["heads"])]
        adapters = Adapters.load(folder) if (folder / ADAPTERS).exists() else None
        report = json.loads((folder / "report.json").read_text())
        expected, path = described["base"]["fingerprint"], described["base"]["path"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: damaged or incomplete ({error}); fit it again") from error
    own = Path(base) if base is not None else _located(folder, path)
    if not own.exists():
        raise UserError(f"{folder}: its base model {own} is missing; give its new path as base", "base")
    network = (model or checkpoint.load)(own)
    if checkpoint.fingerprint(network) != expected:
        raise UserError(
            f"{own}: not the model that {folder} was fitted with; give the path of that one as base", "base"
        )
    if adapters is not None:
        adapters.merge_into(network)
    named = {**described["base"], "path": str(own)}
    return Predictor(network, heads, report, named, adapters)


def base_of(folder: Path) -> Path:
    """The folder or checkpoint of the base model of a predictor."""
    try:
        return _located(folder, json.loads((folder / CONFIG).read_text())["base"]["path"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}: damaged or incomplete ({error}); fit it again") from error


def _located(folder: Path, base: str) -> Path:
    if base == NO_LONGER_SHIPPED:
        raise UserError(
            f"{folder}: fitted on the small model that earlier versions of protlm shipped; fit it again with another "
            "one, or give the path of a copy of that model as base",
            "base",
        )
    return folder / base


def _described(head: "Head") -> dict[str, Any]:
    """The entry of a head in config.json."""
    if isinstance(head, TunedHead):
        about = head.described
        sizes = {"network": head.sizes}
    else:
        about, sizes = head.__dict__, {}
    found = {name: about[name] for name in ("target", "kind", "per_residue")}
    found |= {"classes": list(head.classes), "features": list(head.blocks), "temperature": head.temperature}
    return found | sizes


def _tensors(head: "Head") -> dict[str, Tensor]:
    """The weights of a head by name."""
    if isinstance(head, TunedHead):
        return {name: tensor.cpu().contiguous() for name, tensor in head.state_dict().items()}
    return {"weight": torch.from_numpy(head.weight.copy()), "bias": torch.from_numpy(head.bias.copy())}


def _head(described: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> "Head":
    """The inverse of `_described` and `_tensors`."""
    own = {name.partition(".")[2]: x for name, x in tensors.items() if name.partition(".")[0] == str(number)}
    about = (described["target"], described["kind"], described["per_residue"], tuple(described["classes"]))
    blocks = tuple(described["features"])
    if "network" not in described:
        return LinearHead(*about, blocks, own["weight"].numpy(), own["bias"].numpy(), described["temperature"])
    head = TunedHead(*about, blocks, **described["network"])
    head.load_state_dict(own)
    head.temperature = described["temperature"]
    return head.eval()
