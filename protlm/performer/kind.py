"""What a configuration says of a kind of attention other than FAVOR+, and how it becomes a module."""

from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

from torch import nn


class Place(NamedTuple):
    """What the model tells a module of its attention.

    Args:
        head_dim: d.
        max_length: of the configuration.
        causal: position t sees positions up to t only.
        seed, layer: all that random draws depend on besides their number.
    """

    head_dim: int
    max_length: int
    causal: bool
    seed: int
    layer: int


@dataclass(frozen=True)
class Kind:
    """What all kinds share; their fields are whole numbers from 1.

    A new kind is a class below this one and a name in kinds.py; one with fields has a file in conf/model/attention.
    """

    unidirectional: ClassVar[bool] = True
    """Defined for causal models too."""
    stepwise: ClassVar[bool] = True
    """Can be computed token by token if causal, by a method `step`."""
    bounded: ClassVar[bool] = False
    """Takes sequences up to `max_length` only."""
    redraw_every: ClassVar[int] = 0
    """Steps of training between two random draws, unless another number is asked for; 0 for no draws."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r}: expected a whole number from 1")

    def module(self, place: Place) -> nn.Module:
        """Attention of one layer, with the interface of `FavorAttention`."""
        raise NotImplementedError

    def operations(self, head_dim: int, length: int, causal: bool) -> int:
        """Of one head for each token of a sequence; an addition and a multiplication are two."""
        raise NotImplementedError
