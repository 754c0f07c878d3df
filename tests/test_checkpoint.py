import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from protlm import golden
from protlm.checkpoint import (
    CONFIG,
    DTYPES,
    KEY,
    PREFIX,
    WEIGHTS,
    description,
    export,
    fingerprint,
    load,
    read_lightning,
    switch,
)
from protlm.errors import UserError
from protlm.exchange.pretrained import load_pretrained
from protlm.performer import Performer
from protlm.sequence.alphabet import TOKENS

PROTEIN = torch.tensor([[0, *range(4, 24), 2]])


def lightning(model: Performer) -> dict[str, Any]:
    """A training checkpoint without the entries that a model does not need."""
    weights = {PREFIX + name: weight for name, weight in model.state_dict().items()}
    return {KEY: description(model.config), "state_dict": {**weights, "metrics.correct": torch.tensor(3)}, "epoch": 1}


@pytest.fixture(params=["folder", "lightning"])
def saved(request: pytest.FixtureRequest, tiny_model: Performer, model_folder: Path, tmp_path: Path) -> Path:
    if request.param == "folder":
        return model_folder
    torch.save(lightning(tiny_model), tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def rewrite(saved: Path, change) -> None:
    """Changes the description of a saved model."""
    if saved.is_dir():
        about = json.loads((saved / CONFIG).read_text())
        change(about)
        (saved / CONFIG).write_text(json.dumps(about))
    else:
        content = torch.load(saved, weights_only=True)
        change(content[KEY])
        torch.save(content, saved)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_round_trips_bit_for_bit(saved: Path, tiny_model: Performer) -> None:
    model = load(saved)
    assert model.config == tiny_model.config
    assert not model.training
    assert model.state_dict().keys() == tiny_model.state_dict().keys()
    for name, weight in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    with torch.inference_mode():
        assert torch.equal(model(PROTEIN), tiny_model(PROTEIN))


def test_a_fingerprint_is_that_of_earlier_versions(tiny_model: Performer) -> None:
    """Embeddings, indices and fitted models of earlier versions name it. A new field of the configuration is left out
    where it has its default."""
    for tensor in tiny_model.state_dict().values():
        tensor.zero_()
    assert fingerprint(tiny_model) == "967799a6937cf5e843d994e15262524b"


def test_redrawn_directions_are_part_of_the_model(tiny_model: Performer, tmp_path: Path) -> None:
    before = tiny_model(PROTEIN)
    tiny_model.redraw(7)
    export(tiny_model, tmp_path / "redrawn")
    assert torch.equal(load(tmp_path / "redrawn")(PROTEIN), tiny_model(PROTEIN))
    assert not torch.equal(before, tiny_model(PROTEIN))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2**-9), ("bfloat16", 2**-6)])
def test_half_the_bytes_and_nearly_the_same_logits(
    tiny_model: Performer, tmp_path, dtype: str, tolerance: float
) -> None:
    """A rounding error is at most 2**-11 of a weight in float16 and 2**-8 in bfloat16."""
    tiny_model.redraw(7)
    for name in ("float32", dtype):
        export(tiny_model, tmp_path / name, name)
    model = load(tmp_path / dtype)
    parameters = dict(tiny_model.named_parameters())
    stored = load_file(tmp_path / dtype / WEIGHTS)
    for name, weight in tiny_model.state_dict().items():
        assert model.state_dict()[name].dtype == weight.dtype  # dtype of the computation
        assert stored[name].dtype == (DTYPES[dtype] if name in parameters else weight.dtype)
        if name not in parameters:
            assert torch.equal(stored[name], weight)
    sizes = [
        sum(w.nbytes for n, w in load_file(tmp_path / d / WEIGHTS).items() if n in parameters)
        for d in DTYPES
        if (tmp_path / d).exists()
    ]
    assert sizes[0] == 2 * sizes[1]
    with torch.inference_mode():
        logits, rounded = tiny_model(PROTEIN), model(PROTEIN)
    assert 0 < (rounded - logits).abs().max() < tolerance * logits.abs().max()
    export(model, tmp_path / "again", dtype)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / dtype / WEIGHTS).read_bytes()


def test_weights_that_a_dtype_cannot_hold_are_refused(tiny_model: Performer, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_model.head.bias[3] = 1e5
    for dtype, words in (("float16", "too narrow for a weight of head.bias"), ("float8", "expected one of float32")):
        with pytest.raises(UserError, match=words):
            export(tiny_model, tmp_path / "out", dtype)
    assert list(tmp_path.iterdir()) == []
    export(tiny_model, tmp_path / "out", "bfloat16")
    assert load(tmp_path / "out").head.bias[3].item() == pytest.approx(1e5, rel=2**-8)


def test_a_model_folder_can_be_read_without_protlm(model_folder: Path, tiny_model: Performer) -> None:
    about = json.loads((model_folder / CONFIG).read_text())
    assert about["alphabet"] == list(TOKENS)
    assert about["model"] == tiny_model.config.to_dict()
    assert sorted(path.name for path in model_folder.iterdir()) == [CONFIG, golden.FILE, WEIGHTS]


def test_an_existing_folder_is_not_overwritten(tiny_model: Performer, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for folder in (model_folder, tmp_path / "empty", tmp_path / "file"):
        with pytest.raises(UserError, match="already exists"):
            export(tiny_model, folder)
    with pytest.raises(UserError, match="there is no folder"):
        export(tiny_model, tmp_path / "file" / "model")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_export_that_fails_leaves_nothing(tiny_model: Performer, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("protlm.checkpoint.save_file", full)
    with pytest.raises(UserError, match="No space left"):
        export(tiny_model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    assert "no such model" in refusal(tmp_path / "absent")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_lightning(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_folder_without_one_of_its_files_is_refused(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    assert f"{name} is missing" in refusal(model_folder)


@pytest.mark.parametrize("text", ["", "{", "\xff", "MKT"])
def test_a_configuration_that_is_not_json_is_refused(model_folder: Path, text: str) -> None:
    (model_folder / CONFIG).write_text(text, encoding="latin-1")
    assert "not JSON" in refusal(model_folder)


@pytest.mark.parametrize("value", [[], 3, "text", None, {}, {"format": "another model"}])
def test_json_of_something_else_is_refused(model_folder: Path, value: Any) -> None:
    (model_folder / CONFIG).write_text(json.dumps(value))
    assert "not a protlm model" in refusal(model_folder)


@pytest.mark.parametrize("alphabet", [list(TOKENS[::-1]), list(TOKENS[:-1]), None, 5])
def test_a_different_alphabet_is_refused(saved: Path, alphabet: Any) -> None:
    rewrite(saved, lambda about: about.update(alphabet=alphabet))
    assert "a different alphabet" in refusal(saved)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda about: about.update(version=2), "version 2, expected 1"),
        (lambda about: about.pop("model"), "model"),
        (lambda about: about.update(model=[]), ""),
        (lambda about: about["model"].pop("layers"), "layers"),
        (lambda about: about["model"].update(colour="red"), "colour"),
        (lambda about: about["model"].update(attention="quadratic"), "quadratic"),
        (lambda about: about["model"].update(layers="two"), ""),
        (lambda about: about["model"].update(layers=2.5), ""),
        (lambda about: about["model"].update(layers=3), "do not fit"),
        (lambda about: about["model"].update(width=32), "do not fit"),
    ],
)
def test_a_changed_configuration_is_refused(saved: Path, change, match: str) -> None:
    rewrite(saved, change)
    assert match in refusal(saved)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(saved: Path, kept: float) -> None:
    path = saved / WEIGHTS if saved.is_dir() else saved
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    assert "damaged or cut short" in refusal(saved)


@given(st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x04\x95"]), st.binary())
def test_any_bytes_are_refused(tmp_path_factory, start: bytes, rest: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ckpt"
    path.write_bytes(start + rest)
    refusal(path)


@given(st.data())
def test_a_damaged_checkpoint_is_refused(tmp_path_factory, old_layout: bytes, data: st.DataObject) -> None:
    content = bytearray(old_layout)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    path.write_bytes(content)
    refusal(path)


@pytest.fixture(scope="module")
def old_layout(tmp_path_factory) -> bytes:
    """A torch file in the older layout, which consists of pickles."""
    path = tmp_path_factory.mktemp("old") / "old.ckpt"
    torch.save({"weights": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        {"weights": torch.ones(2)},
        {"state_dict": {}, "epoch": 3},
        {KEY: {}, "weights": 1},
        {KEY: "text", "state_dict": {}},
        torch.ones(3),
        [1, 2],
        None,
    ],
)
def test_a_torch_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert "not of a protlm model" in refusal(tmp_path / "other.ckpt")


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["pickle", "torch", "old torch", "inside a model"])
def test_code_in_a_pickle_is_not_executed(tmp_path: Path, tiny_model: Performer, way: str) -> None:
    path, target = tmp_path / "model.ckpt", tmp_path / "hacked"
    if way == "pickle":
        path.write_bytes(pickle.dumps(Attack(target)))
    elif way == "inside a model":
        torch.save({**lightning(tiny_model), "more": Attack(target)}, path)
    else:
        torch.save(Attack(target), path, _use_new_zipfile_serialization=way == "torch")
    refusal(path)
    assert not target.exists()
    if way == "pickle":
        pickle.loads(path.read_bytes())
        assert target.exists()  # the attack would have worked


def test_a_copied_folder_is_the_same_model(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "copy")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "copy")(PROTEIN), load(str(model_folder))(PROTEIN))


def test_a_flipped_bit_in_the_weights_is_found(tiny_model, tmp_path: Path) -> None:
    """In a model folder by the checksum of config.json, in a checkpoint by those of the archive."""
    export(tiny_model, tmp_path / "model")
    about = {**description(tiny_model.config)}
    weights = {f"model.{name}": weight for name, weight in tiny_model.state_dict().items()}
    torch.save({KEY: about, "state_dict": weights}, tmp_path / "model.ckpt")
    load(tmp_path / "model.ckpt")
    for path, target in (("model/model.safetensors", "model"), ("model.ckpt", "model.ckpt")):
        content = bytearray((tmp_path / path).read_bytes())
        position = content.index(tiny_model.head.weight.detach().numpy().tobytes())
        content[position + 3] ^= 0x40
        (tmp_path / path).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            load(tmp_path / target)


@pytest.mark.parametrize("attention", ["exact", "opt", "softmax", "relu_unprojected", "sderf"])
def test_another_kind_of_attention_keeps_all_weights(saved: Path, tiny_model: Performer, attention: str) -> None:
    model = load(saved, attention=attention)
    assert model.config.attention == attention
    assert not any(module.training for module in model.modules())
    weights = dict(tiny_model.named_parameters())
    assert dict(model.named_parameters()).keys() == weights.keys()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name])
    with torch.inference_mode():
        assert not torch.allclose(model(PROTEIN), tiny_model(PROTEIN), atol=1e-6)


def test_a_switched_model_equals_one_built_from_its_configuration(saved: Path, tiny_model: Performer, tmp_path) -> None:
    """And the directions are those of the seed."""
    model = load(saved, "softmax", 40)
    assert model.config.num_features == 40
    built = Performer(model.config).eval()
    built.load_state_dict({**built.state_dict(), **dict(tiny_model.named_parameters())})
    export(model, tmp_path / "switched")
    with torch.inference_mode():
        assert torch.equal(built(PROTEIN), model(PROTEIN))
        assert torch.equal(load(tmp_path / "switched")(PROTEIN), model(PROTEIN))
        switch(model, "exact")
        switch(model, "relu", tiny_model.config.num_features)
        assert torch.equal(model(PROTEIN), tiny_model(PROTEIN))


def test_switching_to_the_same_attention_changes_nothing(tiny_model: Performer) -> None:
    """Even if the directions are no longer those of the seed."""
    tiny_model.redraw(7)
    before = tiny_model(PROTEIN)
    for choice in ((None, None), ("relu", None), (None, 16), ("relu", 16)):
        switch(tiny_model, *choice)
        assert torch.equal(tiny_model(PROTEIN), before)
    switch(tiny_model, None, 17)
    assert not torch.equal(tiny_model(PROTEIN), before)


@pytest.mark.parametrize(
    ("attention", "features", "match"),
    [
        ("nystrom", None, "^attention 'nystrom': expected one of exact"),
        ("", None, "^attention '': expected one of"),
        ("softmax", 0, "num_features.* at least 1"),
        ("exact", 64, "num_features 64: exact attention has no random features"),
    ],
)
def test_unknown_attention_is_refused(saved: Path, attention: str, features: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load(saved, attention, features)


def test_switching_keeps_device_dtype_and_mode(tiny_model: Performer) -> None:
    model = tiny_model.double().train().to("meta")
    switch(model, "sderf")
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "meta"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float64, name


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"model_type": "protlm"}, "convert it: protlm import"),
        ({"model_type": "esm"}, "convert it: protlm import"),
        ({"model_type": "bert"}, "a model of Hugging Face's transformers (bert)"),
    ],
)
def test_a_folder_of_transformers_is_named(model_folder: Path, about: dict[str, str], words: str) -> None:
    """Also with its weights in another file, such as pytorch_model.bin."""
    (model_folder / "config.json").write_text(json.dumps(about))
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            load(model_folder)
        assert words in str(caught.value)
        (model_folder / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["facebook/esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D", "esm2_t6_8M_UR50D.pt"])
def test_the_name_of_esm_explains_how_to_import_it(name: str) -> None:
    for call in (load, load_pretrained) if "/" not in name else (load,):  # which downloads it
        with pytest.raises(UserError, match=f"protlm import facebook/{Path(name).stem} MODEL"):
            call(name)


def test_other_files_and_folders_given_as_a_model_are_named(tmp_path: Path, corpus_path: Path, sample: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").touch()
    (tmp_path / "a.fasta").write_text(">a\nMKT\n")
    for path, words in (
        (tmp_path / "run", "the folder of a run, not a model; use "),
        (tmp_path / "a.fasta", "(found a FASTA file)"),
        (corpus_path, "(found an HDF5 file, such as a corpus or embeddings)"),
        (sample, "(found compressed)"),
    ):
        with pytest.raises(UserError) as caught:
            load(path)
        assert words in str(caught.value)


def test_files_without_permission_are_not_called_damaged(model_folder: Path, monkeypatch, tmp_path: Path) -> None:
    real = Path.open

    def denied(path: Path, *arguments, **named):
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"model.safetensors: cannot be read \(Permission denied\)"):
        load(model_folder)
