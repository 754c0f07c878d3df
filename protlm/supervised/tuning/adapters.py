"""Low-rank adapters (LoRA, Hu et al. 2022): W + (alpha / r) B A of each projection, trained with peft, then merged.

The files are peft's; to use them takes two matrix products, and no peft.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from protlm.errors import UserError
from protlm.performer import Performer
from protlm.strict_json import dumps

PROJECTIONS = ("qkv", "out", "feed_forward.0", "feed_forward.2")
"""Names at the end of the modules that get an adapter: those of attention and of the feed-forward layers."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of peft


@dataclass(frozen=True)
class Adapters:
    """Trained adapters.

    Attributes:
        config: peft's, ready for JSON.
        tensors: name -> A (r, n) or B (m, r), as peft names them.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @torch.no_grad()
    def merge_into(self, model: Performer) -> None:
        """Adds the adapters to the weights of the model that they were trained with."""
        factor = self.config["lora_alpha"] / self.config["r"]
        names = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in self.tensors})
        for name in names:
            weight = model.get_submodule(name).weight
            a, b = (self.tensors[f"{_PREFIX}{name}.lora_{part}.weight"] for part in "AB")
            assert isinstance(weight, Tensor)
            weight += factor * (b.to(weight) @ a.to(weight))

    def save(self, folder: Path) -> None:
        """Writes the files of peft."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(dumps(self.config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Adapters":
        """Reads the files of peft."""
        return cls(json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS))


def add_adapters(model: Performer, rank: int, alpha: float, dropout: float) -> None:
    """Gives each projection an adapter, which changes nothing until it is trained, and freezes everything else.

    Raises:
        UserError: without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("method lora requires peft; pip install -e '.[lora]' -c constraints.txt", "method") from error
    options: Any = {"target_modules": list(PROJECTIONS), "lora_alpha": alpha, "lora_dropout": dropout, "bias": "none"}
    inject_adapter_in_model(LoraConfig(r=rank, **options), model)


def taken_adapters(model: Performer, base: str | None) -> Adapters:
    """Removes the adapters of `add_adapters` from a model, which then has the weights of before.

    Args:
        model: changed in place.
        base: path of the base model, for peft.
    """
    from peft.tuners.lora import LoraLayer

    tensors, config = {}, {}
    found: list[tuple[str, Any]] = [(name, x) for name, x in model.named_modules() if isinstance(x, LoraLayer)]
    for name, module in found:
        for part, layer in (("A", module.lora_A["default"]), ("B", module.lora_B["default"])):
            tensors[f"{_PREFIX}{name}.lora_{part}.weight"] = layer.weight.detach().cpu().float().clone()
        config = {"r": module.r["default"], "lora_alpha": module.lora_alpha["default"]}
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.base_layer)
    about = {"peft_type": "LORA", "base_model_name_or_path": base, "target_modules": list(PROJECTIONS), "bias": "none"}
    return Adapters(about | {"task_type": None, "inference_mode": True, "lora_dropout": 0.0} | config, tensors)
