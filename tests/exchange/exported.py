"""Small random models of each kind of attention, exported to Hugging Face's transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from protlm.exchange.huggingface import export_huggingface
from protlm.performer import Performer, PerformerConfig
from protlm.performer.linformer import Linformer
from protlm.performer.lsh import Lsh
from protlm.performer.window import Window
from protlm.sequence.alphabet import EOS, PAD

SIZES = {"layers": 2, "heads": 2, "width": 16, "feed_forward": 32, "max_length": 30, "num_features": 20, "dropout": 0.0}
PROTEINS = ["MKTAYIAKQRUOXBZ", "MKT", "GAVLIMCFYW" * 4]
KINDS = {
    "relu": {},
    "softmax": {"attention": "softmax", "positions": "rotary", "start_id": EOS},
    "exact": {"attention": "exact"},
    "ESM's": {"attention": "exact", "positions": "rotary", "head": "esm", "zeroed_id": 32, "rotary_dtype": "float16"},
    "esmc": {"attention": "exact", "positions": "rotary", "head": "esmc", "activation": "swiglu", "qk_norm": True},
    "adaptive": {"attention": "sderf", "norms": "constant"},
    "linformer": {"attention": Linformer(5), "positions": "rotary", "max_length": 60},
    "reformer": {"attention": Lsh(2, 8)},
    "window": {"attention": Window(6)},
    "causal window": {"attention": "window", "causal": True, "start_id": EOS},
    "causal relu": {"causal": True, "start_id": EOS},
    "causal softmax": {"attention": "softmax", "causal": True, "positions": "rotary"},
    "causal exact": {"attention": "exact", "causal": True},
}


def build(kind: str) -> Performer:
    """A model whose random directions are no longer those of its seed."""
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, PAD, **{**SIZES, **KINDS[kind]}))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
        model(torch.randint(4, 24, (2, 20)))
    model.redraw(3)
    return model.eval()


class Exported(dict[str, Path]):
    """The folder of each kind, written when it is first needed; the names are not valid Python identifiers.

    Args:
        parent: of the folders.
    """

    def __init__(self, parent: Path) -> None:
        super().__init__()
        self.parent = parent

    def __missing__(self, kind: str) -> Path:
        self[kind] = self.parent / f"{kind}-1.0"
        export_huggingface(build(kind), self[kind])
        return self[kind]


def auto(kind: str) -> Any:
    return AutoModelForCausalLM if kind.startswith("causal") else AutoModelForMaskedLM


def load(cls: Any, folder: Path, **options: Any) -> Any:
    return cls.from_pretrained(folder, trust_remote_code=True, **options)
