"""A trained model on disk: a folder with config.json and model.safetensors, or a Lightning checkpoint.

No pickle is executed: Lightning checkpoints are read with torch's `weights_only`.
"""

import hashlib
import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from protlm.errors import UserError
from protlm.output import unfinished
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import TOKENS

FORMAT = "protlm model"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEY = "protlm"
"""Where a Lightning checkpoint keeps the `description` of its model."""
PREFIX = "model."
"""What the names of the model's weights begin with in a Lightning checkpoint."""


def description(config: PerformerConfig) -> dict[str, Any]:
    """What config.json holds: format, version, alphabet and the model's configuration."""
    return {"format": FORMAT, "version": VERSION, "alphabet": list(TOKENS), "model": config.to_dict()}


def load(path: str | Path) -> Performer:
    """The model of a model folder or a Lightning checkpoint, on the CPU and in evaluation mode.

    Args:
        path: a folder written by `export`, or a .ckpt file written by training.

    Raises:
        UserError: for a path that is missing, damaged, something else, or made with another alphabet.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such model; expected a folder from 'protlm export' or a checkpoint from training")
    about, weights = _read_folder(path) if path.is_dir() else _read_lightning(path)
    config = _configuration(path, about)
    try:
        model = Performer(config)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: weights that do not fit the configuration; the model is damaged") from error
    return model.eval()


def export(model: Performer, folder: str | Path) -> None:
    """Writes a model folder; it appears under its name only when it is complete.

    Raises:
        UserError: if the folder exists already or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another folder or remove it")
    with unfinished(folder) as partial:
        model_folder = partial / folder.name
        model_folder.mkdir()
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, model_folder / WEIGHTS)
        about = {**description(model.config), "sha256": _checksum(model_folder / WEIGHTS)}
        (model_folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        (model_folder / WEIGHTS).chmod((model_folder / CONFIG).stat().st_mode)  # safetensors keeps it to its owner
        os.replace(model_folder, folder)


def read_lightning(path: str | Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint of ours, checked: readable, whole, of a protlm model, same alphabet.

    Raises:
        UserError: otherwise.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():  # torch.load does not look at the checksums
                raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly anything: IndexError, struct.error, AssertionError
        raise UserError(f"{path}: not a checkpoint, or damaged or cut short; use an earlier one") from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict) or "state_dict" not in content:
        raise UserError(f"{path}: a checkpoint, but not of a protlm model")
    _configuration(path, content[KEY])
    return content


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise UserError(f"{path}: not a model folder, {name} is missing; make one with 'protlm export'")
    try:
        about = json.loads((path / CONFIG).read_text())
    except ValueError as error:
        raise UserError(f"{path / CONFIG}: not JSON ({error})") from error
    try:
        if isinstance(about, dict) and about.get("sha256", "") not in ("", _checksum(path / WEIGHTS)):
            raise UserError(f"{path / WEIGHTS}: damaged or cut short, or not of this {CONFIG}; export the model again")
        return about, load_file(path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path / WEIGHTS}: damaged or cut short ({error}); export the model again") from error


def _read_lightning(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = read_lightning(path)
    weights = {name.removeprefix(PREFIX): w for name, w in content["state_dict"].items() if name.startswith(PREFIX)}
    return content[KEY], weights


def _configuration(path: Path, about: Any) -> PerformerConfig:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path}: not a protlm model")
    if about.get("version") != VERSION:
        raise UserError(f"{path}: model of version {about.get('version')}, expected {VERSION}; update protlm")
    if about.get("alphabet") != list(TOKENS):
        raise UserError(f"{path}: made with another alphabet than ESM's 33 tokens, its predictions would be wrong")
    try:
        return PerformerConfig.from_dict(about["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error
