"""The same attention, slow and obvious, in float64: what the fast paths are tested against.

Legend: B batch, H heads, L length, M features, d head width, e value width.
"""

import torch
from torch import Tensor

from protlm.performer.features import FeatureMap


def attention_matrix(
    q: Tensor, k: Tensor, directions: Tensor, kernel: FeatureMap, key_mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The normalised (B, H, L, L) float64 matrix of FAVOR+; all arguments as in `favor_attention`."""
    q, k, directions = q.double(), k.double(), directions.double()
    scale = q.shape[-1] ** -0.25
    queries, keys = kernel.queries(q * scale, directions), kernel.keys(k * scale, directions)
    if kernel.log:
        logits = torch.logsumexp(queries[..., :, None, :] + keys[..., None, :, :], -1)
    else:
        logits = (queries @ keys.transpose(-2, -1)).log()
    return _weights(logits, key_mask, causal)


def favor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor,
    kernel: FeatureMap,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """FAVOR+ as an explicit matrix: (B, H, L, e) float64.

    Args:
        q, k, v: (B, H, L, d), (B, H, L, d), (B, H, L, e).
        directions: (M, d).
        kernel: the feature map.
        key_mask: (B, L) bool, true where a key is real.
        causal: position t sees positions up to t only.
    """
    return attention_matrix(q, k, directions, kernel, key_mask, causal) @ v.double()


def exact_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention as an explicit matrix: (B, H, L, e) float64; arguments as in `favor_attention`."""
    logits = q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5
    return _weights(logits, key_mask, causal) @ v.double()


def _weights(logits: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """Softmax over the keys that may be seen."""
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    if causal:
        length = logits.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -torch.inf)
    return logits.softmax(-1)
