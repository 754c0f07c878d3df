"""A model as a folder of a class of transformers' own, such as EsmForMaskedLM: loading it executes no other code."""

from pathlib import Path
from typing import Any

from protlm import __version__, golden
from protlm.checkpoint import CONFIG, new_folder, save
from protlm.errors import UserError
from protlm.exchange.architecture import Architecture
from protlm.exchange.pretrained import ARCHITECTURES
from protlm.exchange.tokenizer import tokenizer_config
from protlm.exchange.weight_names import moved_back
from protlm.performer import Performer
from protlm.sequence.alphabet import TOKENS
from protlm.strict_json import dumps


def export_native(model: Performer, folder: str | Path, layout: str) -> None:
    """Writes the folder atomically, in float32; `protlm import` reads it back to the same model, bit for bit.

    Args:
        model: of the architecture of the family, such as an imported one after further training.
        folder: must not exist.
        layout: the family, one of `ARCHITECTURES`.

    Raises:
        UserError: for a model with another architecture, which the message names, or a folder that exists already or
            cannot be written.
    """
    table = ARCHITECTURES[layout]
    try:
        entries = table.entries(model.config)
        more, weights = table.back(model.config, moved_back(table.names, model))
    except UserError as error:
        raise UserError(f"layout {layout!r}: {error}; use 'hf', which takes any model", "layout") from error
    described: dict[str, Any] = {
        "architectures": [table.classes[model.config.head == "none"]],
        "model_type": layout,
        "dtype": "float32",
        **entries,
        **more,
        "protlm_version": __version__,
    }
    tokenizer = {**tokenizer_config(model.config), "tokenizer_class": table.tokenizer}
    with new_folder(folder) as partial:
        save({name: weight.float().cpu() for name, weight in weights.items()}, partial)
        (partial / "vocab.txt").write_text("\n".join(TOKENS))
        (partial / "tokenizer_config.json").write_text(dumps(tokenizer, indent=2) + "\n")
        (partial / CONFIG).write_text(dumps(described, indent=2) + "\n")
        (partial / "README.md").write_text(_card(model, Path(folder).name, table), encoding="utf-8")
        golden.record(model, partial)


def _card(model: Performer, name: str, table: Architecture) -> str:
    """The model card, README.md of the folder."""
    cls, answer = table.classes[0], "logits"
    text = "MKT<mask>YIAKQR"
    if model.config.head == "none":
        cls, answer, text = table.classes[1], "last_hidden_state", "MKTAYIAKQR"
    return f"""\
---
library_name: transformers
tags: [biology, protein language model]
---

# {name}

A protein language model with the architecture of {table.title}, {model.config.layers} layers and width \
{model.config.width}, exported by protlm {__version__}.

```python
from transformers import AutoTokenizer, {cls}
model = {cls}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
{answer} = model(**tokenizer("{text}", return_tensors="pt")).{answer}
```

Write residues as upper-case letters, with X for J and for unknown residues.
"""
