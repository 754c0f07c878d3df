"""Golden values as transformers computes them from a folder, in a process of its own: `comparison` starts it.

The process reads one JSON object from standard input, see `main`, and writes a safetensors file.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from protlm import golden

PREDICTS = ("ForMaskedLM", "ForCausalLM")
"""How names of classes with a language-model head end."""
TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""Task type of an adapter -> class."""
CLASSIFIER = re.compile(r"(classifier|score)\.(out_proj\.)?weight$")
"""Names of the weight of a classifier in the file of an adapter, whose rows are labels."""


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


def adapted(folder: Path, adapter: Path) -> Any:
    """The model with an adapter of peft, of the class that the adapter was trained with.

    Args:
        folder: of the base model.
        adapter: folder of the adapter.
    """
    from peft import PeftModel

    settings = json.loads((adapter / "adapter_config.json").read_text())
    name = (settings.get("auto_mapping") or {}).get("base_model_class") or TASKS.get(settings.get("task_type"))
    if name is None:
        name = json.loads((folder / "config.json").read_text())["architectures"][0]
    labels = {}
    path = adapter / "adapter_model.safetensors"
    if path.exists() and (sizes := [len(x) for key, x in load_file(path).items() if CLASSIFIER.search(key)]):
        labels = {"num_labels": sizes[0]}
    base = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, **labels)
    return PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().eval()


@torch.inference_mode()
def main() -> None:
    """Computes the values of `golden.Golden`.

    The request has folder, own_code (see `loaded`), adapter (see `adapted`, or null), output (path), rows (protein:
    tokens) and vocabulary (number of logits to keep).
    """
    request, values = json.load(sys.stdin), {}
    folder, adapter = Path(request["folder"]), request["adapter"]
    model = loaded(folder, request["own_code"]) if adapter is None else adapted(folder, Path(adapter))
    for name, tokens in request["rows"].items():
        row = torch.tensor([tokens])
        output = model(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True)
        predicts = type(model).__name__.endswith(PREDICTS)
        logits = output.logits[0, :, : request["vocabulary"]] if predicts else None
        values |= golden.named(name, output.hidden_states[-1][0], logits)
    save_file(values, request["output"], {"version": transformers.__version__})


if __name__ == "__main__":
    main()
