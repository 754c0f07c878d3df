"""What the readers of all architectures share: the parts of a model, and checks of its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from protlm.errors import UserError
from protlm.exchange.weight_names import WeightNames

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
