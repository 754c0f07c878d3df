"""Causal attention position by position: the state of the keys so far, and the next position.

Legend: B batch, H heads, d head width, e value width, M features.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protlm.performer.backends import kernels
from protlm.performer.estimator import LOG2E, nonzero
from protlm.performer.features import decode_map
from protlm.performer.linear_attention import Inputs, Options


class RecurrentState(NamedTuple):
    """The keys so far, for one layer; its size does not depend on their number.

    Args:
        shift: (B, H, 1, M), or (B, H, 1, 1) for features of either sign: base-2 logarithm of the scale of the sums,
            float64 where the device has it.
        sums: (B, H, e + 1, M): sums of features times values, and of features.
    """

    shift: Tensor
    sums: Tensor


class InPlaceState(RecurrentState):
    """A state of float32 tensors that a step overwrites and returns, so that it stays where it is in memory."""

    @classmethod
    def like(cls, state: RecurrentState, rows: int) -> "InPlaceState":
        """Uninitialised, for a batch of `rows` sequences."""
        return cls(*(x.new_empty(rows, *x.shape[1:], dtype=torch.float32) for x in state))

    def load(self, state: RecurrentState) -> None:
        """Copies another state, of one sequence for all or of as many."""
        for own, other in zip(self, state, strict=True):
            own.copy_(other.expand_as(own))


class PerformerState(NamedTuple):
    """The number of tokens so far and the state of each layer's attention, for a causal model; see `Performer.step`.

    Args:
        position: an integer, or a tensor () int64 on the model's device, which the host need not know.
        layers: one state a layer.
    """

    position: int | Tensor
    layers: tuple[Any, ...]

    def select(self, rows: Tensor) -> "PerformerState":
        """The state of some sequences, each any number of times, by their rows (n,) int64 of the batch."""
        return PerformerState(self.position, tuple(_rows(layer, rows) for layer in self.layers))


def _rows(state: Any, rows: Tensor) -> Any:
    """Rows of all tensors of a state, which is a tensor, None or a named tuple of states."""
    if isinstance(state, Tensor):
        return state[rows]
    return None if state is None else state._make(_rows(part, rows) for part in state)


def check_state(inputs: Inputs, options: Options, state: RecurrentState) -> None:
    """Raises ValueError for the state of another kernel or batch."""
    q, feature_map = inputs.q, decode_map(options.feature_map)
    rows = q.shape[-1] if inputs.weight is None else len(inputs.weight)
    features = feature_map.features(torch.empty(0, rows)).shape[-1]
    expected = ((*q.shape[:2], 1, features if feature_map.log else 1), (*q.shape[:2], inputs.v.shape[-1] + 1, features))
    if not isinstance(state, RecurrentState) or (state.shift.shape, state.sums.shape) != expected:
        raise ValueError(f"expected the state of a step of the same kernel and batch, of shapes {expected}")


def step(inputs: Inputs, options: Options, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
    """Attention (B, H, L, e) of the next positions in the dtype of v, and the state after them.

    Raises:
        ValueError: for the state of another kernel or batch.
    """
    check_state(inputs, options, state)
    if isinstance(state, InPlaceState):
        return kernels().step(inputs, options, state), state
    inputs, outs = inputs.scaled(options.scale), []
    parts = (x.to(state.sums.dtype).split(1, 2) for x in inputs[:3])
    for q_t, k_t, v_t in zip(*parts, strict=True):
        out, state = step_position(inputs._replace(q=q_t, k=k_t, v=v_t), options, state)
        outs.append(out)
    return torch.cat(outs, 2).to(inputs.v.dtype), state


def step_position(inputs: Inputs, options: Options, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
    """Attention (B, H, 1, e) of one position, and the state after it; q, k and v have the state's dtype, the
    directions are multiplied by the scale."""
    q, k, v, _, weight, bias = inputs
    feature_map, scale = decode_map(options.feature_map), options.scale
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
        # the sums are the large part of the state: as few passes over them as possible
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
