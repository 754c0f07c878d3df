"""Floating-point operations of a model, counted from its architecture."""

from protlm.performer.config import PerformerConfig
from protlm.performer.window import Window


def flops_per_token(config: PerformerConfig, length: int) -> int:
    """Operations of one forward pass per token of a sequence; a multiplication and an addition count as two.

    Only matrix products are counted; `Kind.operations` gives those of attention. A training step takes three times as
    many (Kaplan et al. 2020, 2.1), not counting the second forward pass of activation checkpointing.

    Args:
        config: of the model.
        length: L, the number of tokens of the sequence.

    >>> config = PerformerConfig(33, 1, layers=1, heads=1, width=2, feed_forward=4, attention="opt")
    >>> flops_per_token(config, 100) == 2 * (4 * 2 * 2 + 2 * 2 * 4) + 2 * 2 * 33
    True
    """
    width, settings = config.width, config.attention_settings()
    projections = 3 if config.activation == "swiglu" else 2
    layer = 2 * (4 * width**2 + projections * width * config.feed_forward)
    layer += (config.heads - config.local_heads) * config.kind.operations(settings, length)
    if config.local_heads:
        layer += config.local_heads * Window(config.local_window).operations(settings, length)
    return config.layers * layer + 2 * width * config.vocab_size
