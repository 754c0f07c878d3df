"""Golden values: what they detect and what they tolerate."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from protlm import checkpoint, golden
from protlm.errors import UserError
from protlm.inference.engine import PRECISIONS, Computer
from protlm.inference.reproduction import recomputed
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import MASK
from tests.command import assert_refused

SMALL = PerformerConfig(33, 1, 2, 2, 16, 32, num_features=16, max_length=256)
MODELS = {
    "relu": {},
    "softmax, both positions": {"attention": "softmax", "positions": "both"},
    "causal": {"causal": True},
    "linformer": {"attention": "linformer", "max_length": 40},
    "short": {"max_length": 12},
    "ESM's": {"attention": "exact", "positions": "rotary", "head": "esm", "zeroed_id": MASK, "local_heads": 1},
    "ESMC's": {"attention": "exact", "head": "esmc", "activation": "swiglu", "qk_norm": True},
    "no head": {"head": "none"},
}


def small(**changes: Any) -> Performer:
    """A model with dropout and weights that differ from their initialisation, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Performer(dataclasses.replace(SMALL, **changes))
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    return model


def largest(model: Performer, folder: Path, precision: str = "float32") -> float:
    kept = golden.read(folder)
    assert kept is not None
    found = golden.differences(recomputed(Computer(model, precision=precision)), kept.values)
    return max(one.relative for one in found)


def quantities(model: Performer) -> list[tuple[str, str]]:
    both = [(name, quantity) for name in golden.PROTEINS for quantity in ("embedding", "logits")]
    return [
        (name, quantity)
        for name, quantity in both
        if quantity == "embedding" or (model.head is not None and name not in golden.WITHOUT_LOGITS)
    ]


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
def test_each_folder_has_the_values_that_its_model_computes(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small(**changes)
    for dtype in checkpoint.DTYPES:
        before = torch.random.get_rng_state()
        checkpoint.export(model, tmp_path / dtype, dtype)
        assert torch.equal(torch.random.get_rng_state(), before)
        loaded = checkpoint.load(tmp_path / dtype)
        for precision in PRECISIONS:
            assert largest(loaded, tmp_path / dtype, precision) <= golden.TOLERANCES[precision]
    assert model.training
    kept = golden.read(tmp_path / "float32")
    assert kept is not None
    assert set(kept.values) == {f"{name}.{quantity}" for name, quantity in quantities(model)}
    assert (tmp_path / "float32" / golden.FILE).stat().st_size < 20_000


def test_16_bits_are_not_taken_for_32(tmp_path: Path) -> None:
    """So that the tolerance of 32 bits means something."""
    model = small().eval()
    checkpoint.export(model, tmp_path / "model")
    assert largest(model, tmp_path / "model", "bfloat16") > 3 * golden.TOLERANCES["float32"]
    checkpoint.export(model, tmp_path / "rounded", "bfloat16")
    assert largest(model, tmp_path / "rounded") > golden.TOLERANCES["float32"]


@pytest.mark.parametrize("kind", ["softmax, both positions", "ESM's", "ESMC's", "no head"])
def test_a_change_of_any_weight_or_direction_is_found(tmp_path: Path, kind: str) -> None:
    model = small(**MODELS[kind]).eval()
    checkpoint.export(model, tmp_path / "model")
    assert largest(model, tmp_path / "model") < 1e-5
    tried = 0
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point() or name.endswith(("k_norm.bias", "attention.qkv.bias")):  # keys: see below
            continue
        before = weight.clone()
        weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        assert largest(model, tmp_path / "model") > golden.TOLERANCES["float32"], name
        weight.copy_(before)
        tried += 1
    assert tried > 10
    model.blocks[0].attention.qkv.bias.data[-16:] += 0.02  # of values; softmax does not depend on that of keys
    assert largest(model, tmp_path / "model") > golden.TOLERANCES["float32"]


def test_values_that_are_not_finite_never_pass(tmp_path: Path) -> None:
    model = small().eval()
    checkpoint.export(model, tmp_path / "model")
    model.norm.weight.data[0] = float("nan")
    assert largest(model, tmp_path / "model") == float("inf")
    checkpoint.export(model, tmp_path / "diverged")
    assert not largest(model, tmp_path / "diverged") <= golden.TOLERANCES["float32"]


def test_values_of_another_model_and_damaged_files_are_refused(tmp_path: Path) -> None:
    checkpoint.export(small(), tmp_path / "model")
    with pytest.raises(UserError, match="of a model with another architecture"):
        largest(small(width=24), tmp_path / "model")
    path = tmp_path / "model" / golden.FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="golden.safetensors: damaged or cut short"):
        golden.read(tmp_path / "model")


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(golden, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.export(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_check_says_by_how_much_a_model_differs(protlm: Any, model_folder: Path, tiny_model: Performer) -> None:
    done = protlm("check", model_folder)
    assert (done.code, done.err) == (0, "")
    assert "cpu, float32: as recorded" in done.out
    assert [line.split()[:2] for line in done.out.splitlines()[1:-1]] == [
        [name, quantity] for name, quantity in quantities(tiny_model)
    ]
    assert protlm("check", model_folder, "--precision", "bfloat16").code == 0
    tiny_model.head.bias.data += 0.5
    golden.record(tiny_model, model_folder)
    done = protlm("check", model_folder)
    assert done.code == 1
    assert "0.5" in done.out
    assert "beyond the relative tolerance of 0.0001" in done.out


def test_check_records_the_values_of_an_older_folder_only_on_request(protlm: Any, model_folder: Path) -> None:
    path = model_folder / golden.FILE
    kept = path.read_bytes()
    path.unlink()
    assert_refused(protlm("check", model_folder), "no golden values", "--write")
    assert not path.exists()
    assert protlm("check", model_folder, "--write").code == 0
    assert path.read_bytes() == kept
    assert_refused(protlm("check", model_folder, "--write"), "has golden values already")


def test_check_of_a_fitted_model_is_that_of_its_base(protlm: Any, tiny_model: Performer, tmp_path: Path) -> None:
    (tmp_path / "fitted").mkdir()
    about = {"format": checkpoint.PREDICTOR, "version": 1, "base": {"path": "base", "fingerprint": ""}}
    (tmp_path / "fitted" / "config.json").write_text(json.dumps(about))
    assert_refused(protlm("check", tmp_path / "fitted"), "fitted/base: no such model")
    checkpoint.export(tiny_model, tmp_path / "fitted" / "base")
    assert protlm("check", tmp_path / "fitted").code == 0


def test_what_check_cannot_use_is_refused(protlm: Any, model_folder: Path, tmp_path: Path) -> None:
    assert_refused(protlm("check", tmp_path / "absent"), "absent: no such model")
    assert_refused(protlm("check", model_folder, "--precision", "int8"), "--precision 'int8'")
    (model_folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert_refused(protlm("check", model_folder), "bert")
    torch.save({}, tmp_path / "last.ckpt")
    assert_refused(protlm("check", tmp_path / "last.ckpt"), "last.ckpt")
