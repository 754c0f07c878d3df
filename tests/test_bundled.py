"""The bundled model: found, announced, and equivalent to naming it."""

import json
import sys
from pathlib import Path

import h5py
import pytest

import protlm as package
from protlm import bundled
from protlm.checkpoint import WEIGHTS, export, load
from protlm.cli.console import load_network
from protlm.errors import UserError
from tests.command import assert_refused

LIMIT = 12_000_000
"""Maximum size of the model in the repository, in bytes."""
NAME = "little"
PROTEIN = "MKTAYIAKQRMKLLILAVVA"


@pytest.fixture
def bundle(tmp_path: Path, tiny_model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bundled model, `tiny_model`."""
    (tmp_path / "models").mkdir()
    export(tiny_model, tmp_path / "models" / NAME, "float16")
    card = f"---\nlicense: apache-2.0\n---\n\n# {NAME}\n\nTrained on nothing.\n\nMore.\n"
    (tmp_path / "models" / NAME / "README.md").write_text(card)
    (tmp_path / "models" / "README.md").touch()
    (tmp_path / "models" / f".{NAME}.partial").mkdir()
    (tmp_path / "models" / f".{NAME}.partial" / "config.json").touch()
    monkeypatch.setattr(bundled, "FOLDERS", (tmp_path / "absent", tmp_path / "models"))
    return tmp_path / "models" / NAME


def notice(bundle: Path) -> str:
    count = sum(weight.numel() for weight in load(bundle).parameters())
    return (
        f"no model given: using the bundled model {NAME} ({count:,} parameters; Trained on nothing); "
        f"see {bundle / 'README.md'}"
    )


def test_the_first_folder_that_exists_is_used(bundle: Path, tmp_path: Path, tiny_model) -> None:
    assert bundled.path() == bundle
    (tmp_path / "absent").mkdir()
    export(tiny_model, tmp_path / "absent" / "other")
    assert bundled.path() == tmp_path / "absent" / "other"


def test_no_or_several_bundled_models_are_refused(bundle: Path, tiny_model) -> None:
    export(tiny_model, bundle.with_name("other"))
    with pytest.raises(UserError, match=f"no model given, and {bundle.parent} has several: little, other"):
        bundled.path()
    for folder in (bundle, bundle.with_name("other")):
        (folder / "config.json").unlink()
    with pytest.raises(UserError, match=f"no model given, and {bundle.parent} has none"):
        package.load()


def test_the_card_may_be_missing_or_empty(bundle: Path) -> None:
    for text in ("", "no heading", "# heading alone\n"):
        (bundle / "README.md").write_text(text)
        assert "(5 parameters);" in bundled.notice(bundle, 5)
    (bundle / "README.md").unlink()
    assert "(5 parameters);" in bundled.notice(bundle, 5)


def test_python_loads_it_with_a_notice(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unnamed = package.load()
    assert tuple(capsys.readouterr()) == ("", notice(bundle) + "\n")
    named = package.load(bundle)
    assert tuple(capsys.readouterr()) == ("", "")
    assert (unnamed.embed([PROTEIN]) == named.embed([PROTEIN])).all()
    assert package.load(attention="exact").config.attention == "exact"


def test_quiet_loading_says_nothing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_network(None, "cpu", quiet=True).config == load(bundle).config
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.fixture
def commands(tmp_path: Path, write_fasta, corpus_path: Path) -> dict[str, list[object]]:
    """Each command that takes the bundled model without --model, with quick arguments; OUT is a file to write."""
    fasta = write_fasta([("a", PROTEIN), ("b", PROTEIN[::-1])])
    return {
        "embed": ["embed", fasta, "-o", "OUT.h5"],
        "fill": ["fill", "MK<mask>LLI"],
        "evaluate": ["evaluate", corpus_path, "--split", "valid", "--json", "OUT.json"],
        "export": ["export", "OUT"],
    }


@pytest.mark.parametrize("name", ["embed", "fill", "evaluate", "export"])
def test_a_command_without_model_uses_it(
    protlm, bundle: Path, commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = []
    for prefix, model in (("one", []), ("two", ["--model", bundle])):
        arguments = [str(a).replace("OUT", prefix) if str(a).startswith("OUT") else a for a in commands[name]]
        outcome = protlm(*arguments, *model)
        assert outcome.code == 0, outcome.err
        said.append((outcome.out, outcome.err.splitlines()))
    assert said[0][0] == said[1][0]
    assert said[0][1].count(notice(bundle)) == 1
    assert notice(bundle) not in said[1][1]
    if name == "evaluate":
        assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()
        assert json.loads((tmp_path / "one.json").read_text())["model"]["path"] == str(bundle)


def test_embeddings_know_the_model_by_its_content(protlm, bundle: Path, commands, tmp_path, monkeypatch) -> None:
    """So that a run started without --model can be resumed by one that names the same model."""
    monkeypatch.chdir(tmp_path)
    assert protlm(*commands["embed"]).code == 0
    before = (tmp_path / "OUT.h5").read_bytes()
    again = protlm(*commands["embed"], "--model", bundle)
    assert again.code == 0
    assert (tmp_path / "OUT.h5").read_bytes() == before
    with h5py.File(tmp_path / "OUT.h5") as file:
        assert not any(str(bundle) in str(value) for value in file.attrs.values())


def test_generate_and_outputs_over_the_model_are_refused(protlm, bundle: Path, commands) -> None:
    assert_refused(protlm("generate"), "requires --model with a causal model")
    weights = (bundle / WEIGHTS).read_bytes()
    for arguments in (["embed", commands["embed"][1], "-o"], ["score", PROTEIN, "--all", "-o"]):
        assert_refused(protlm(*arguments, bundle / WEIGHTS), bundle / WEIGHTS)
    assert (bundle / WEIGHTS).read_bytes() == weights


def test_a_checkout_has_the_bundled_model_beside_the_package() -> None:
    assert bundled.FOLDERS[-1] == Path(__file__).parents[1] / "models"
    assert bundled.FOLDERS[-1].is_dir()
    assert bundled.FOLDERS[0] == Path(sys.modules["protlm"].__file__ or "").parent / "models"


def test_the_model_in_the_repository_is_small_bidirectional_and_has_a_card() -> None:
    folder = bundled.path()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LIMIT
    assert {"config.json", WEIGHTS, bundled.CARD} <= {file.name for file in folder.iterdir()}
    assert not load(folder).config.causal
    assert "(1 parameters; " in bundled.notice(folder, 1)  # the first line of the card
    assert len(bundled.notice(Path(folder.name), 1)) <= 240
