"""A model as a folder that Hugging Face's transformers loads without protlm.

The folder has the weights, a tokeniser of transformers' own, and the source files of protlm/performer that the model
needs, so that there is one implementation. transformers copies all files into one package, so their imports are made
relative.
"""

import json
import re
from pathlib import Path
from typing import Any

from protlm import __version__
from protlm.checkpoint import CONFIG, new_folder, save
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import INDEX, TOKENS

PACKAGE = Path(__file__).parents[1]
WRAPPER = "exchange/modeling_protlm.py"
IMPORT = re.compile(r"^from protlm\.performer\.(\w+) import", re.MULTILINE)
HEADER = f"""\
# Part of protlm {__version__}, a copy made for this model.
# SPDX-License-Identifier: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""
NAMED = "\n\n# transformers 4 takes along only the files that are named in this one\n"
PREFIX = "performer."
"""What the names of the weights begin with: the attribute of the classes in modeling_protlm.py."""


def export_huggingface(model: Performer, folder: str | Path) -> None:
    """Writes the folder; it appears under its name only when it is complete.

    `transformers.AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)` loads a bidirectional model,
    `AutoModelForCausalLM` a unidirectional one, `AutoModel` either without its head, `AutoTokenizer` the tokeniser.

    Raises:
        UserError: if the folder exists already or cannot be written.
    """
    with new_folder(folder) as partial:
        save({PREFIX + name: weight for name, weight in model.state_dict().items()}, partial)
        for name, text in sources().items():
            (partial / name).write_text(text, encoding="utf-8")
        (partial / "vocab.txt").write_text("\n".join(TOKENS))
        _write_json(partial / "tokenizer_config.json", tokenizer_config(model.config))
        _write_json(partial / CONFIG, model_config(model))
        (partial / "README.md").write_text(card(model.config, Path(folder).name), encoding="utf-8")


def sources() -> dict[str, str]:
    """File name -> text of all that the exported model needs, with relative imports."""
    texts: dict[str, str] = {}
    waiting = [PACKAGE / WRAPPER]
    while waiting:
        path = waiting.pop()
        text = path.read_text(encoding="utf-8")
        texts[path.name] = HEADER + IMPORT.sub(r"from .\1 import", text)
        needed = (PACKAGE / "performer" / f"{module}.py" for module in sorted(set(IMPORT.findall(text))))
        waiting += [path for path in needed if path.name not in texts]
    main = Path(WRAPPER).name
    others = sorted(Path(name).stem for name in texts if name != main)
    texts[main] += NAMED + "".join(f"from .{module} import __name__ as _\n" for module in others)
    return texts


def auto_classes(config: PerformerConfig) -> dict[str, str]:
    """transformers' Auto classes -> ours, but for the configuration's."""
    head = "ForCausalLM" if config.causal else "ForMaskedLM"
    return {"AutoModel": "ProtlmModel", f"AutoModel{head}": f"Protlm{head}"}


def model_config(model: Performer) -> dict[str, Any]:
    """What config.json holds."""
    classes = {"AutoConfig": "ProtlmConfig", **auto_classes(model.config)}
    return {
        "architectures": [list(classes.values())[-1]],
        "auto_map": {auto: f"{Path(WRAPPER).stem}.{name}" for auto, name in classes.items()},
        "model_type": "protlm",
        "torch_dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
        "pad_token_id": model.config.pad_id,
        "bos_token_id": model.config.start_id,
        "eos_token_id": INDEX["<eos>"],
        "mask_token_id": INDEX["<mask>"],
        "performer": model.config.to_dict(),
        "protlm_version": __version__,
    }


def tokenizer_config(config: PerformerConfig) -> dict[str, Any]:
    """Of transformers' EsmTokenizer, which puts `cls_token` before a protein."""
    return {
        "tokenizer_class": "EsmTokenizer",
        "cls_token": TOKENS[config.start_id],
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "padding_side": "right",
    }


def card(config: PerformerConfig, name: str) -> str:
    """The README of the folder."""
    auto = list(auto_classes(config))[-1]
    text = "MKTAYIAKQR" if config.causal else "MKT<mask>YIAKQR"
    return f"""\
---
library_name: transformers
tags: [biology, protein language model, Performer]
---

# {name}

A {"unidirectional" if config.causal else "bidirectional"} protein language model of {config.layers} layers and width \
{config.width}, exported by protlm {__version__}.

```python
from transformers import {auto}, AutoTokenizer
model = {auto}.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
logits = model(**tokenizer("{text}", return_tensors="pt")).logits
```

Write residues in capital letters, X for an unknown one and for J, and pad at the right, as the tokeniser does by
default. The Python files are copies from protlm, under the Apache License 2.0, and need torch and numpy.
"""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
