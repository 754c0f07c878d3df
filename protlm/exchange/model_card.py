"""Model cards of exported models, with metadata as the Hugging Face Hub reads it.

Source: the Hub's documentation of model cards; a task type is the name of a pipeline of transformers.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from protlm import __version__
from protlm.performer import PerformerConfig
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.letters import Alphabet
from protlm.strict_json import dumps

RESULTS = "results.json"
"""Of a run: split -> metric -> value."""
_METRICS = ("accuracy", "unigram_accuracy", "perplexity", "unigram_perplexity")
_WRITTEN = "Write residues as upper-case letters, with X for J and for unknown residues."
_SPLITS = {"test": "held-out clusters", "ood": "new members of training clusters"}

Result = tuple[str, Mapping[str, float]]
"""A data set, and the metrics of the model on it."""


def front_matter(name: str, task: str, results: Sequence[Result] = (), alphabet: Alphabet = PROTEIN) -> str:
    """The metadata at the top of a card.

    Args:
        name: of the model.
        task: the pipeline of transformers that it is for.
        results: shown on the model's page of the Hub.
        alphabet: of the model.

    >>> print(front_matter("m", "fill-mask", [("held-out clusters", {"accuracy": 0.25})]))
    ---
    library_name: transformers
    pipeline_tag: fill-mask
    tags: ["biology", "protein language model", "Performer"]
    model-index: [{"name": "m", "results": [{"task": {"type": "fill-mask"}, "dataset": {"name": "held-out clusters",
    "type": "proteins"}, "metrics": [{"type": "accuracy", "value": 0.25}]}]}]
    ---
    """
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}"]
    about = ["biology", "protein language model"] if alphabet == PROTEIN else ["language model"]
    lines += [f"tags: {dumps([*about, 'Performer'])}"]
    entries = [
        {
            "task": {"type": task},
            "dataset": {"name": dataset, "type": f"{alphabet.record}s"},
            "metrics": [{"type": metric, "value": value} for metric, value in metrics.items()],
        }
        for dataset, metrics in results
    ]
    if entries:
        lines += [f"model-index: {dumps([{'name': name, 'results': entries}])}"]  # JSON is YAML
    return "\n".join([*lines, "---"])


def language_model_card(config: PerformerConfig, auto: str, name: str, source: Path | None = None) -> str:
    """The card of a language model.

    Args:
        config: of the model.
        auto: class of transformers.
        name: of its folder.
        source: the model that was exported: a checkpoint, whose run may have results, or a folder, which may have a
            card of its own, whose text is added; None for neither.
    """
    task = "feature-extraction" if config.head == "none" else "text-generation" if config.causal else "fill-mask"
    results = [] if source is None else results_of(source)
    alphabet = alphabet_of(config.alphabet)
    what, written = "protein language model", _WRITTEN
    if alphabet != PROTEIN:
        what, written = f"language model of {alphabet.unit}s", f"Its tokeniser reads {alphabet.unit}s as protlm does."
    return f"""\
{front_matter(name, task, [(_SPLITS.get(split, split), metrics) for split, metrics in results], alphabet)}

# {name}

A {"causal" if config.causal else "bidirectional"} {what}, of {config.layers} layers and width \
{config.width}, exported by protlm {__version__}.

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
{_use(task, alphabet)}
```

{written} Padding may be on either side. The Python files
are copied from protlm (Apache License 2.0) and need torch and numpy.
{_evaluation(results, alphabet)}{"" if source is None else _own_card(source)}"""


def _use(task: str, alphabet: Alphabet) -> str:
    example = "MKTAYIAKQR" if alphabet == PROTEIN else alphabet.definite[:4] if len(alphabet.drawn) < 99 else "text"
    if task == "text-generation":
        spaces = '.replace(" ", "")' * (alphabet == PROTEIN)
        return (
            f'{alphabet.record}s = model.generate(**tokenizer("{example}", return_tensors="pt"), do_sample=True, '
            "max_new_tokens=50)\n"
            f"print(tokenizer.decode({alphabet.record}s[0], skip_special_tokens=True){spaces})"
        )
    text, answer = (
        (example, "last_hidden_state")
        if task == "feature-extraction"
        else (f"{example[:3]}<mask>{example[4:]}", "logits")
    )
    return f'{answer} = model(**tokenizer("{text}", return_tensors="pt")).{answer}'


def results_of(source: Path) -> list[Result]:
    """The results of the run of a checkpoint, by split: they are of best.ckpt, or of last.ckpt without a best."""
    run = source.parent.parent
    if source.name != "best.ckpt" and (source.name != "last.ckpt" or source.with_name("best.ckpt").exists()):
        return []
    if not (run / RESULTS).is_file():
        return []
    rows = json.loads((run / RESULTS).read_text())
    found = [
        (split, {name: row[name] for name in _METRICS if isinstance(row.get(name), int | float)})
        for split, row in rows.items()
    ]
    return [(split, metrics) for split, metrics in found if metrics]


def _evaluation(results: Sequence[Result], alphabet: Alphabet) -> str:
    if not results:
        return ""
    names = [name for name in _METRICS if any(name in metrics for _, metrics in results)]
    lines = ["", "## Evaluation", "", f"| split | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines += ["|---|" + "---:|" * len(names)]
    for split, metrics in results:
        cells = [f"{metrics[name]:.4g}" if name in metrics else "" for name in names]
        lines += [f"| {split}: {_SPLITS[split]} | " if split in _SPLITS else f"| {split} | "]
        lines[-1] += " | ".join(cells) + " |"
    lines += ["", f"`unigram` predicts by {alphabet.unit} frequencies in training. Accuracies are fractions."]
    return "\n".join(lines) + "\n"


def _own_card(source: Path) -> str:
    """The text of the card in a model folder, one level lower."""
    if not (source / "README.md").is_file():
        return ""
    text = (source / "README.md").read_text(encoding="utf-8")
    lines, fenced = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip().split("\n"), False
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        lines[number] = f"#{line}" if line.startswith("#") and not fenced else line
    return "\n" + "\n".join(lines) + "\n"
