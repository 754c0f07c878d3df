"""Names and descriptions of attention, and classes of other packages."""

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from protlm.performer import FavorAttention, Performer, PerformerConfig
from protlm.performer.favor import Favor
from protlm.performer.features import (
    FEATURE_MAPS,
    FUNCTIONS,
    Exponential,
    FeatureMap,
    Generalised,
    decode_map,
    encode_map,
)
from protlm.performer.kind import Kind
from protlm.performer.kinds import ATTENTION, describe, from_description, kind_of
from protlm.performer.linformer import Linformer
from protlm.performer.window import Window

MODULE = """
from dataclasses import dataclass

from torch import Tensor, nn

from protlm.performer.features import FeatureMap
from protlm.performer.kind import AttentionSettings, Kind


class Mean(nn.Module):
    def forward(self, q, k, v, key_mask=None):
        return v.mean(2, keepdim=True).expand_as(v)


@dataclass(frozen=True)
class Average(Kind):
    unidirectional = False
    factor: float = 0.5

    def module(self, settings: AttentionSettings) -> nn.Module:
        return Mean()

    def operations(self, settings: AttentionSettings, length: int) -> int:
        return settings.head_dim


@dataclass(frozen=True)
class Cubed(FeatureMap):
    linear = False
    epsilon: float = 0.25

    def features(self, p: Tensor) -> Tensor:
        return p.relu() ** 3 + self.epsilon

    def features_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        return grad * 3 * p.relu() ** 2


Unrelated = dict
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an importable module that nothing has imported yet."""
    name = f"third_party_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("name", ATTENTION)
def test_descriptions_of_named_kinds_are_their_names(name: str) -> None:
    assert describe(name) == describe(ATTENTION[name]) == from_description(name) == name
    assert kind_of(name) is ATTENTION[name]


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_encoded_maps_are_decoded(name: str) -> None:
    assert kind_of(FEATURE_MAPS[name]) == ATTENTION[name]
    assert decode_map(encode_map(FEATURE_MAPS[name])) == FEATURE_MAPS[name]


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (
            Favor(Generalised("gelu", 0.01)),
            {"map": "Generalised", "function": "gelu", "epsilon": 0.01, "projected": True},
        ),
        (Favor(Exponential(0.5)), {"map": "Exponential", "epsilon": 0.5}),
        (Linformer(16), {"kind": "Linformer", "rank": 16}),
        (Window(7), {"kind": "Window", "size": 7}),
    ],
)
def test_kinds_without_a_name_are_described_by_their_fields(kind: Kind, described: dict) -> None:
    assert describe(kind) == described
    assert from_description(json.loads(json.dumps(described))) == kind


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"map": "Linformer"}, "Linformer.*Generalised"),
        ({"map": "FeatureMap"}, "FeatureMap.*Softmax"),
        ({"kind": "Softmax"}, "Softmax.*Window"),
        ({"function": "relu"}, "None.*Generalised"),
        ({"map": "Generalised", "function": "swish"}, "swish.*relu"),
        ({"map": "Generalised", "epsilom": 1.0}, "Generalised.*epsilom"),
        ({"map": "Softmax", "epsilon": 1.0}, "Softmax.*epsilon"),
        ({"kind": "protlm_absent.Mine"}, "no module named 'protlm_absent' is installed.; install the module"),
        ({"kind": "os.system"}, "cannot import"),
        ({"kind": "antigravity.Kind"}, "cannot import"),
        ({"kind": "protlm.errors.UserError"}, "expected a class derived from Kind, got"),
        ({"map": "protlm.performer.kind.Kind"}, "expected a class derived from FeatureMap, got"),
        ({"kind": "protlm.performer.window.Windows"}, "cannot import.*Windows"),
    ],
)
def test_unknown_descriptions_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_description(wrong)
    assert "antigravity" not in sys.modules


def test_every_function_is_a_named_map() -> None:
    assert {name: FEATURE_MAPS[name] for name in FUNCTIONS} == {name: Generalised(name) for name in FUNCTIONS}


@pytest.mark.parametrize("description", [{"kind": "{}.Average", "factor": 2.0}, {"map": "{}.Cubed", "epsilon": 2.0}])
def test_a_class_of_another_module_is_imported_by_its_name(module: str, description: dict) -> None:
    described = {key: value.format(module) if isinstance(value, str) else value for key, value in description.items()}
    values = {**PerformerConfig(33, 1, 1, 2, 16, 16).to_dict(), "attention": described}
    config = PerformerConfig.from_dict(values)
    assert module in sys.modules
    assert config.to_dict()["attention"] == described
    assert PerformerConfig.from_dict(config.to_dict()) == config
    logits = Performer(config)(torch.full((1, 9), 5))
    logits.sum().backward()
    assert logits.isfinite().all()


def test_a_map_of_another_module_has_its_own_gradient_and_is_decoded_in_another_process(module: str) -> None:
    kind = from_description({"map": f"{module}.Cubed"})
    assert isinstance(kind, Favor)
    text = encode_map(kind.feature_map)
    assert json.loads(text) == [module, "Cubed", {"epsilon": 0.25}]
    attention = FavorAttention(2, 3, kind.feature_map)
    q, k, v = (x.double().requires_grad_() for x in torch.randn(3, 1, 1, 5, 2).unbind())
    assert torch.autograd.gradcheck(attention, (q, k, v))


def test_a_map_that_is_not_linear_must_have_a_gradient() -> None:
    class Squared(FeatureMap):
        linear = False

        def features(self, p: torch.Tensor) -> torch.Tensor:
            return p**2

    q = torch.ones(1, 1, 2, 4, requires_grad=True)
    with pytest.raises(NotImplementedError, match="Squared.*features_backward"):
        FavorAttention(4, 8, Squared())(q, q, q).sum().backward()


def test_code_in_a_model_folder_is_not_executed(module: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=f"{module}.py is in a model folder, whose code is not executed"):
        from_description({"kind": f"{module}.Average"})
    assert module not in sys.modules


def test_entry_points_register_names(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = {
        "average": EntryPoint("average", f"{module}:Average", "protlm.attention"),
        "cubed": EntryPoint("cubed", f"{module}:Cubed", "protlm.feature_maps"),
        "wrong": EntryPoint("wrong", f"{module}:Unrelated", "protlm.attention"),
        "absent": EntryPoint("absent", "protlm_absent:Mine", "protlm.attention"),
    }

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [entry for entry in registered.values() if entry.group == group and name in (None, entry.name)]

    monkeypatch.setattr("protlm.performer.kinds.entry_points", entry_points)
    config = PerformerConfig(33, 1, attention="cubed")
    assert isinstance(config.kind, Favor)
    assert PerformerConfig.from_dict(config.to_dict()) == config
    assert type(PerformerConfig(33, 1, attention="average").kind).__name__ == "Average"
    with pytest.raises(ValueError, match=r"model\.attention 'average' is not defined for a causal model"):
        PerformerConfig(33, 1, attention="average", causal=True)
    with pytest.raises(ValueError, match="attention wrong: expected a class derived from Kind"):
        kind_of("wrong")
    with pytest.raises(ValueError, match="attention absent: cannot import it from module 'protlm_absent'"):
        kind_of("absent")
    with pytest.raises(ValueError, match="attention 'unknown': expected one of exact"):
        kind_of("unknown")
