"""Exact attention nearby and learned features for everything else, in one normaliser.

Legend: B batch, H heads, L length, d head width, e value width, M features, C positions of a block, n blocks, W keys of
a block and its neighbours.

Positions are cut into blocks of C. A query attends to its own block and the two adjacent ones by exp(q.k / sqrt(d)),
and to all other keys by phi(q).psi(k), see `LearnedFeatures`; the sum of both kinds of weights is the denominator:

    out_t = (sum_near exp(q_t.k_s / sqrt(d)) v_s + sum_far phi(q_t).psi(k_s) v_s) / (the same without v_s)

Far keys are summed block by block, once from each end, so that nothing is subtracted, and relative to the largest key
of each feature, so that nothing overflows. To the queries of a block, feature i then is one more key, with the logit
log phi_i(q) + log sum_far psi_i(k_s) and the mean of far values as its value: a softmax over near keys and features,
which are joined by their log-sum-exp.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.baselines import ExactAttention
from protlm.performer.estimator import precision, without_autocast
from protlm.performer.head_groups import HeadGroups, matrix_of
from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.learned_features import LEARNED_MAPS, LearnedFeatures
from protlm.performer.projection import whole_number
from protlm.performer.softmax_lse import LEAST, softmax_lse

_ELEMENTS = 2**24  # weights of near keys computed at once, without gradients


@dataclass(frozen=True)
class Hybrid(Kind):
    """Exact attention to the own block and its neighbours, learned features for the rest.

    Windows and learned features in one normaliser: Zhang et al. 2024, "LoLCATs". Trained by `protlm linearise`.

    Args:
        map: of the learned features; see `LearnedFeatures`.
        block: C.
        exact_heads: by layer, the numbers of heads with exact attention, which is quadratic in length; () for none.
        window_heads: by layer, the numbers of heads without features, which see near keys only; () for none.
    """

    exact_matrix: ClassVar[bool] = True
    prefers_no_mask: ClassVar[bool] = True
    map: str = "positive"
    block: int = 64
    exact_heads: tuple[tuple[int, ...], ...] = ()
    window_heads: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.map not in LEARNED_MAPS:
            raise ValueError(f"map {self.map!r}: expected one of {', '.join(LEARNED_MAPS)}")
        whole_number("block", self.block, 1)
        for name in ("exact_heads", "window_heads"):
            given = getattr(self, name)
            heads = tuple(tuple(sorted(set(layer))) for layer in given)  # JSON has lists
            if any(type(head) is not int or head < 0 for layer in heads for head in layer):
                raise ValueError(f"{name} {given!r}: expected numbers of heads for each layer")
            object.__setattr__(self, name, heads)
        if both := [layer for layer in range(len(self.exact_heads)) if {*self._exact(layer)} & {*self._window(layer)}]:
            raise ValueError(f"exact_heads and window_heads of layer {both[0]} have a head in common")

    def _exact(self, layer: int) -> tuple[int, ...]:
        return self.exact_heads[layer] if layer < len(self.exact_heads) else ()

    def _window(self, layer: int) -> tuple[int, ...]:
        return self.window_heads[layer] if layer < len(self.window_heads) else ()

    def module(self, settings: AttentionSettings) -> nn.Module:
        s = settings
        exact, window = self._exact(s.layer), self._window(s.layer)
        for name, chosen in (("exact_heads", exact), ("window_heads", window)):
            if chosen and chosen[-1] >= s.heads:
                raise ValueError(f"{name}: layer {s.layer} has {s.heads} heads, numbered from 0; got {chosen[-1]}")
        rest = [head for head in range(s.heads) if head not in (*exact, *window)]

        def hybrid(heads: int, features: int) -> HybridAttention:
            return HybridAttention(s.head_dim, heads, features, self.map, self.block, s.causal, (s.seed, s.layer))

        groups: dict[str, tuple[nn.Module, Sequence[int]]] = {}
        if exact:
            groups["exact"] = ExactAttention(s.causal), exact
        if rest:
            groups["own"] = hybrid(len(rest), s.num_features), rest
        if window:
            groups["window"] = hybrid(len(window), 0), window
        return HeadGroups(groups) if len(groups) > 1 else next(iter(groups.values()))[0]

    def operations(self, settings: AttentionSettings, length: int) -> int:
        """Counts the own block and both neighbours as near, and all heads as having features."""
        dim, near = settings.head_dim, min(length, (2 if settings.causal else 3) * self.block)
        return 4 * dim * near + (0 if length <= near else 8 * dim * settings.num_features)


class HybridState(NamedTuple):
    """The keys so far, for one layer; its size does not depend on their number.

    Args:
        keys, values: (B, H, s, d or e) of the current and the previous block, s < 2 C.
        shift: (B, H, 1, M), logarithm of the scale of the sums.
        sums: (B, H, M, e + 1): of features times values, and of features, of earlier blocks.
    """

    keys: Tensor
    values: Tensor
    shift: Tensor
    sums: Tensor


class HybridAttention(nn.Module):
    """The attention of one layer; see `Hybrid`.

    Args:
        head_dim, heads, num_features: d, H, M; no features if M is 0: then only near keys are seen.
        map, block, causal: see `Hybrid`. Position t of causal attention sees positions up to t only.
        key: (seed, layer) of the directions that features start from.
    """

    def __init__(
        self,
        head_dim: int,
        heads: int,
        num_features: int = 64,
        map: str = "positive",  # noqa: A002
        block: int = 64,
        causal: bool = False,
        key: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.head_dim, self.block, self.causal = head_dim, block, causal
        self._exact = ExactAttention(causal)
        self.features = LearnedFeatures(map, heads, head_dim, num_features, key) if num_features else None
        self.near_only = False
        """Whether far keys are left out, to measure what they contribute."""

    def reset_parameters(self) -> None:
        """Starts the features anew."""
        if self.features is not None:
            self.features.reset_parameters()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Like `FavorAttention.forward`; 0 where no key is real. Sums are float32, or float64 for such inputs."""
        batch, heads, length, _ = q.shape
        with without_autocast(q.device):
            dtype, given = precision(q, k, v), v.dtype
            q, k, v = (x.to(dtype) for x in (q, k, v))
            if length <= 2 * self.block and not self.near_only:
                return self._exact(q, k, v, key_mask).to(given)
            if torch.is_grad_enabled():
                return self._blocks(q, k, v, key_mask, slice(None)).to(given)
            together = max(1, _ELEMENTS // (batch * length * 3 * self.block))
            parts = [slice(first, first + together) for first in range(0, heads, together)]
            return torch.cat([self._blocks(q, k, v, key_mask, part) for part in parts], 1).to(given)

    def _blocks(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, part: slice) -> Tensor:
        """Attention of some heads (B, H', L, e)."""
        (batch, _, length, _), size = q.shape, self.block
        real = q.new_ones(batch, length, dtype=torch.bool) if key_mask is None else key_mask
        rest = -length % size
        q, k, v = (F.pad(x[:, part], (0, 0, 0, rest)) for x in (q, k, v))
        real = F.pad(real, (0, rest))[:, None, :, None]
        near = [self._near(x) for x in (k, v, real)]
        q, k, v, real = (x.unflatten(2, (-1, size)) for x in (q, k, v, real))  # (B, H', n, C, .)
        seen = near[2].mT  # (B n, 1, C or 1, W)
        if self.causal:
            position = torch.arange(2 * size, device=q.device)
            seen = seen & (position <= position[size:, None])
        both = softmax_lse(q.transpose(1, 2).flatten(0, 1), near[0], near[1], seen, self.head_dim**-0.5)
        out, ones = (x.unflatten(0, (batch, -1)).transpose(1, 2) for x in both)
        if q.shape[2] > 2 and self.features is not None and not self.near_only:
            logits, means = self._far(self.features.keys(k, part).masked_fill(~real, LEAST), v)
            logits = self.features.queries(q, part) + logits
            share = torch.sigmoid(logits.logsumexp(-1, keepdim=True) - ones)
            out = out + share * (logits.softmax(-1) @ means - out)
        return out.flatten(2, 3)[:, :, :length]

    def _near(self, x: Tensor) -> Tensor:
        """(B, H', n C, any) -> (B n, H', W, any): of each block with its neighbours; zeros beyond the ends."""
        size, ahead = self.block, 0 if self.causal else self.block
        x = F.pad(x, (0, 0, size, ahead)).unfold(2, 2 * size + ahead, size)  # a view: neighbours are not copied
        return x.permute(0, 2, 1, 4, 3).flatten(0, 1)

    def _far(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """For each block, the sums over its far keys: logarithms (B, H', n, 1, M), means of values (B, H', n, M, e).

        Args:
            keys: (B, H', n, C, M), logarithms of features.
            values: (B, H', n, C, e).
        """
        highest = keys.detach().amax(3, keepdim=True)
        sums = (keys - highest).exp().mT @ with_ones(values)
        shift, total = _scanned(highest, sums)
        if not self.causal:
            before, (after, more) = shift, (x.flip(2) for x in _scanned(highest.flip(2), sums.flip(2)))
            shift = torch.maximum(before, after)
            total = total * (before - shift).exp().mT + more * (after - shift).exp().mT
        ones = total[..., -1:]
        none = (shift <= LEAST / 2).mT
        ones = ones.masked_fill(none, 1.0)
        return shift + ones.mT.log(), (total[..., :-1] / ones).masked_fill(none, 0)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: HybridState | None = None) -> tuple[Tensor, HybridState]:
        """Like `FavorAttention.step`."""
        if not self.causal:
            raise ValueError("only causal attention can be computed step by step")
        with without_autocast(q.device), torch.no_grad():
            if state is None:
                return self(q, k, v), self._state(k, v)
            outs = []
            each = (x.to(state.sums.dtype).split(1, 2) for x in (q, k, v))
            for one_q, one_k, one_v in zip(*each, strict=True):
                out, state = self._next(one_q, one_k, one_v, state)
                outs.append(out)
            return torch.cat(outs, 2).to(v.dtype), state

    def _state(self, k: Tensor, v: Tensor) -> HybridState:
        """The state after the first positions."""
        k, v = (x.to(precision(k, v)) for x in (k, v))
        features = 0 if self.features is None else self.features.count
        empty = k.new_zeros(*k.shape[:2], features, v.shape[-1] + 1)
        state = HybridState(k, v, torch.full_like(empty[..., 0][:, :, None], LEAST), empty)
        while state.keys.shape[2] > 2 * self.block:
            state = self._moved(state)
        return state

    def _next(self, q: Tensor, k: Tensor, v: Tensor, state: HybridState) -> tuple[Tensor, HybridState]:
        """Attention (B, H, 1, e) of one position, and the state after it."""
        if state.keys.shape[2] == 2 * self.block:
            state = self._moved(state)
        k, v = torch.cat((state.keys, k), 2), torch.cat((state.values, v), 2)
        scores = q @ k.mT * self.head_dim**-0.5
        if self.features is not None:
            scores = torch.cat((scores, self.features.queries(q) + state.shift), -1)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        near, far = weights[..., : k.shape[2]], weights[..., k.shape[2] :] @ state.sums
        ones = near.sum(-1, keepdim=True) + far[..., -1:]
        return (near @ v + far[..., :-1]) / ones, state._replace(keys=k, values=v)

    def _moved(self, state: HybridState) -> HybridState:
        """The state with its first block moved to the sums."""
        first, keys = state.keys.split((self.block, state.keys.shape[2] - self.block), 2)
        values, rest = state.values.split((self.block, state.values.shape[2] - self.block), 2)
        if self.features is None:
            return state._replace(keys=keys, values=rest)
        logarithms = self.features.keys(first)
        shift = torch.maximum(state.shift, logarithms.amax(2, keepdim=True))
        sums = state.sums * (state.shift - shift).exp().mT + (logarithms - shift).exp().mT @ with_ones(values)
        return HybridState(keys, rest, shift, sums)

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        """The attention matrices (B, H, L, L) of a bidirectional model without padding."""
        return matrix_of(self, q, k)

    def extra_repr(self) -> str:
        return f"block={self.block}, causal={self.causal}"


def with_ones(v: Tensor) -> Tensor:
    """Values (..., e) with a column of ones: (..., e + 1)."""
    return torch.cat((v, v.new_ones(*v.shape[:-1], 1)), -1)


def _scanned(highest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """For each block, the sums of all blocks before the previous one, and the logarithm of their scale.

    Args:
        highest: (B, H, n, 1, M), logarithm of the scale of each block's sums.
        sums: (B, H, n, M, e + 1).
    """
    shift, total = torch.full_like(highest[:, :, 0], LEAST), torch.zeros_like(sums[:, :, 0])
    shifts, totals = [shift, shift], [total, total]
    for now, one in zip(highest.unbind(2)[:-2], sums.unbind(2)[:-2], strict=True):
        larger = torch.maximum(shift, now)
        total = total * (shift - larger).exp().mT + one * (now - larger).exp().mT
        shift = larger
        shifts.append(shift)
        totals.append(total)
    return torch.stack(shifts, 2), torch.stack(totals, 2)
