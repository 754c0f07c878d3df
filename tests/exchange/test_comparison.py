"""Imported and exported models compared with what transformers computes, in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import EsmcForMaskedLM, EsmForMaskedLM, EsmForSequenceClassification

from protlm.exchange import comparison
from protlm.exchange.comparison import Comparison, compared
from protlm.exchange.huggingface import export_huggingface
from protlm.exchange.native import export_native
from protlm.exchange.pretrained import load_pretrained
from protlm.performer import Performer
from protlm.supervised.huggingface import export_predictor
from tests.command import assert_refused
from tests.exchange.test_esmc import esmc
from tests.exchange.test_fitted import fitted
from tests.exchange.test_pretrained import saved


@pytest.fixture
def with_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "installed", lambda: True)


@pytest.mark.slow
@pytest.mark.usefixtures("with_transformers")
@pytest.mark.parametrize("cls", [EsmForMaskedLM, EsmForSequenceClassification, EsmcForMaskedLM])
def test_transformers_computes_what_an_imported_model_does_and_not_what_another_does(cls: Any, tmp_path: Path) -> None:
    (esmc if cls is EsmcForMaskedLM else saved)(cls, tmp_path / "theirs")
    imported = load_pretrained(tmp_path / "theirs")
    assert imported.folder == tmp_path / "theirs"
    found = compared(imported.model, imported.folder)
    assert found.equal
    assert "computes the same: largest relative difference" in found.text
    imported.model.blocks[1].attention.out.weight.data *= 1.02
    assert compared(imported.model, imported.folder).equal is False


@pytest.mark.slow
@pytest.mark.usefixtures("with_transformers")
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
@pytest.mark.parametrize(("cls", "task"), [(EsmForMaskedLM, None), (EsmForSequenceClassification, "SEQ_CLS")])
def test_adapters_are_compared(cls: Any, task: str | None, tmp_path: Path, protlm: Any) -> None:
    """With the base model that they name, or another folder of it, and any number of labels."""
    adapter = pytest.importorskip("tests.exchange.test_adapter", reason="peft is not installed")
    saved(EsmForMaskedLM, tmp_path / "theirs")
    theirs = cls.from_pretrained(tmp_path / "theirs", **({"num_labels": 5} if task else {}))
    adapter.adapted(theirs, tmp_path / "adapter", target_modules=["query", "value"], task_type=task)
    (tmp_path / "theirs").rename(tmp_path / "moved")
    done = protlm("import", tmp_path / "adapter", tmp_path / "out", "--base", tmp_path / "moved")
    assert done.code == 0
    assert "computes the same: largest relative difference" in done.err
    if task:
        return
    imported = load_pretrained(tmp_path / "adapter", tmp_path / "moved")
    imported.model.blocks[1].attention.qkv.weight.data *= 1.02
    assert compared(imported.model, imported.folder, adapter=imported.adapter).equal is False


@pytest.mark.slow
@pytest.mark.usefixtures("with_transformers")
def test_exports_are_compared(tiny_model: Performer, causal_model: Performer, tmp_path: Path) -> None:
    saved(EsmForMaskedLM, tmp_path / "theirs")
    export_native(load_pretrained(tmp_path / "theirs").model, tmp_path / "native", "esm")
    assert compared(load_pretrained(tmp_path / "theirs").model, tmp_path / "native").equal
    for number, model in enumerate((tiny_model, causal_model)):
        export_huggingface(model, tmp_path / str(number))
        assert compared(model, tmp_path / str(number), own_code=True).equal
    predictor = fitted(tiny_model, "classes")
    export_predictor(predictor, tmp_path / "fitted")
    assert compared(predictor.model, tmp_path / "fitted", own_code=True).equal
    about = json.loads((tmp_path / "native" / "config.json").read_text())
    (tmp_path / "native" / "config.json").write_text(json.dumps({**about, "architectures": ["EsmForNothing"]}))
    found = compared(load_pretrained(tmp_path / "theirs").model, tmp_path / "native")
    assert found.equal is None
    assert "cannot load it (AttributeError" in found.text


def test_without_transformers_nothing_is_compared(protlm: Any, model_folder: Path, tmp_path: Path) -> None:
    done = protlm("export", tmp_path / "out", "--model", model_folder, "--format", "hf")
    assert (done.code, "compared" in done.err) == (0, False)
    done = protlm("export", tmp_path / "again", "--model", model_folder, "--format", "hf", "--compare")
    assert (done.code, "which is not installed" in done.err) == (0, True)


def test_other_values_stop_an_import_and_fail_an_export(
    protlm: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "compared", lambda *_, **__: Comparison("transformers 5 computes others", False))
    saved(EsmForMaskedLM, tmp_path / "theirs")
    refused = protlm("import", tmp_path / "theirs", tmp_path / "out", "--compare")
    assert_refused(refused, "transformers 5 computes others; nothing was written", "--no-compare")
    assert not (tmp_path / "out").exists()
    assert protlm("import", tmp_path / "theirs", tmp_path / "out", "--no-compare").code == 0
    for layout, model in (("hf", model_folder), ("esm", tmp_path / "out")):
        options = ("--model", model, "--format", layout)
        assert protlm("export", tmp_path / f"compared-{layout}", *options, "--compare").code == 1
        assert protlm("export", tmp_path / layout, *options, "--no-compare").code == 0
