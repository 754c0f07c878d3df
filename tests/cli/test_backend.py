"""What computes attention is chosen by an option of all commands that run a model, and said on a GPU."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from protlm.checkpoint import export
from protlm.cli import console
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.model_api import ProteinModel
from tests.command import assert_refused
from tests.supervised.proteins import proteins, table

SEQUENCE = "MKTAYIAK"
COMMANDS = {
    "embed": ["embed", "proteins.fasta", "-o", "out.h5", "--model", "model"],
    "fill": ["fill", "MK<mask>LLI", "--model", "model"],
    "generate": ["generate", "--model", "causal"],
    "score": ["score", SEQUENCE, "--model", "model", "--variant", "K2R"],
    "contacts": ["contacts", SEQUENCE, "-o", "maps", "--model", "model"],
    "map": ["map", "proteins.fasta", "-o", "out", "--model", "model"],
    "annotate": [
        *("annotate", "proteins.fasta", "--reference", "proteins.fasta", "--labels", "terms.tsv"),
        *("--model", "model", "--threads", 1),
    ],
    "check": ["check", "model"],
    "evaluate": ["evaluate", "corpus.h5", "--model", "model"],
    "proteingym": ["proteingym", "assays", "--model", "model"],
    "linearise": ["linearise", "model", "-o", "student", "--check", "proteins.fasta"],
    "fit": ["fit", "labels.tsv", "-o", "out", "--model", "model", "--threads", 1],
    "predict": ["predict", "proteins.fasta", "--model", "fitted"],
}


@pytest.fixture
def inputs(tiny_model, causal_model, write_fasta, tmp_path, monkeypatch) -> None:
    """The files that the commands name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    export(tiny_model, tmp_path / "model")
    export(causal_model, tmp_path / "causal")
    sequences, labels = proteins(12)
    fasta = write_fasta([(f"P{number}", sequence) for number, sequence in enumerate(sequences)])
    prepare_corpus([fasta], tmp_path / "corpus.h5", SplitRule(0.25, 0.25))
    (tmp_path / "assays").mkdir()
    (tmp_path / "assays" / "wt.fasta").write_text(f">one\n{SEQUENCE}\n")
    (tmp_path / "assays" / "one.csv").write_text("mutant,DMS_score\nK2R,1.5\nT3A,-1\n")
    rows = [f"P{number}\t{label}\n" for number, label in enumerate(labels)]
    (tmp_path / "terms.tsv").write_text("".join(["id\tterm\n", *rows]))
    (tmp_path / "student").mkdir()  # compared with its teacher, without training
    table(tmp_path / "labels.tsv", list(zip(sequences, labels, ["train", "train", "test"] * 4, strict=True)))
    predictor = SimpleNamespace(model=tiny_model)  # instead of fitting one
    monkeypatch.setattr("protlm.supervised.predictor_folder.load_predictor", lambda *given, **options: predictor)
    (tmp_path / "fitted").mkdir()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_option_reaches_the_model(command: str, inputs, protlm, monkeypatch) -> None:
    names = []

    def refused(self: ProteinModel, name: str) -> None:
        names.append(name)
        raise UserError(f"attention_backend {name!r}: not here", "attention_backend")

    monkeypatch.setattr(ProteinModel, "use_backend", refused)
    assert_refused_in_its_last_line(protlm(*COMMANDS[command], "--attention-backend", "flex"))
    assert names == ["flex"]


def assert_refused_in_its_last_line(outcome: Any) -> None:
    """`fit` and `annotate` describe the labels before."""
    last = outcome.err.splitlines()[-1]
    assert_refused(outcome._replace(err=f"{last}\n"), "--attention-backend 'flex': not here")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_computes_attention_is_said(command: str, inputs, protlm, monkeypatch) -> None:
    said = []

    def announced(network: ProteinModel) -> None:
        said.append(network.backend_in_use)
        raise UserError("enough")

    for module in ("console", "check", "linearise", "predict", "supervised"):
        monkeypatch.setattr(import_module(f"protlm.cli.{module}"), "announced", announced)
    assert protlm(*COMMANDS[command]).err.splitlines()[-1] == "error: enough"
    assert said == ["PyTorch operations on cpu"]


def test_it_is_said_on_a_gpu_where_there_is_a_choice(capsys) -> None:
    for cuda, used in ((True, "Triton kernels on a card"), (False, "PyTorch operations on cpu"), (True, None)):
        weight = SimpleNamespace(is_cuda=cuda)
        network = SimpleNamespace(embedding=SimpleNamespace(weight=weight), backend_in_use=used)
        assert console.announced(network) is network
    assert capsys.readouterr().err == "attention: Triton kernels on a card\n"
