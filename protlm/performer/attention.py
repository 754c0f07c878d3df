"""FAVOR+ as one module, with the interface that every kind of attention here has: (q, k, v, key_mask) -> values.

Legend: B batch, H heads, L length, d head width, e value width, M features.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from protlm.performer.features import FEATURE_MAPS
from protlm.performer.linear_attention import linear_attention
from protlm.performer.projection import draw_directions


class FavorAttention(nn.Module):
    """Attention in time and memory linear in L, by positive orthogonal random features.

    One set of directions is shared by the heads; it is a buffer, so it is saved with the model.

    Args:
        head_dim: d, the width of queries and keys.
        num_features: M.
        kernel: "softmax" approximates softmax(q.k / sqrt(d)); "relu" is the generalised kernel of the same paper.
        directions: "orthogonal" or "iid".
        causal: position t sees positions up to t only.
        seed, layer: with the draw number, all that the directions depend on.

    Source: Choromanski et al. 2021, "Rethinking Attention with Performers".

    >>> attention = FavorAttention(head_dim=8, num_features=16)
    >>> q = k = v = torch.ones(1, 2, 5, 8)
    >>> attention(q, k, v).shape
    torch.Size([1, 2, 5, 8])
    """

    directions: Tensor
    draw_number: Tensor

    def __init__(
        self,
        head_dim: int,
        num_features: int = 256,
        kernel: str = "softmax",
        directions: str = "orthogonal",
        causal: bool = False,
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        if kernel not in FEATURE_MAPS:
            raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(FEATURE_MAPS)}")
        self.kernel, self.causal = kernel, causal
        self._drawn = (directions, num_features, head_dim, seed, layer)
        self.register_buffer("directions", torch.empty(num_features, head_dim))
        self.register_buffer("draw_number", torch.tensor(0))
        self.redraw(0)

    @torch.no_grad()
    def redraw(self, draw_number: int) -> None:
        """Replaces the directions by those of (seed, layer, draw number), the same on every rank."""
        kind, num_features, head_dim, seed, layer = self._drawn
        self.directions.copy_(draw_directions(kind, num_features, head_dim, (seed, layer, draw_number)))
        self.draw_number.fill_(draw_number)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attention (B, H, L, e) in the dtype of v.

        Args:
            q, k: (B, H, L, d), v: (B, H, L, e); any float dtype. Sums are float32 (float64 for float64), also under
                autocast.
            key_mask: (B, L) bool, true where a key is real; None if all are.
        """
        width = self.directions.shape[1]
        if q.shape[-1] != width or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
            raise ValueError(
                f"expected q and k of one shape (B, H, L, {width}) and v (B, H, L, e), got {tuple(q.shape)}, "
                f"{tuple(k.shape)}, {tuple(v.shape)}"
            )
        kernel = FEATURE_MAPS[self.kernel]
        dtype = torch.promote_types(v.dtype, torch.float32)
        device = q.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            directions, scale = self.directions.to(dtype), width**-0.25
            queries = kernel.queries(q.to(dtype) * scale, directions)
            keys = kernel.keys(k.to(dtype) * scale, directions)
            if key_mask is not None:
                padding = ~key_mask[:, None, :, None]
                keys = keys.masked_fill(padding, -torch.inf if kernel.log else 0.0)
            result = linear_attention(queries, keys, v.to(dtype), kernel.log, self.causal)
        return result.to(v.dtype)

    def extra_repr(self) -> str:
        kind, num_features, head_dim, seed, layer = self._drawn
        return (
            f"head_dim={head_dim}, num_features={num_features}, kernel={self.kernel!r}, directions={kind!r}, "
            f"causal={self.causal}, seed={seed}, layer={layer}"
        )
