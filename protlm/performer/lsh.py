"""Attention within hash buckets, as in Reformer, with the interface of `FavorAttention`.

Legend: B batch, H heads, L length, T positions of a level, d head width, e value width, R rounds, m positions of a
chunk, C chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.estimator import finite, nonzero, precision, waits, widest, without_autocast
from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.operands import check_operands
from protlm.performer.projection import draw_directions, whole_number

MAX_DIRECTIONS = 128
"""Maximum number per round; there are twice as many buckets."""


@dataclass(frozen=True)
class Lsh(Kind):
    """LSH attention (Kitaev et al. 2020), with new hashes in each training step, as in the paper.

    Args:
        rounds: R, number of independent hashes.
        bucket: m, positions of a chunk, twice the mean size of a bucket.
    """

    stepwise: ClassVar[bool] = False
    rounds: int = 4
    bucket: int = 64

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("bucket", self.bucket)):
            whole_number(f"lsh {name}", value, 1)

    @property
    def redraw_every(self) -> int:
        """Every step, as in the paper."""
        return 1

    def module(self, settings: AttentionSettings) -> nn.Module:
        s = settings
        return LshAttention(s.head_dim, self.rounds, self.bucket, s.causal, s.seed, s.layer)

    def operations(self, settings: AttentionSettings, length: int) -> int:
        """Hashes, logits and weighted sums; for a causal sequence, those of its last position."""
        head_dim, causal = settings.head_dim, settings.causal
        if length <= self.bucket:
            return 4 * head_dim * length // (2 if causal else 1)
        keys = self.bucket if causal else 2 * self.bucket
        return self.rounds * head_dim * (2 * min(MAX_DIRECTIONS, -(-length // self.bucket)) + 4 * keys)


class LshAttention(nn.Module):
    """Attention among positions whose queries point in similar directions; time and memory linear in L.

    Queries serve as keys: position i gives position j the weight exp(q_i.q_j / |q_j|), normalised over the j that i
    sees. (The paper has keys of norm 1 and omits the temperature 1 / sqrt(d); its authors' code has keys of norm
    sqrt(d) and that temperature, which is equivalent to this.) In each of R rounds a query's bucket is the nearest
    signed direction, and positions are sorted by bucket, then by position. Position i sees position j if in some round
    they share a bucket and j is in the sorted chunk of i, of m positions, or in the previous one; in the causal case,
    if j is one of the last m positions of the bucket before i. The paper uses chunks in both cases, but their
    boundaries depend on all positions, so early positions would depend on later ones. A position sees itself only if
    it sees no other.

    Rounds are combined by their sums of weights. A j that i sees in several rounds counts in the first only; the paper
    counts it in each, divided by their number N_ij, which gives the same sum. So this is softmax over all positions
    that i sees in any round.

    A protein of n > m keys has 2 ceil(n / m) buckets, at most 2 x 128; a shorter one has one, so all positions see each
    other. In the causal case a position uses m 2^l, with the smallest possible l, as n, the number of keys up to
    itself; so its result never depends on later positions, nor on whether there are any. Masked positions get 0.

    All heads share one set of directions, a buffer that is saved with the model. The hash is computed in float64, so
    bitwise equal float32 inputs have the same hash in any batch; inputs that differ in their last bits have different
    buckets in fewer than one case in 10^6.

    Args:
        head_dim: d.
        rounds, bucket: R and m.
        causal: position t sees positions up to t only.
        seed, layer: together with the draw number, they determine the directions.

    Source: Kitaev, Kaiser, Levskaya 2020, "Reformer: The Efficient Transformer", section 2 and appendix A; the hash is
    that of Andoni et al. 2015, with blocks of d orthonormal directions for the paper's Gaussian ones.

    >>> attention = LshAttention(head_dim=8, rounds=2, bucket=4)
    >>> q = k = v = torch.ones(1, 2, 5, 8)
    >>> attention(q, k, v).shape
    torch.Size([1, 2, 5, 8])
    """

    directions: Tensor
    draw_number: Tensor

    def __init__(
        self, head_dim: int, rounds: int = 4, bucket: int = 64, causal: bool = False, seed: int = 0, layer: int = 0
    ) -> None:
        super().__init__()
        for name, value, least in (("head_dim", head_dim, 1), ("seed", seed, 0), ("layer", layer, 0)):
            whole_number(name, value, least)
        self.lsh = Lsh(rounds, bucket)
        self.head_dim, self.causal = head_dim, causal
        self._key = (seed, layer)
        drawn = self._draw(0)
        self.register_buffer("directions", torch.empty(drawn.shape).copy_(drawn))  # on the current default device
        self.register_buffer("draw_number", torch.tensor(0))

    def _draw(self, draw_number: int) -> Tensor:
        """(R, 128, d), drawn independently for each round."""
        keys = [(*self._key, draw_number, i) for i in range(self.lsh.rounds)]
        rounds = [draw_directions("orthogonal", "constant", MAX_DIRECTIONS, self.head_dim, key) for key in keys]
        return torch.stack(rounds).float()

    @torch.no_grad()
    def redraw(self, draw_number: int) -> None:
        """Replaces the directions by those of (seed, layer, draw number), the same on every rank."""
        whole_number("draw_number", draw_number, 0)
        self.directions.copy_(self._draw(draw_number))
        self.draw_number.fill_(draw_number)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attention (B, H, L, e) in the dtype of v.

        Args:
            q: (B, H, L, d), v: (B, H, L, e); any float dtype and strides. Computed in float32 (float64 for
                float64), even under autocast.
            k: (B, H, L, d), not used.
            key_mask: (B, L) bool, true where a position is real; None if all are. Masked positions may hold any finite
                numbers.
        """
        check_operands(self.head_dim, q, k, v, key_mask)
        if not v.numel():
            return v
        dtype, (batch, heads, length, _) = precision(q, v), q.shape
        chunk = min(self.lsh.bucket, length)  # within one chunk all positions see each other
        real = q.new_ones(batch, length, dtype=torch.bool) if key_mask is None else key_mask
        with without_autocast(q.device):
            x, values = (y.to(dtype).masked_fill(~real[:, None, :, None], 0.0) for y in (q, v))
            place = back = None
            if key_mask is not None:  # move keys to the front, so that padding does not affect their numbers
                order = (~real).int().argsort(dim=1, stable=True)
                real = real.gather(1, order)
                place, back = (y[:, None].expand(-1, heads, -1) for y in (order, order.argsort(1)))
                x, values = (_Permuted.apply(y, place, back) for y in (x, values))
            x, values = (F.pad(y, (0, 0, 0, -length % chunk)) for y in (x, values))
            real = F.pad(real, (0, -length % chunk))
            parts = [
                self._level(x[:, :, :stop], values[:, :, :stop], real[:, :stop], count, most, chunk)[:, :, start:]
                for start, stop, count, most in self._levels(real)
            ]
            out = torch.cat(parts, 2)[:, :, :length]
            return (out if place is None else _Permuted.apply(out, back, place)).to(v.dtype)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Not supported: sorting needs all positions."""
        raise ValueError("generation with LSH attention is not supported; use another kind of attention")

    def _levels(self, real: Tensor) -> Iterator[tuple[int, int, Tensor, int]]:
        """Ranges of positions with the same number of buckets, the number of directions (B) for each, and its bound."""
        chunk, length = self.lsh.bucket, real.shape[1]
        if not self.causal:
            keys = real.sum(1)
            count = (keys + chunk - 1).div(chunk, rounding_mode="floor").clamp(max=MAX_DIRECTIONS)
            count = count.masked_fill(keys <= chunk, 0)
            most = min(MAX_DIRECTIONS, -(-length // chunk)) if waits(real) else int(count.max())
            yield 0, length, count, most
            return
        start, most = 0, chunk
        while start < length:
            stop = length if most >= chunk * MAX_DIRECTIONS else min(most, length)
            count = 0 if most == chunk else min(most // chunk, MAX_DIRECTIONS)
            yield start, stop, torch.full_like(real[:, 0], count, dtype=torch.long), count
            start, most = stop, 2 * most

    def _level(self, x: Tensor, values: Tensor, real: Tensor, count: Tensor, most: int, chunk: int) -> Tensor:
        """Attention (B, H, T, e) of x (B, H, T, d), T a multiple of `chunk`, with `count` (B) directions, <= `most`."""
        rounds = self.lsh.rounds if x.shape[2] > chunk else 1  # in one chunk all rounds would be the same
        keys = x / nonzero(torch.linalg.vector_norm(x, dim=-1, keepdim=True))
        operands, widths = torch.cat((x, keys, values), -1), (self.head_dim, self.head_dim, values.shape[-1])
        orders, codes = self._sorted(x, real, count, most, rounds, chunk)
        results, tops = [], []
        for i, order in enumerate(orders):
            back = order.argsort(-1)
            queries, near, near_values = _Permuted.apply(operands, order, back).split(widths, -1)
            logits = _chunks(queries, chunk) @ _windows(near, chunk, 0).transpose(-2, -1)
            logits.masked_fill_(self._hidden(order, codes[: i + 1], chunk), -torch.inf)
            top = logits.detach().amax(-1, keepdim=True)
            weights = logits.sub_(finite(top)).exp_()
            result = torch.cat((weights @ _windows(near_values, chunk, 0), weights.sum(-1, keepdim=True)), -1)
            results.append(_Permuted.apply(result.flatten(2, 3), back, order))
            tops.append(top.flatten(2, 3).gather(2, back[..., None]))
        highest = finite(torch.stack(tops).amax(0))
        total = sum((part * (top - highest).exp() for part, top in zip(results, tops, strict=True)), x.new_zeros(()))
        numerator, denominator = total[..., :-1], total[..., -1:]
        return torch.where(denominator == 0, values, numerator / nonzero(denominator))

    @torch.no_grad()
    def _sorted(
        self, x: Tensor, real: Tensor, count: Tensor, most: int, rounds: int, chunk: int
    ) -> tuple[list[Tensor], ...]:
        """For each round, the order of positions (B, H, T) and their codes: i sees j if 0 <= code_i - code_j <= reach.

        Codes count positions if causal, otherwise chunks; those of different buckets differ by more than the reach.
        """
        orders, codes, reach = [], [], chunk if self.causal else 1
        position = torch.arange(x.shape[2], device=x.device)
        exact, largest = x.to(widest(x)), len(position) + (reach + 1) * (2 * MAX_DIRECTIONS + 1)
        dtype = torch.int16 if largest < 2**15 else torch.int32  # comparing all pairs takes much of the time
        for directions in self.directions[:rounds]:
            bucket = _hash(exact, directions[: max(1, most)], count).masked_fill(~real[:, None], 2 * MAX_DIRECTIONS)
            bucket, order = bucket.sort(dim=-1, stable=True)
            code = (position if self.causal else position // chunk) + (reach + 1) * bucket
            orders.append(order)
            codes.append(torch.empty_like(code).scatter_(-1, order, code).to(dtype))
        return orders, codes

    def _hidden(self, order: Tensor, codes: list[Tensor], chunk: int) -> Tensor:
        """(B, H, C, m, 2 m) bool: positions that i does not see in the last round, or has seen in an earlier one."""
        seen, reach = None, chunk if self.causal else 1
        for code in reversed(codes):
            code = code.gather(-1, order)
            mine, theirs = _chunks(code, chunk)[..., None], _windows(code, chunk, -reach - 1)[..., None, :]
            both = (theirs <= mine).logical_and_(theirs >= mine - reach)
            seen = both if seen is None else seen.logical_and_(both.logical_not_())
        assert seen is not None
        seen.diagonal(seen.shape[-1] - chunk, -2, -1).fill_(False)  # i itself
        return seen.logical_not_()

    def extra_repr(self) -> str:
        return (
            f"head_dim={self.head_dim}, rounds={self.lsh.rounds}, bucket={self.lsh.bucket}, causal={self.causal}, "
            f"seed={self._key[0]}, layer={self._key[1]}"
        )


class _Permuted(torch.autograd.Function):
    """Reorders positions of (B, H, T, w) by (B, H, T); given the inverse, since the backward of `gather` is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return _rows(x, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return _rows(grads[0], back), None, None


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """x (B, H, T, w) in the order (B, H, T)."""
    rows = order.flatten(0, 1)
    rows = rows + torch.arange(len(rows), device=x.device)[:, None] * rows.shape[1]
    return x.reshape(-1, x.shape[-1]).index_select(0, rows.flatten()).view(x.shape)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, H, T, ...) -> (B, H, C, m, ...)."""
    return x.unflatten(2, (-1, chunk))


def _windows(x: Tensor, chunk: int, nothing: float) -> Tensor:
    """(B, H, T, ...) -> (B, H, C, 2 m, ...): each chunk after the previous one; (B, H, 1, m, ...) for one chunk."""
    x = _chunks(x, chunk)
    if x.shape[2] == 1:
        return x
    return torch.cat((torch.cat((torch.full_like(x[:, :, :1], nothing), x[:, :, :-1]), 2), x), 3)


def _hash(x: Tensor, directions: Tensor, count: Tensor) -> Tensor:
    """Buckets (B, H, T) from 0: the nearest of the first `count` (B) signed directions; one bucket if `count` is 0.

    Directions beyond all counts change nothing.
    """
    p = x @ directions.to(x).T
    column = torch.arange(len(directions), device=x.device)
    sizes = p.abs().masked_fill_(column >= count[:, None, None, None], -1.0)
    best = sizes.argmax(-1, keepdim=True)
    bucket = (2 * best + (p.gather(-1, best) < 0)).squeeze(-1)
    return bucket.masked_fill(count[:, None, None] == 0, 0)
