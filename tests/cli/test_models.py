"""The commands export and import."""

from pathlib import Path

import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM

from protlm.checkpoint import load
from protlm.performer import Performer
from tests import command
from tests.command import Outcome

PROTEIN = torch.tensor([[0, *range(4, 24), 32, 2]])


@pytest.fixture(scope="module")
def esm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ESM-2 as transformers saves it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    kind = {"position_embedding_type": "rotary", "token_dropout": True, "layer_norm_eps": 1e-5}
    config = EsmConfig(vocab_size=33, pad_token_id=1, mask_token_id=32, **sizes, **kind)
    folder = tmp_path_factory.mktemp("esm") / "esm"
    EsmForMaskedLM(config).save_pretrained(folder)
    return folder


def assert_refused(outcome: Outcome, folder: Path, *words: object) -> None:
    """One line with the error, and nothing new in the folder."""
    command.assert_refused(outcome, *words)
    assert not [path for path in folder.iterdir() if "out" in path.name]


def test_export_for_transformers(protlm, model_folder: Path, tmp_path: Path) -> None:
    done = protlm("export", tmp_path / "out", "--model", model_folder, "--format", "hf")
    assert (done.code, done.out) == (0, "")
    assert str(tmp_path / "out" / "README.md") in done.err
    assert {"config.json", "modeling_protlm.py", "vocab.txt"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_export_with_another_attention(protlm, model_folder: Path, tiny_model: Performer, tmp_path: Path) -> None:
    options = ("--model", model_folder, "--attention", "softmax", "--num-features", 40)
    assert protlm("export", tmp_path / "out", *options).code == 0
    model = load(tmp_path / "out")
    assert (model.config.attention, model.config.num_features) == ("softmax", 40)
    for name, weight in tiny_model.named_parameters():
        assert torch.equal(model.get_parameter(name), weight)


def test_export_in_16_bits(protlm, model_folder: Path, tmp_path: Path) -> None:
    assert protlm("export", tmp_path / "out", "--model", model_folder, "--dtype", "float16").code == 0
    assert load(tmp_path / "out").head.weight.dtype == torch.float32
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (model_folder, tmp_path / "out")]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--dtype", "int8"), "--dtype 'int8': expected one of float32, float16, bfloat16"),
        (("--dtype", "bfloat16", "--format", "hf"), "--dtype bfloat16 requires --format folder"),
    ],
)
def test_an_unsupported_dtype_is_refused(protlm, model_folder, tmp_path, options, word: str) -> None:
    assert_refused(protlm("export", tmp_path / "out", "--model", model_folder, *options), tmp_path, word)


def test_import_of_esm_switches_to_favor_and_back(protlm, esm: Path, tmp_path: Path) -> None:
    done = protlm("import-esm", esm, tmp_path / "exact")
    assert (done.code, done.out) == (0, "")
    assert "2 layers, 2 heads, width 16, exact attention" in done.err
    exact = load(tmp_path / "exact")
    with torch.inference_mode():
        expected = EsmForMaskedLM.from_pretrained(esm)(PROTEIN).logits
        torch.testing.assert_close(exact(PROTEIN), expected, atol=1e-4, rtol=0)
        assert protlm("import", esm, tmp_path / "favor", "--attention", "softmax", "--num-features", 64).code == 0
        favor = load(tmp_path / "favor")
        assert (favor.config.attention, favor.config.num_features) == ("softmax", 64)
        assert 0 < (favor(PROTEIN) - expected).abs().max() < 0.05
        back = protlm("export", tmp_path / "back", "--model", tmp_path / "favor", "--attention", "exact")
        assert back.code == 0
        assert torch.equal(load(tmp_path / "back")(PROTEIN), exact(PROTEIN))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--attention", "quadratic"), "quadratic"),
        (("--attention", "exact", "--num-features", "8"), "no random features"),
        (("--num-features", "0"), "--num-features"),
        (("--num-features", "many"), "--num-features"),
    ],
)
def test_unknown_attention_is_refused(protlm, model_folder, esm, tmp_path, options, word: str) -> None:
    for arguments in (("export", tmp_path / "out", "--model", model_folder), ("import", esm, tmp_path / "out")):
        assert_refused(protlm(*arguments, *options), tmp_path, word)


def test_other_invalid_inputs_are_refused(protlm, model_folder: Path, esm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(protlm("export", out, "--model", model_folder, "--format", "onnx"), tmp_path, "onnx", "'hf'")
    assert_refused(protlm("export", out / "new", "--model", model_folder, "--format", "hf"), tmp_path, "no folder")
    assert_refused(protlm("export", out, "--model", esm), tmp_path, esm)
    assert_refused(protlm("import", tmp_path / "absent", out), tmp_path, "absent: no such folder")
    assert_refused(protlm("import", model_folder, out), tmp_path, "a model folder of protlm already")
    for arguments in (
        ("export", model_folder, "--model", model_folder, "--format", "hf"),
        ("export", esm, "--model", model_folder),
        ("import", esm, esm),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert_refused(protlm(*arguments), tmp_path, "already exists")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_in_place_of_the_folder_is_refused(protlm, tmp_path: Path) -> None:
    outcome = protlm("export", tmp_path / "last.ckpt", "--model", "absent")
    assert_refused(outcome, tmp_path, "last.ckpt: expected a folder", "with --model")
