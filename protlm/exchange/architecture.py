"""What all architectures of other libraries share: their table, the parts of a model, checks of its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from protlm.errors import UserError
from protlm.exchange.saved_model import SavedModel
from protlm.exchange.weight_names import WeightNames
from protlm.performer import PerformerConfig

SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")


@dataclass(frozen=True)
class Parts:
    """What an imported model consists of.

    Attributes:
        config: arguments of `PerformerConfig`.
        weights: by name there, exactly those of the model.
        names: there.
        left_out: heads that have no counterpart here.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    names: WeightNames
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Architecture:
    """A family of models of transformers, as a table that is read in both directions.

    Attributes:
        title: of the family.
        classes: of transformers: with a language-model head, and without.
        tokenizer: class of transformers.
        fields: entry of config.json -> the field of `PerformerConfig` that has its value.
        there: entry of config.json -> its required value, and the one that a missing entry stands for.
        here: field of `PerformerConfig` -> its required value.
        head: of `PerformerConfig`, of models with a language-model head.
        names: of the weights.
        read: what a saved model consists of.
        back: from a configuration here and weights under their names there: further entries of config.json, and the
            weights as they are saved there. It raises a UserError for a model that the family does not include.
    """

    title: str
    classes: tuple[str, str]
    tokenizer: str
    fields: Mapping[str, str]
    there: Mapping[str, tuple[Any, Any]]
    here: Mapping[str, Any]
    head: str
    names: WeightNames
    read: Callable[[SavedModel], Parts]
    back: Callable[[PerformerConfig, dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]

    def arguments(self, saved: SavedModel) -> dict[str, Any]:
        """Arguments of `PerformerConfig` from config.json, which is checked."""
        check_values(saved.config_path, saved.config, self.there, self.title)
        check_sizes(saved.config_path, saved.config)
        return {**self.here, **{here: saved.config[there] for there, here in self.fields.items()}}

    def entries(self, config: PerformerConfig) -> dict[str, Any]:
        """The reverse of `arguments`: entries of config.json.

        Raises:
            UserError: for a configuration that the family does not have.
        """
        expected = {**self.here, "head": self.head if config.head != "none" else "none"}
        found = config.to_dict()
        odd = [f"{name} is {found[name]!r}, not {value!r}" for name, value in expected.items() if found[name] != value]
        if odd:
            raise UserError(f"not the architecture of {self.title}: {'; '.join(odd)}")
        fixed = {name: value for name, (value, _) in self.there.items()}
        return fixed | {there: found[here] for there, here in self.fields.items()}


def check_values(path: Path, about: Mapping[str, Any], expected: Mapping[str, tuple[Any, Any]], title: str) -> None:
    """Raises a UserError unless a configuration has the expected values.

    Args:
        path: of the configuration.
        about: its content.
        expected: name -> the expected value, and the one that a missing entry stands for.
        title: of the architecture.
    """
    for name, (value, default) in expected.items():
        if (found := about.get(name, default)) != value and not (value is False and found is None):
            raise UserError(f"{path}: {name} is {found!r}; only {title} can be imported, where it is {value!r}")


def check_sizes(path: Path, about: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Layers, heads, width and hidden width of the feed-forward layers."""
    for name in SIZES:
        if type(about.get(name)) is not int or about[name] < 1:
            raise UserError(f"{path}: {name} is {about.get(name)!r}; expected an integer of at least 1")
    layers, heads, width, hidden = (about[name] for name in SIZES)
    if width % (2 * heads):
        raise UserError(f"{path}: hidden_size {width} with {heads} heads; expected heads of equal and even width")
    return layers, heads, width, hidden
