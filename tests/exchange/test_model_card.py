"""The card of an exported model: its metadata are those of the Hub, and its figures those of the run."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from protlm.checkpoint import export
from protlm.exchange.model_card import language_model_card, results_of
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import PAD
from tests.exchange.exported import SIZES

RESULTS = {
    "test": {"accuracy": 0.118, "unigram_accuracy": 0.099, "perplexity": 16.9, "unigram_perplexity": 17.9, "loss": 2.8},
    "ood": {"accuracy": 0.347, "unigram_accuracy": 0.091, "perplexity": None, "unigram_perplexity": 17.8},
}
CONFIG = PerformerConfig(33, PAD, **SIZES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with results."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path


def test_results_of_a_run_are_in_the_table_and_in_the_metadata(run: Path) -> None:
    card = ModelCard(language_model_card(CONFIG, "AutoModelForMaskedLM", "mine", run / "checkpoints" / "best.ckpt"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "fill-mask")
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found["held-out clusters", "accuracy"] == 0.118
    assert found["new members of training clusters", "accuracy"] == 0.347
    assert len(found) == 7
    assert "| test: held-out clusters | 0.118 | 0.099 | 16.9 | 17.9 |" in card.text
    assert "| ood: new members of training clusters | 0.347 | 0.091 |  | 17.8 |" in card.text


def test_results_are_those_of_the_best_checkpoint(run: Path) -> None:
    assert results_of(run / "checkpoints" / "last.ckpt") == []
    (run / "checkpoints" / "best.ckpt").unlink()
    assert [split for split, _ in results_of(run / "checkpoints" / "last.ckpt")] == ["test", "ood"]
    assert results_of(run / "checkpoints" / "previous.ckpt") == []
    (run / "results.json").unlink()
    assert results_of(run / "checkpoints" / "last.ckpt") == []


def test_the_card_of_a_model_folder_is_added(tmp_path: Path, protlm) -> None:
    export(Performer(CONFIG), tmp_path / "model")
    own = "---\nlicense: mit\n---\n# A model\n\nBad at variants.\n\n## Limits\n\n```\n# a comment\n```\n"
    (tmp_path / "model" / "README.md").write_text(own)
    done = protlm("export", tmp_path / "hf", "--model", tmp_path / "model", "--format", "hf")
    assert done.code == 0, done.err
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert card.text.endswith("## A model\n\nBad at variants.\n\n### Limits\n\n```\n# a comment\n```\n")
    assert "license" not in card.data.to_dict()
    switched = ("--attention", "exact")
    assert protlm("export", tmp_path / "other", "--model", tmp_path / "model", "--format", "hf", *switched).code == 0
    assert "Bad at variants" not in (tmp_path / "other" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "auto", "task"),
    [
        ({"causal": True}, "AutoModelForCausalLM", "text-generation"),
        ({"head": "none"}, "AutoModel", "feature-extraction"),
    ],
)
def test_what_the_model_is_for(options: dict, auto: str, task: str) -> None:
    card = ModelCard(language_model_card(PerformerConfig(33, PAD, **SIZES, **options), auto, "mine"))
    assert card.data.pipeline_tag == task
    assert card.data.eval_results is None
    assert f"{auto}.from_pretrained" in card.text
