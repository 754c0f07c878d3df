"""The names of a model's weights in another library, and weights moved from there and back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.performer import Performer


@dataclass(frozen=True)
class WeightNames:
    """Names of modules here and there.

    Attributes:
        outside: module or weight outside the blocks -> its name there.
        inside: module inside a block -> its name there, relative to the block; several are joined by rows, such as
            queries, keys and values, which are one matrix here.
        block: what precedes the names inside block number {}.
        expected: what all weights together are, for messages.
    """

    outside: Mapping[str, str]
    inside: Mapping[str, str | tuple[str, ...]]
    block: str
    expected: str

    def sources(self, name: str) -> list[str]:
        """The names there of a weight."""
        if inside := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, module, kind = inside.groups()
            theirs = self.inside[module]
            several = (theirs,) if isinstance(theirs, str) else theirs
            return [f"{self.block.format(layer)}{one}.{kind}" for one in several]
        if name in self.outside:
            return [self.outside[name]]
        module, kind = name.rsplit(".", 1)
        return [f"{self.outside[module]}.{kind}"]


def moved(path: Path, found: Mapping[str, Tensor], names: WeightNames, model: Performer) -> dict[str, Tensor]:
    """The weights under their names here, in the dtypes of the model, float32 but for counters.

    Args:
        path: of their file, for messages.
        found: weights by name there, all of which must have a place.
        names: there.
        model: gives names and shapes here.

    Raises:
        UserError: for weights that are missing, left over, of another shape or not finite.
    """
    state, left = model.state_dict(), dict(found)
    sources = {name: names.sources(name) for name in state}
    expected = {source for each in sources.values() for source in each}
    for odd, what in ((expected - set(found), "missing"), (set(found) - expected, "unexpected")):
        if odd:
            some = f"{', '.join(sorted(odd)[:3])}{' ...' if len(odd) > 3 else ''}"
            raise UserError(f"{path}: {len(odd)} weights {what} ({some}); expected those of {names.expected}")
    weights = {}
    for name, weight in state.items():
        parts = [left.pop(source) for source in sources[name]]
        shape = (weight.shape[0] // len(parts), *weight.shape[1:]) if len(parts) > 1 else weight.shape
        for source, part in zip(sources[name], parts, strict=True):
            other = part.is_floating_point() != weight.is_floating_point()
            if part.shape != shape or other or not part.isfinite().all():
                kind = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
                raise UserError(
                    f"{path}: {source} is {kind}; expected finite floats {list(shape)} by the configuration"
                )
        parts = [part.to(weight.dtype) for part in parts]
        weights[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return weights


def moved_back(names: WeightNames, model: Performer) -> dict[str, Tensor]:
    """The weights under their names there, the reverse of `moved`."""
    weights = {}
    for name, weight in model.state_dict().items():
        sources = names.sources(name)
        weights |= dict(zip(sources, weight.chunk(len(sources)) if len(sources) > 1 else [weight], strict=True))
    return weights
