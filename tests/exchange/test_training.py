"""Exported models trained with transformers' Trainer and with LoRA of peft, as docs/howto/exchange.md shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from tests.exchange.exported import Exported, load

SEQUENCES = ["MKTAYIAKQR", "MKEEWYCK", "GAVLIMCFYW", "MKT"] * 4
CLASSES = [number % 2 for number in range(16)]
RESIDUES = [[-100, *(int(letter in "KR") for letter in sequence), -100] for sequence in SEQUENCES]
TASKS: dict[str, tuple[Any, str, str | None, list[Any] | None, Any]] = {
    "proteins": (AutoModelForSequenceClassification, "relu", "SEQ_CLS", CLASSES, DataCollatorWithPadding),
    "residues": (AutoModelForTokenClassification, "ESM's", "TOKEN_CLS", RESIDUES, DataCollatorForTokenClassification),
    "masked": (AutoModelForMaskedLM, "ESM's", None, None, DataCollatorForLanguageModeling),
    "causal": (
        AutoModelForCausalLM,
        "causal relu",
        "CAUSAL_LM",
        None,
        lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ),
}
"""Model class, kind of model, peft's task type, labels and collator."""


def trained(model: Any, tokenizer: Any, task: str, folder: Path) -> list[float]:
    """Trains a model for some steps; returns the loss of each."""
    _, _, _, labels, collator = TASKS[task]
    rows = [{name: tokenizer(sequence)[name] for name in ("input_ids", "attention_mask")} for sequence in SEQUENCES]
    if labels is not None:
        rows = [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]
    options: dict[str, Any] = {"max_steps": 25, "learning_rate": 2e-2, "lr_scheduler_type": "constant", "seed": 1}
    options |= {"logging_steps": 1, "use_cpu": True, "report_to": [], "save_steps": 25, "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), per_device_train_batch_size=8, **options)
    trainer: Any = Trainer(model, arguments, collator(tokenizer), train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("task", TASKS)
def test_trainer(exported: Exported, task: str, tmp_path: Path) -> None:
    cls, kind, *_ = TASKS[task]
    model, tokenizer = load(cls, exported[kind]), load(AutoTokenizer, exported[kind])
    losses = trained(model, tokenizer, task, tmp_path)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    inputs = tokenizer(SEQUENCES[:3], padding=True, return_tensors="pt")
    again = load(cls, tmp_path / "checkpoint-25")
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("task", TASKS)
def test_adapters_of_peft(exported: Exported, task: str, tmp_path: Path) -> None:
    """They learn, are saved and loaded with the head, and merge into a model that needs no peft."""
    peft = pytest.importorskip("peft", reason="peft, which trains adapters, is not installed")
    cls, kind, name, *_ = TASKS[task]
    tokenizer, config = (
        load(AutoTokenizer, exported[kind]),
        peft.LoraConfig(task_type=name, target_modules="all-linear"),
    )
    model = peft.get_peft_model(load(cls, exported[kind]), config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    losses = trained(model, tokenizer, task, tmp_path / "run")
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    for name, weight in model.named_parameters():
        changes = "lora_" in name or "classifier.modules_to_save" in name
        assert torch.equal(weight, before[name]) != changes, name
    model.eval().save_pretrained(tmp_path / "adapter")
    inputs = tokenizer(SEQUENCES[:3], padding=True, return_tensors="pt")
    expected = model(**inputs).logits
    again = peft.PeftModel.from_pretrained(load(cls, exported[kind]), tmp_path / "adapter")
    assert torch.equal(again(**inputs).logits, expected)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(load(cls, tmp_path / "merged")(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
