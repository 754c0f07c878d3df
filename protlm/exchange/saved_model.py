"""A saved model of another library: its configuration and its weights. No pickle is executed."""

import json
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from protlm.checkpoint import CONFIG
from protlm.errors import UserError
from protlm.missing_model import esm_advice

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that may hold the weights of a folder; the first one found is read."""
OLDER = {"gamma": "weight", "beta": "bias"}
"""Old names of LayerNorm parameters, which transformers still writes for some models."""


@dataclass(frozen=True)
class SavedModel:
    """What a folder of transformers says and holds.

    Attributes:
        path: of the file with the weights, for messages.
        config_path: of config.json.
        config: its content.
        weights: by name, as they are named there.
    """

    path: Path
    config_path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]


def read_folder(folder: Path) -> SavedModel:
    """Reads config.json and the weights, as safetensors or PyTorch files, in one file or several.

    Raises:
        UserError: for a folder that is missing or damaged.
    """
    if folder.is_file():
        raise UserError(f"{folder}: a file; expected a Hugging Face folder with {CONFIG} and model.safetensors")
    if not folder.is_dir():
        if advice := esm_advice(folder):
            raise UserError(f"{folder}: no such folder{advice}")
        raise UserError(f"{folder}: no such folder; expected a Hugging Face folder with {CONFIG} and model.safetensors")
    config = read_json(folder / CONFIG)
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no weights; expected one of {', '.join(FILES)}")
    if path.suffix != ".json":
        return SavedModel(path, folder / CONFIG, config, _named_as_now(read_weights(path)))
    parts = read_json(path).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise UserError(f"{path}: expected 'weight_map', the file of each weight")
    weights: dict[str, Tensor] = {}
    for part in sorted(set(parts.values())):
        if Path(part).name != part or not (folder / part).is_file():
            raise UserError(f"{path}: names the file {part!r}, which is not in the folder")
        weights |= read_weights(folder / part)
    return SavedModel(path, folder / CONFIG, config, _named_as_now(weights))


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file of a folder."""
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; expected a folder of Hugging Face's transformers")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file by name."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: damaged or cut short ({error}); download it again") from error
    return checked_weights(path, read_pickle(path))


def read_pickle(path: Path) -> Any:
    """A file of `torch.save`, read with `weights_only`, which accepts tensors, plain values and `Namespace` only."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch.load does not verify the checksums
                    raise zipfile.BadZipFile
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{path}: not a file of weights, or damaged or cut short; download it again") from error


def checked_weights(path: Path, weights: Any) -> dict[str, Tensor]:
    """The content of a file, if it is a table of weights by name."""
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{path}: expected a table of weights by name")
    return dict(weights)


def _named_as_now(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def name_of(name: str) -> str:
        module, _, kind = name.rpartition(".")
        now = f"{module}.{OLDER.get(kind, kind)}"
        return now if now not in weights else name

    return {name_of(name): weight for name, weight in weights.items()}
