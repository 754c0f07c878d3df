"""Floating-point operations that a model needs by its arithmetic, whatever the hardware makes of them."""

import torch

from protlm.performer.config import PerformerConfig
from protlm.performer.window import Window


def flops_per_token(config: PerformerConfig, length: int) -> int:
    """Operations of one forward pass for each token of a sequence; an addition and a multiplication are two.

    Counted are the matrix products. A head of FAVOR+ takes 8 d M: features of the query and of the key, the key's share
    of the state, and the read-out, 2 d M each; one of exact attention 4 d L, half of it if causal; the others say so
    themselves (`Kind.operations`). A training step takes three times as many (Kaplan et al. 2020, 2.1); that activation
    checkpointing computes the forward pass twice does not count.

    Args:
        config: of the model.
        length: L, of the sequence.

    >>> config = PerformerConfig(33, 1, layers=1, heads=1, width=2, feed_forward=4, attention="opt")
    >>> flops_per_token(config, 100) == 2 * (4 * 2 * 2 + 2 * 2 * 4) + 2 * 2 * 33
    True
    """
    width = config.width
    layer = 2 * (4 * width**2 + 2 * width * config.feed_forward)
    where = (width // config.heads, length, config.causal)
    own = _favor(config) if config.kind is None else config.kind.operations(*where)
    layer += (config.heads - config.local_heads) * own
    if config.local_heads:
        layer += config.local_heads * Window(config.local_window).operations(*where)
    return config.layers * layer + 2 * width * config.vocab_size


def _favor(config: PerformerConfig) -> int:
    """Operations of one head for each token."""
    dim, feature_map = config.width // config.heads, config.feature_map
    assert feature_map is not None
    rows, projection = dim, 0
    if feature_map.projected:
        rows = len(feature_map.affine(torch.zeros(config.num_features, dim), torch.zeros(dim, dim))[0])
        projection = 4 * dim * rows
    features = feature_map.features(torch.empty(0, rows)).shape[-1]
    return projection + 4 * dim * features
