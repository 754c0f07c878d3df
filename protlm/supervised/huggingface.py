"""A fitted model as a folder for Hugging Face's transformers, as AutoModelForSequenceClassification or for tokens."""

from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protlm import __version__
from protlm.exchange.huggingface import model_config, write_huggingface
from protlm.exchange.model_card import front_matter
from protlm.performer.label_head import LabelHead
from protlm.supervised.card import base_of, metrics_of, warnings_of
from protlm.supervised.predictor import Head, Predictor
from protlm.supervised.tuning.head import CODES, TunedHead

PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "ranking": "regression",
}
"""Kind of a target -> problem type of transformers."""


def export_predictor(predictor: Predictor, folder: str | Path, target: str | None = None) -> None:
    """Writes the folder, with adapters merged and the temperature in the logits.

    Args:
        predictor: fitted.
        folder: must not exist.
        target: which head, if there are several.

    Raises:
        UserError: if the folder exists, or for several targets without a choice.
    """
    head = predictor.head(target)
    auto = f"AutoModelFor{'Token' if head.per_residue else 'Sequence'}Classification"
    name = f"Protlm{auto.removeprefix('AutoModel')}"
    config, sizes = model_config(predictor.model), _sizes(head)
    config["architectures"] = [name]
    config["auto_map"] = {name: config["auto_map"][name] for name in ("AutoConfig", "AutoModel", auto)}
    classes = head.classes or ("value",)
    config |= {"problem_type": PROBLEMS[head.kind], "id2label": {str(i): one for i, one in enumerate(classes)}}
    config |= {"label2id": {one: i for i, one in enumerate(classes)}, "label_head": sizes}
    weights = {f"classifier.{name}": tensor for name, tensor in _weights(head, sizes, predictor.model.config).items()}
    write_huggingface(folder, predictor.model, weights, config, card(head, auto, Path(folder).name, predictor.report))


def _sizes(head: Head) -> dict[str, Any]:
    """The arguments of the `LabelHead` in config.json."""
    if isinstance(head, TunedHead):
        network = {name: head.sizes[name] for name in ("hidden", "pooling")}
        return {"blocks": list(head.blocks), "features": head.sizes["features"], **network, "codes": CODES}
    return {"blocks": list(head.blocks), "features": len(head.weight), "hidden": None, "codes": CODES}


def _weights(head: Head, sizes: dict[str, Any], config: Any) -> dict[str, Tensor]:
    """The weights of the `LabelHead`."""
    outputs = max(1, len(head.classes))
    made = LabelHead(head.per_residue, outputs=outputs, width=config.width, last=config.layers, **sizes)
    if isinstance(head, TunedHead):
        made.load_state_dict(head.state_dict())
    else:
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(head.weight))
            made.bias.copy_(torch.from_numpy(head.bias))
    if head.classes:
        made.spread /= head.temperature
    return dict(made.state_dict())


def card(head: Head, auto: str, name: str, report: dict[str, Any]) -> str:
    """The model card, with the evaluation of the head in the report of its fit."""
    task = "token-classification" if head.per_residue else "text-classification"
    evaluated = [target for target in report["targets"] if target["name"] == head.target]
    results = [(report["split"]["described"], _values(target)) for target in evaluated]
    sections = "\n".join(line for target in evaluated for line in ["", *metrics_of(target), *warnings_of(report)])
    return f"""\
{front_matter(name, task, results)}

# {name}

Predicts {head.target} of {"residues" if head.per_residue else "proteins"} ({head.kind}); exported by protlm \
{__version__}.

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
logits = model(**tokenizer("MKTAYIAKQR", return_tensors="pt")).logits
```

Write residues as upper-case letters, with X for J and for unknown residues. Padding may be on either side. The Python
files are copied from protlm (Apache License 2.0) and need torch and numpy.

Base model: {base_of(report)}. Evaluation: {report["split"]["described"]}.
{sections}
"""


def _values(target: dict[str, Any]) -> dict[str, float]:
    """The metrics of the model, the first method of a report, that are defined."""
    metrics = next(iter(target["metrics"].values()))
    return {name: one["value"] for name, one in metrics.items() if one["value"] is not None and isfinite(one["value"])}
