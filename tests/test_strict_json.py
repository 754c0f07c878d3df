"""Every JSON that protlm writes is accepted by a parser that knows no NaN."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest

from protlm.checkpoint import export
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule, read_ids
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.strict_json import dumps
from protlm.training.multirun import format_jobs
from tests.tiny import FAST, run_training


def strict(text: str) -> Any:
    """What the text says; fails for NaN and Infinity, which Python's parser accepts and others do not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_strict_parser_refuses_what_others_refuse() -> None:
    for text in ("[NaN]", "[-Infinity]"):
        with pytest.raises(AssertionError):
            strict(text)


def test_undefined_values_are_null_at_any_depth() -> None:
    odd = {"a": math.nan, "b": [(math.inf, -math.inf, 1.5)], "c": {"d": math.nan}, "e": "NaN"}
    assert strict(dumps(odd)) == {"a": None, "b": [[None, None, 1.5]], "c": {"d": None}, "e": "NaN"}


def test_no_other_file_writes_json_its_own_way() -> None:
    package = Path(__file__).parents[1] / "protlm"
    allowed = {"strict_json.py", "performer/features.py", "checkpoint.py"}  # an operator's key; a comparison
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump")
            if named or (isinstance(node, ast.ImportFrom) and node.module == "json"):
                found.add(path.relative_to(package).as_posix())
    assert found == allowed


@pytest.fixture
def unknown_held_out(tmp_path: Path) -> Path:
    """A corpus in which no residue of the ood split can be scored."""
    fasta, held_out = tmp_path / "few.fasta", tmp_path / "held.txt"
    fasta.write_text(">a\nMKTAYIAKQRQISFVK\n>b\nMSHFSRQLEERLGLIEV\n>c\nXXXXXXXX\n")
    held_out.write_text("c\n")
    prepare_corpus([fasta], tmp_path / "few.h5", SplitRule(0, 0, held_out=read_ids(held_out)))
    return tmp_path / "few.h5"


def test_a_run_writes_null_for_undefined_metrics(unknown_held_out: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # infinite: the norm is logged, nothing is clipped
    given = [f"data.corpus={unknown_held_out}", "trainer.max_steps=1", "hydra.run.dir=run"]
    run_training(*FAST, *given, "trainer.gradient_clip_val=inf")
    results = strict(Path("run/results.json").read_text())
    assert set(results["ood"].values()) == {None}
    assert strict(Path("run/run.json").read_text())["config"]["trainer"]["gradient_clip_val"] is None
    job = {"job": "0", "options": {}, "results": results, "stopped": None}
    assert "nan" in format_jobs([job])


def test_commands_write_null_for_undefined_metrics(
    unknown_held_out: Path, model_folder: Path, protlm, tmp_path
) -> None:
    strict(protlm("info", unknown_held_out, "--json").out)
    protlm("evaluate", unknown_held_out, "--model", model_folder, "--json", tmp_path / "evaluation.json")
    split = strict((tmp_path / "evaluation.json").read_text())["splits"]["ood"]
    assert split["asked"] == 0
    assert split["perplexity"] is None
    strict((model_folder / "config.json").read_text())


def test_a_model_with_an_infinite_option_is_refused(tiny_model: Performer, tmp_path: Path) -> None:
    config = tiny_model.config
    object.__setattr__(config, "dropout", math.inf)
    with pytest.raises(UserError, match="infinite or NaN"):
        export(tiny_model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
