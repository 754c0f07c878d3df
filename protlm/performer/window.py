"""Sliding-window attention: each position sees only its neighbours.

Legend: B batch, H heads, L length, d head width, e value width, C positions of a block, n blocks, W keys a block sees.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.baselines import KeysAndValues
from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.projection import whole_number
from protlm.performer.segments import Packed

_LEAST = 16  # positions of a block: smaller products cost more time than they save


@dataclass(frozen=True)
class Window(Kind):
    """Sliding-window attention (Beltagy et al. 2020).

    Args:
        size: of the window; see `WindowAttention`.
    """

    size: int = 128

    def __post_init__(self) -> None:
        whole_number("size", self.size, 1)

    def module(self, settings: AttentionSettings) -> nn.Module:
        return WindowAttention(self.size, settings.causal)

    def operations(self, settings: AttentionSettings, length: int) -> int:
        """Counts the keys that positions see, which are fewer at the ends."""
        if settings.causal:
            size = min(self.size, length)
            seen = length * size - size * (size - 1) // 2
        else:
            side = min(self.size // 2, length - 1)
            seen = length * (2 * side + 1) - side * (side + 1)
        return 4 * settings.head_dim * seen // length


class WindowAttention(nn.Module):
    """Softmax attention over neighbours, in time and memory linear in L.

    Position t sees position s if |t - s| <= size // 2, or if 0 <= t - s < size in the causal case: for an even size,
    these are size + 1 and `size` keys. The sequence is cut into blocks, each of which attends to itself and to the
    positions of its neighbours within reach.

    Args:
        size: of the window.
        causal: position t sees positions up to t only.

    Source: Beltagy et al. 2020, "Longformer: The Long-Document Transformer", 3.1, without global positions.
    """

    def __init__(self, size: int = 128, causal: bool = False) -> None:
        super().__init__()
        self.size, self.causal = size, causal
        self.back, self.ahead = (size - 1, 0) if causal else (size // 2, size // 2)

    def accepts_packed(self, q: Tensor, v: Tensor) -> bool:
        """Like `FavorAttention.accepts_packed`."""
        return True

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, packed: Packed | None = None
    ) -> Tensor:
        """Like `FavorAttention.forward`; 0 where no key within reach is real."""
        batch, length = q.shape[0], q.shape[2]
        if length == 0:
            return v
        block, back, ahead = max(_LEAST, self.size // 2), self.back, self.ahead
        if length <= block + back + ahead:  # no more keys than a block sees
            block, back, ahead = length, 0, 0
        rest = -length % block
        edges, width = (back, rest + ahead), back + block + ahead
        near = torch.arange(block, device=q.device)[:, None] + back - torch.arange(width, device=q.device)
        near = (near <= self.back) & (near >= -self.ahead)
        real = near.new_ones(batch, length) if key_mask is None else key_mask
        real = F.pad(real, edges).unfold(1, width, block).flatten(0, 1)  # (B n, W)
        seen = near & real[:, None, None, :]
        if packed is not None:
            number = packed.numbers(length)
            of_keys = F.pad(number, edges, value=-1).unfold(1, width, block).transpose(0, 1)  # (n, 1, W)
            of_queries = F.pad(number, (0, rest), value=-1).unfold(1, block, block).transpose(0, 1)  # (n, 1, C)
            seen = seen & (of_queries[..., None] == of_keys[:, :, None])
        alone = ~seen.any(-1, keepdim=True)
        k, v = _blocks(k, edges, width, block), _blocks(v, edges, width, block)
        # some of PyTorch's kernels return 0 / 0 for a row that sees nothing: it sees all, and its result is dropped
        out = _attended(_blocks(q, (0, rest), block, block), k, v, seen | alone)
        out = out.masked_fill(alone, 0).unflatten(0, (batch, -1)).transpose(1, 2)
        return out.flatten(2, 3)[:, :, :length]

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: KeysAndValues | None = None) -> tuple[Tensor, KeysAndValues]:
        """Like `FavorAttention.step`; the state holds the last size - 1 keys and values."""
        if not self.causal:
            raise ValueError("only causal attention can be computed step by step")
        k, v = KeysAndValues.joined(state, k, v)
        before = k.shape[2] - q.shape[2]
        if q.shape[2] == 1:  # it sees all keys that are kept
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = self(F.pad(q, (0, 0, before, 0)), k, v)[:, :, before:]
        first = max(0, k.shape[2] - self.back)
        return out, KeysAndValues(k[:, :, first:], v[:, :, first:])

    def extra_repr(self) -> str:
        return f"size={self.size}, causal={self.causal}"


def _attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Softmax attention (B n, H, C, e) to the keys that `seen` (B n, 1, C, W) names."""
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not (trained and q.device.type == "cpu" and q.element_size() == 2):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    # in 16 bits the backward pass of PyTorch's kernel for CPUs takes three to five times as long as that of products
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
    return torch.matmul(logits.softmax(-1).to(v.dtype), v)


def _blocks(x: Tensor, edges: tuple[int, int], width: int, step: int) -> Tensor:
    """(B, H, L, d), padded with zeros, cut into overlapping pieces every `step` positions: (B n, H, width, d)."""
    return F.pad(x, (0, 0, *edges)).unfold(2, width, step).permute(0, 2, 1, 4, 3).flatten(0, 1)
