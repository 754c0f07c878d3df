"""LoRA adapters of peft, merged into the weights of their base model.

    W + scale B A,  scale = alpha / r, or alpha / sqrt(r) for rsLoRA

Source: Hu et al. 2021; names of files, settings and weights as in peft 0.21.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from protlm.errors import UserError
from protlm.exchange.hub import ADAPTER, ADAPTER_FILES, located
from protlm.exchange.saved_model import SavedModel, read_folder, read_json, read_weights

PLAIN = {"peft_type": "LORA", "use_dora": False, "fan_in_fan_out": False}
"""Settings that are merged."""
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def merged(folder: Path, base: Path | None = None) -> SavedModel:
    """The base model of an adapter with the adapter merged.

    Args:
        folder: with adapter_config.json and the adapter's weights.
        base: folder of the base model; by default the one that the adapter names.

    Raises:
        UserError: for an adapter that is damaged or not plain LoRA, or whose base model is not there or another one.
    """
    settings = read_json(folder / ADAPTER)
    for name, value in PLAIN.items():
        if (found := settings.get(name, value)) != value and not (value is False and found is None):
            raise UserError(f"{folder / ADAPTER}: {name} is {found!r}; only LoRA with {value!r} can be merged")
    path = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no weights of the adapter; expected one of {', '.join(ADAPTER_FILES)}")
    saved = read_folder(_base(folder, settings) if base is None else base)
    weights = dict(saved.weights)
    adapter = {name.removeprefix(_PREFIX): weight for name, weight in read_weights(path).items()}
    if odd := [name for name in adapter if "lora_" in name and not name.endswith((_A, _B))]:
        raise UserError(f"{path}: {odd[0]}: only LoRA of linear layers can be merged")
    for name, weight in adapter.items():
        if name.endswith(_B):
            continue
        if not name.endswith(_A):  # saved whole, such as a new classifier
            weights[_known(name, saved) or name] = weight
            continue
        module = name.removesuffix(_A)
        target, other = _known(f"{module}.weight", saved), adapter.get(module + _B)
        shape = None if other is None else (other.shape[0], weight.shape[1])
        if target is None or other is None or shape != tuple(weights[target].shape):
            raise UserError(
                f"{path}: {name} does not fit the base model {saved.path.parent}; choose another base", "base"
            )
        weights[target] = weights[target].float() + _scale(settings, module, weight) * (other.float() @ weight.float())
    return replace(saved, path=path, weights=weights)


def _base(folder: Path, settings: dict[str, Any]) -> Path:
    name = str(settings.get("base_model_name_or_path"))
    for path in (Path(name), folder / name, folder.parent / Path(name).name):
        if path.is_dir():
            return path
    try:
        path = located(name, settings.get("revision"))
    except UserError as error:
        raise UserError(f"{folder}: an adapter of {error}, or give its folder as base", "base") from error
    if not path.is_dir():
        raise UserError(f"{folder}: an adapter of {name}, which is not there; give the folder of its base", "base")
    return path


def _known(name: str, saved: SavedModel) -> str | None:
    """The name in the base model of a weight, which may be saved with another head."""
    prefix = f"{saved.config.get('model_type')}."
    return next((one for one in (name, prefix + name, name.removeprefix(prefix)) if one in saved.weights), None)


def _scale(settings: dict[str, Any], module: str, a: Tensor) -> float:
    patterns = settings.get("alpha_pattern") or {}
    matching = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module))
    alpha, rank = next(matching, settings.get("lora_alpha", 8)), a.shape[0]
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
