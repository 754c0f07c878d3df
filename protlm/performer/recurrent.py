"""Causal attention position by position: what is kept of the keys, and the next position.

Legend: B batch, H heads, d head width, e value width, M features.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protlm.performer.blocks import nonzero
from protlm.performer.estimator import LOG2E
from protlm.performer.features import FeatureMap


class RecurrentState(NamedTuple):
    """What is kept of the keys so far; its size does not depend on their number.

    Args:
        shift: (B, H, 1, M), or (B, H, 1, 1) for features that may be negative: logarithm to base 2 of the sums' scale,
            float64 where the device has it.
        sums: (B, H, e + 1, M): of features times values, and of features.
    """

    shift: Tensor
    sums: Tensor


class State(NamedTuple):
    """What a causal model keeps of the tokens so far; see `Performer.step`.

    Args:
        position: how many there were.
        layers: of each layer, what its attention keeps.
    """

    position: int
    layers: tuple[Any, ...]

    def select(self, rows: Tensor) -> "State":
        """The state of some sequences, any number of times each, by their rows (n,) int64 in the batch."""
        return State(self.position, tuple(_rows(layer, rows) for layer in self.layers))


def _rows(state: Any, rows: Tensor) -> Any:
    """Of a tensor, or of all that are in named tuples."""
    if isinstance(state, Tensor):
        return state[rows]
    return None if state is None else state._make(_rows(part, rows) for part in state)


def step_position(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: float,
    state: RecurrentState,
) -> tuple[Tensor, RecurrentState]:
    """Attention of one position, and the state behind it.

    Args:
        q, k, v: (B, H, 1, d), (B, H, 1, d) and (B, H, 1, e), all of the state's dtype.
        feature_map, weight, bias, scale: as attention was computed with that gave the state.
        state: of the positions before.
    """
    dtype, exact = state.sums.dtype, state.shift.dtype
    both = torch.cat((q, k), 2).to(exact)
    p = both * scale if weight is None else both @ weight.T.to(exact)
    of_q, of_k = feature_map.features(p if bias is None else p + bias.to(exact)).split(1, 2)
    values = F.pad(v, (0, 1), value=1.0).transpose(2, 3)
    if feature_map.log:
        size = both[:, :, 1:].square().sum(-1, keepdim=True) * (feature_map.quadratic * scale**2 / 2 * LOG2E)
        before = state.shift + state.sums[..., -1:, :].log2()
        u = of_k * LOG2E + size
        shift = torch.logaddexp2(before, u)
        # sums are the large part of the state: they are gone through as seldom as can be
        sums = (state.sums * (state.shift - shift).exp2().to(dtype)).addcmul_(values, (u - shift).exp2().to(dtype))
        weights = (of_q + shift / LOG2E).softmax(-1).to(dtype)
        return weights @ sums[..., :-1, :].transpose(2, 3), RecurrentState(shift, sums)
    if feature_map.quadratic:
        size = both[:, :, 1:].square().sum(-1, keepdim=True) * (feature_map.quadratic * scale**2 / 2 * LOG2E)
        shift = torch.maximum(state.shift, size)
        sums = state.sums * (state.shift - shift).exp2().to(dtype)
        sums.addcmul_(values, (of_k * (size - shift).exp2()).to(dtype))
    else:
        shift, sums = state.shift, torch.addcmul(state.sums, values, of_k.to(dtype))
    both = of_q.to(dtype) @ sums.transpose(2, 3)
    return both[..., :-1] / nonzero(both[..., -1:]), RecurrentState(shift, sums)
