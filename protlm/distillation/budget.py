"""How many heads of a student have no learned features."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

from protlm.errors import UserError


@dataclass(frozen=True)
class Budget:
    """How many heads have no learned features, as fractions of all heads or of all layers.

    Attributes:
        exact_heads, exact_layers: those that features imitate worst, which stay exact.
        window_heads, window_layers: those that lose least by seeing near keys only.

    Raises:
        UserError: for fractions out of range.
    """

    exact_heads: float = 0.0
    exact_layers: float = 0.0
    window_heads: float = 0.0
    window_layers: float = 0.0

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share < 1:
                unit = name.partition("_")[2]
                raise UserError(
                    f"{name} {share}: expected a fraction of all {unit}, from 0 to below 1; 0.05 are 5 %", name
                )
        if sum(asdict(self).values()) >= 1:
            given = " and ".join(f"{name} {share:g}" for name, share in asdict(self).items() if share)
            raise UserError(f"{given}: together all of the model, so that no head has learned features; lower them")

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def counts(self, layers: int, heads: int) -> "Counts":
        """Numbers of layers and heads of a model.

        Raises:
            UserError: if a budget is less than one of them, or no head is left.
        """
        sizes = {"layers": layers, "heads": layers * heads}
        found = {}
        for name, share in asdict(self).items():
            size, unit = sizes[name.partition("_")[2]], name.partition("_")[2]
            found[name] = round(share * size)
            if share and not found[name]:
                raise UserError(f"{name} {share}: none of {size} {unit}; one is {1 / size:.3g}", name)
        counts = Counts(**found)
        taken = (counts.exact_layers + counts.window_layers) * heads + counts.exact_heads + counts.window_heads
        if taken >= sizes["heads"]:
            raise UserError(f"{', '.join(name for name, count in found.items() if count)}: no head is left; lower them")
        return counts


class Counts(NamedTuple):
    """A `Budget` in numbers of heads and layers."""

    exact_heads: int
    exact_layers: int
    window_heads: int
    window_layers: int
