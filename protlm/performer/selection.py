"""From what a configuration says of attention to the module."""

from torch import nn

from protlm.performer.attention import FavorAttention
from protlm.performer.config import PerformerConfig
from protlm.performer.kind import Place
from protlm.performer.mixed import MixedAttention
from protlm.performer.window import WindowAttention


def attention_of(config: PerformerConfig, layer: int) -> nn.Module:
    """Attention of one layer; any parameters of its own are drawn from torch's global generator."""
    if not config.local_heads:
        return _own(config, layer)
    return MixedAttention(WindowAttention(config.local_window, config.causal), _own(config, layer), config.local_heads)


def _own(config: PerformerConfig, layer: int) -> nn.Module:
    head_dim = config.width // config.heads
    if config.kind is not None:
        return config.kind.module(Place(head_dim, config.max_length, config.causal, config.feature_seed, layer))
    assert config.feature_map is not None
    return FavorAttention(
        head_dim,
        config.num_features,
        kernel=config.feature_map,
        directions=config.directions,
        causal=config.causal,
        seed=config.feature_seed,
        layer=layer,
        norms=config.norms,
    )
