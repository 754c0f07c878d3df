"""Without a model: what commands and functions say, and the environment variable that gives one."""

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

import protlm as package
from protlm import checkpoint
from protlm.checkpoint import WEIGHTS
from protlm.cli.console import MODEL_VARIABLE
from protlm.errors import UserError
from protlm.supervised.predictor_folder import load_predictor
from tests.command import assert_refused

PROTEIN = "MKTAYIAKQRMKLLILAVVA"
ADVICE = ("protlm import facebook/esm2_t6_8M_UR50D esm2-8m", "python -m protlm.train data.fasta=")

NEEDED = {
    "embed": "absent.fasta -o out.h5",
    "fill": "absent.fasta",
    "evaluate": "absent.h5",
    "export": "out",
    "check": "",
    "fit": "absent.csv -o out",
    "contacts": "absent.fasta -o out",
    "annotate": "absent.fasta --reference absent.fasta --labels absent.tsv",
    "map": "absent.fasta -o out",
    "score": "absent.fasta --pseudo-perplexity",
    "proteingym": ". --scorer model",
}
"""Command -> arguments with which it needs a model; the files are missing, so that it would fail next."""


@pytest.mark.parametrize("command", NEEDED)
def test_a_command_without_model_says_how_to_get_one(protlm, tmp_path, monkeypatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    name = "expected MODEL or" if command == "check" else "expected --model MODEL or"
    outcome = protlm(command, *NEEDED[command].split())
    assert_refused(outcome, "error: no model given; ", name, "environment variable PROTLM_MODEL", *ADVICE)
    assert list(tmp_path.iterdir()) == []
    assert MODEL_VARIABLE in protlm(command, "--help").out


def test_where_something_does_without_a_model_the_message_says_so(protlm) -> None:
    for command, words in (
        ("annotate", "--by homology needs none"),
        ("map", "embeddings (.h5, .npz) in place of a FASTA file need none"),
        ("contacts", "--alignment and --database need none"),
    ):
        assert_refused(protlm(command, *NEEDED[command].split()), words)
    assert_refused(protlm("generate"), "no model given", "a causal model", "python -m protlm.train model.causal=true")


@pytest.mark.parametrize("command", [*NEEDED, "generate"])
def test_the_variable_stands_for_the_option(protlm, tmp_path, monkeypatch, command: str) -> None:
    """A wrong one is named as the source; an empty one, or an empty option, is none."""
    monkeypatch.chdir(tmp_path)
    arguments = NEEDED.get(command, "").split()
    monkeypatch.setenv(MODEL_VARIABLE, "nowhere")
    assert_refused(protlm(command, *arguments), "environment variable PROTLM_MODEL: nowhere: no such model; expected")
    monkeypatch.setenv(MODEL_VARIABLE, "")
    assert_refused(protlm(command, *arguments), "no model given")
    empty = [""] if command == "check" else ["--model", ""]
    assert_refused(protlm(command, *arguments, *empty), "no model given")


def test_a_run_without_validation_has_only_its_last_checkpoint(protlm, tmp_path) -> None:
    made = tmp_path / "run" / "checkpoints"
    made.mkdir(parents=True)
    (made / "last.ckpt").write_bytes(b"")
    for given in (tmp_path / "run", made / "best.ckpt"):
        assert_refused(protlm("generate", "--model", given), f"use {made / 'last.ckpt'}")


def test_the_variable_gives_the_same_as_the_option(protlm, monkeypatch, model_folder: Path, causal_model) -> None:
    named = protlm("fill", "MK<mask>LLI", "--model", model_folder)
    assert named.code == 0
    monkeypatch.setenv(MODEL_VARIABLE, str(model_folder))
    assert protlm("fill", "MK<mask>LLI") == named
    checkpoint.export(causal_model, model_folder.with_name("causal"))
    assert protlm("fill", "MK<mask>LLI", "--model", model_folder.with_name("causal")).out != named.out
    assert protlm("check").code == 0
    assert_refused(protlm("generate"), "generate requires a causal model")


def test_the_variable_changes_no_score_of_variants(protlm, tmp_path, monkeypatch, model_folder, write_fasta) -> None:
    """A weak model would change them without being named; it counts where a model is needed."""
    variant = ("score", PROTEIN, "--variant", "K2R")
    scan = ("proteingym", tmp_path / "scans", "--no-cache")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.csv").write_text("mutant,DMS_score\nM1A,1\nK2R,2\nT3A,3\n")
    (tmp_path / "scans" / "wt.fasta").write_text(f">a\n{PROTEIN}\n")
    without = [protlm(*variant).out, protlm(*scan).out]
    by_model = [protlm(*command, "--model", model_folder).out for command in (variant, scan)]
    monkeypatch.setenv(MODEL_VARIABLE, str(model_folder))
    assert [protlm(*variant).out, protlm(*scan).out] == without
    assert [protlm(*command, "--scorer", "model").out for command in (variant, scan)] == by_model
    assert all(a != b for a, b in zip(without, by_model, strict=True))
    assert_refused(protlm(*variant, "--method", "wt-marginals"), "--method requires --model")
    assert protlm("score", PROTEIN, "--pseudo-perplexity").code == 0


def test_couplings_do_without_the_variable(protlm, tmp_path, monkeypatch, model_folder, write_fasta) -> None:
    family = write_fasta([("a", PROTEIN), ("b", PROTEIN.replace("K", "R")), ("c", PROTEIN.replace("L", "I"))], "a.a3m")
    monkeypatch.setenv(MODEL_VARIABLE, str(model_folder))
    assert protlm("contacts", PROTEIN, "-o", tmp_path / "maps", "--alignment", family).code == 0
    assert json.loads((tmp_path / "maps" / "contacts.json").read_text())["method"] == "couplings"


def test_the_files_of_the_model_are_no_outputs(protlm, monkeypatch, model_folder: Path, write_fasta) -> None:
    fasta, weights = write_fasta([("a", PROTEIN)]), (model_folder / WEIGHTS).read_bytes()
    monkeypatch.setenv(MODEL_VARIABLE, str(model_folder))
    for arguments in (["embed", fasta, "-o"], ["score", PROTEIN, "--pseudo-perplexity", "-o"]):
        assert_refused(protlm(*arguments, model_folder / WEIGHTS), model_folder / WEIGHTS)
    assert (model_folder / WEIGHTS).read_bytes() == weights


FUNCTIONS: dict[str, Any] = {
    "load": lambda: package.load(None),  # type: ignore[arg-type]
    "fit": lambda: package.fit("absent.csv"),
    "fit, lora": lambda: package.fit("absent.csv", method="lora"),
    "annotate": lambda: package.annotate("absent.fasta", "absent.fasta", "absent.tsv"),
    "Embedder": package.Embedder,
    "Probe": lambda: package.Probe().fit(["MKK", "MEE"] * 8, ["basic", "acidic"] * 8),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_without_model_says_how_to_get_one(monkeypatch, model_folder: Path, function: Any) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, str(model_folder))  # is for commands
    with pytest.raises(UserError, match="^no model given; expected (model|path), ") as error:
        function()
    assert all(words in str(error.value) for words in ADVICE)
    with pytest.raises(TypeError, match="path"):
        package.load()  # type: ignore[call-arg]


def test_a_fit_on_the_model_that_was_shipped_names_it(protlm, tiny_model, model_folder: Path, write_fasta) -> None:
    """As earlier versions wrote it; with a copy of that model it can be used."""
    fitted, fasta = model_folder.with_name("fitted"), write_fasta([("a", PROTEIN)])
    labels = pandas.DataFrame({"sequence": ["MKK", "MEE"] * 12, "label": ["basic", "acidic"] * 12})
    package.fit(labels, fitted, model_folder, relatives=False)
    config = json.loads((fitted / "config.json").read_text())
    config["base"]["path"] = "bundled"
    (fitted / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the small model that earlier versions of protlm shipped; fit it again"):
        package.load(fitted)
    assert_refused(protlm("predict", fasta, "--model", fitted), "earlier versions", "copy of that model as --base")
    assert_refused(protlm("check", fitted), "earlier versions")
    assert protlm("predict", fasta, "--model", fitted, "--base", model_folder).code == 0
    assert load_predictor(fitted, base=model_folder).base["path"] == str(model_folder)
