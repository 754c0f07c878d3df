"""Golden values as transformers computes them from a folder, in a process of its own: `comparison` starts it.

The process reads one JSON object from standard input, see `main`, and writes a safetensors file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from protlm import golden

PREDICTS = ("ForMaskedLM", "ForCausalLM")
"""How names of classes with a language-model head end."""


def loaded(folder: Path, own_code: bool) -> Any:
    """The model, of the class that config.json names, in float32.

    Args:
        folder: for transformers.
        own_code: whether to execute the Python files of the folder.
    """
    about = json.loads((folder / "config.json").read_text())
    name = (about.get("architectures") or ["AutoModel"])[0]
    if own_code:
        name = next(auto for auto, cls in about["auto_map"].items() if cls.endswith(f".{name}"))
    cls = getattr(transformers, name)
    return cls.from_pretrained(folder, trust_remote_code=own_code, dtype=torch.float32).eval()


@torch.inference_mode()
def main() -> None:
    """Computes the values of `golden.Golden`.

    The request has folder, own_code (see `loaded`), output (path), rows (protein: tokens) and vocabulary (number of
    logits to keep).
    """
    request = json.load(sys.stdin)
    model, values = loaded(Path(request["folder"]), request["own_code"]), {}
    for name, tokens in request["rows"].items():
        row = torch.tensor([tokens])
        output = model(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True)
        predicts = type(model).__name__.endswith(PREDICTS)
        logits = output.logits[0, :, : request["vocabulary"]] if predicts else None
        values |= golden.named(name, output.hidden_states[-1][0], logits)
    save_file(values, request["output"], {"version": transformers.__version__})


if __name__ == "__main__":
    main()
