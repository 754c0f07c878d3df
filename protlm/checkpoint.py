"""Trained models on disk: a folder with config.json and model.safetensors, or a Lightning checkpoint.

No pickle is ever executed: Lightning checkpoints are read with torch's `weights_only`.
"""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from protlm import golden
from protlm.errors import OtherAlphabetError, UserError
from protlm.files import atomic_output
from protlm.missing_model import check_not_a_run, esm_advice, no_such_model
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import PROTEIN, alphabet_of, described_units, name_of
from protlm.sequence.formats import found_in
from protlm.strict_json import dumps

FORMAT = "protlm model"
PREDICTOR = "protlm predictor"
"""Format of the folders of `protlm fit`."""
VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Of stored parameters; computation always uses float32."""
KEY = "protlm"
"""Key of the model's `description` in a Lightning checkpoint."""
PREFIX = "model."
"""Prefix of the names of the model's weights in a Lightning checkpoint."""


def description(config: PerformerConfig) -> dict[str, Any]:
    """The content of config.json: format, version, alphabet and the model's configuration."""
    tokens = alphabet_of(config.alphabet).tokens
    return {"format": FORMAT, "version": VERSION, "alphabet": list(tokens), "model": config.to_dict()}


def load(
    path: str | Path, attention: str | None = None, num_features: int | None = None, any_alphabet: bool = False
) -> Performer:
    """Loads a model folder or a Lightning checkpoint, on the CPU, in float32 and in evaluation mode.

    Args:
        path: a folder written by `export`, or a .ckpt file written by training.
        attention, num_features: see `switch`.
        any_alphabet: accept a model of DNA, RNA, bytes or another alphabet, instead of proteins only.

    Raises:
        UserError: for a path that is missing, damaged, not a model, or of another alphabet; and as `switch`.
    """
    path = Path(path)
    if not path.exists():
        raise no_such_model(path)
    described, weights = _read_folder(path) if path.is_dir() else _read_lightning(path)
    config = _configuration(path, described)
    if not any_alphabet and (alphabet := alphabet_of(config.alphabet)) != PROTEIN:
        raise OtherAlphabetError(f"{path}: a model of {described_units(alphabet)}")
    try:
        model = Performer(config)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: weights that do not fit the configuration; the model is damaged") from error
    switch(model, attention, num_features)
    return model.eval()


def may_be_of_other_letters(path: Path) -> bool:
    """Whether a model may have another alphabet than that of proteins, without its weights being read.

    That of a checkpoint cannot be told, and what is no model has none.
    """
    try:
        return bool(json.loads((path / CONFIG).read_text())["model"].get("alphabet", "protein") != "protein")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return path.is_file()


def switch(model: Performer, attention: str | None = None, num_features: int | None = None) -> None:
    """Switches a model to another kind of attention and keeps its weights; random directions are drawn from its seed.

    "softmax" approximates exact attention, so each can replace the other: well where attention is spread over many
    residues, poorly where it is sharp, even with thousands of features; then the model needs further training. The
    other kinds are different functions and always need it.

    Args:
        model: changed in place.
        attention: as in `PerformerConfig`; None keeps the model's.
        num_features: M of FAVOR+; None keeps that of the configuration.

    Raises:
        UserError: for an unknown kind, a number below 1, or a number of features for attention without any.
    """
    try:
        model.switch_attention(model.config.attention if attention is None else attention, num_features)
    except ValueError as error:
        raise UserError(str(error).removeprefix("model.")) from error
    if num_features is not None and not model.config.kind.uses_random_features:
        raise UserError(
            f"num_features {num_features}: {model.config.attention_label} attention has no random features",
            "num_features",
        )


def export(model: Performer, folder: str | Path, dtype: str = "float32") -> None:
    """Writes a model folder, with golden values; it appears under its name only once it is complete.

    Args:
        model: to store.
        folder: to write; must not exist.
        dtype: of the parameters on disk, one of `DTYPES`; see `stored`.

    Raises:
        UserError: if the folder already exists or cannot be written, for a dtype that is unknown or too narrow, or an
            option of the model that is not finite.
    """
    weights, described = stored(model, dtype), description(model.config)
    if dumps(described) != json.dumps(described):  # null would be another option when the model is loaded
        raise UserError("an option of the model is infinite or NaN, which JSON does not have; use a finite number")
    with new_folder(folder) as model_folder:
        save(weights, model_folder)
        described["sha256"] = _checksum(model_folder / WEIGHTS)
        (model_folder / CONFIG).write_text(dumps(described, indent=2) + "\n")
        golden.record(model, model_folder, None if dtype == "float32" else weights)


def stored(model: Performer, dtype: str) -> dict[str, Tensor]:
    """The weights by name, with the parameters rounded to `dtype`.

    Buffers are not rounded: random directions are small, since all heads of a layer share them, and remain exactly
    those drawn from the seed, orthogonal in float32.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}", "dtype")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = model.state_dict()
    for name in weights.keys() & parameters.keys():
        rounded = weights[name].to(DTYPES[dtype])
        if (rounded.isinf() & weights[name].isfinite()).any():
            raise UserError(f"dtype {dtype}: too narrow for a weight of {name}; use bfloat16 or float32", "dtype")
        weights[name] = rounded
    return weights


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write into; it appears under its name only once it is complete."""
    folder = Path(folder)
    check_absent(folder)
    with atomic_output(folder) as partial:
        partial.mkdir()
        yield partial


def check_absent(folder: Path) -> None:
    """Raises a UserError if the folder already exists."""
    if folder.exists():
        raise UserError(f"{folder}: already exists; choose another folder or remove it")


def save(weights: dict[str, Tensor], folder: Path) -> None:
    """Writes model.safetensors, with the permissions of the folder."""
    # transformers requires the format
    try:
        save_file({name: w.contiguous() for name, w in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    except SafetensorError as error:  # such as a full disk
        raise OSError(str(error)) from error
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)  # safetensors makes it readable only by its owner


def read_lightning(path: str | Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint; raises a UserError if it is damaged or not of a protlm model."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():  # torch.load does not verify the checksums
                raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error below says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise almost anything: IndexError, struct.error, AssertionError
        found = found_in(path)
        advice = esm_advice(path) or ("" if found else "; use an earlier one")
        raise UserError(f"{path}: not a checkpoint, or damaged or cut short{found}{advice}") from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict) or "state_dict" not in content:
        raise UserError(f"{path}: a checkpoint, but not of a protlm model")
    _configuration(path, content[KEY])
    return content


_LATER = ("contact_head", "activation", "qk_norm", "alphabet")
"""Fields of the configuration that are younger than the first fingerprints."""


def fingerprint(model: Performer) -> str:
    """XXH3 hash (128 bits, hexadecimal) of a model's configuration and weights, however it is stored.

    Files of embeddings and fitted models refer to it, so it must not change with the version of protlm: fields that
    were added to the configuration later count only where they differ from their defaults.
    """
    settings = model.config.to_dict()
    for name in _LATER:
        if settings[name] == getattr(PerformerConfig, name):
            del settings[name]
    digest = xxhash.xxh3_128(dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    check_not_a_run(path)
    _check_is_there(path, CONFIG)
    try:
        described = json.loads((path / CONFIG).read_text())
    except ValueError as error:
        raise UserError(f"{path / CONFIG}: not JSON ({error})") from error
    except OSError as error:
        raise UserError(f"{path / CONFIG}: cannot be read ({error.strerror})") from error
    _check_kind(path, described)  # first, since those of transformers may have other files of weights
    _check_is_there(path, WEIGHTS)
    found_in(path / WEIGHTS)  # reports a file that cannot be read
    try:
        if isinstance(described, dict) and described.get("sha256", "") not in ("", _checksum(path / WEIGHTS)):
            raise UserError(f"{path / WEIGHTS}: damaged or cut short, or not of this {CONFIG}; export the model again")
        return described, load_file(path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path / WEIGHTS}: damaged or cut short ({error}); export the model again") from error


def _check_is_there(path: Path, name: str) -> None:
    if not (path / name).is_file():
        raise UserError(f"{path}: not a model folder, {name} is missing; make one with 'protlm export'")


def _check_kind(path: Path, described: Any) -> None:
    """Raises a UserError for a folder of Hugging Face's transformers."""
    kind = described.get("model_type") if isinstance(described, dict) else None
    if isinstance(described, dict) and described.get("format") == PREDICTOR:
        raise UserError(f"{path}: written by protlm fit; use it with protlm predict, or load it with protlm.load")
    if kind in ("protlm", "esm", "esmc"):
        raise UserError(
            f"{path}: a model for Hugging Face's transformers ({kind}); convert it: protlm import {path} MODEL"
        )
    if kind:
        raise UserError(f"{path}: a model of Hugging Face's transformers ({kind}), not of protlm")


def _read_lightning(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = read_lightning(path)
    weights = {name.removeprefix(PREFIX): w for name, w in content["state_dict"].items() if name.startswith(PREFIX)}
    return content[KEY], weights


def _configuration(path: Path, described: Any) -> PerformerConfig:
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UserError(f"{path}: not a protlm model")
    if described.get("version") != VERSION:
        raise UserError(f"{path}: model of version {described.get('version')}, expected {VERSION}; update protlm")
    try:
        config = PerformerConfig.from_dict(described["model"])
        alphabet = alphabet_of(config.alphabet)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error
    if described.get("alphabet") != list(alphabet.tokens):
        expected = "ESM's 33 tokens" if alphabet == PROTEIN else f"that of {name_of(alphabet)}"
        raise UserError(f"{path}: made with a different alphabet from {expected}, so predictions would be wrong")
    return config
