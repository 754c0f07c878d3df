"""FAVOR+ as a kind of attention."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from protlm.performer.attention import FavorAttention
from protlm.performer.features import FeatureMap
from protlm.performer.kind import AttentionSettings, Kind


@dataclass(frozen=True)
class Favor(Kind):
    """FAVOR+ with one feature map.

    Args:
        feature_map: the map, which determines the kernel.
    """

    uses_random_features: ClassVar[bool] = True
    feature_map: FeatureMap

    @property
    def redraw_every(self) -> int:
        """Only estimates of softmax are redrawn: for other kernels new directions mean another function."""
        return 1000 if self.feature_map.redrawn else 0

    def module(self, settings: AttentionSettings) -> nn.Module:
        s = settings
        drawn = (s.head_dim, s.num_features, self.feature_map, s.directions)
        return FavorAttention(*drawn, s.causal, s.seed, s.layer, s.norms)

    def operations(self, settings: AttentionSettings, length: int) -> int:
        """2 d M each for features of queries and of keys, for the sums over keys, and for the product with queries."""
        dim, rows, projection = settings.head_dim, settings.head_dim, 0
        if self.feature_map.projected:
            directions = torch.zeros(settings.num_features, dim)
            rows = len(self.feature_map.affine(directions, torch.zeros(dim, dim))[0])
            projection = 4 * dim * rows
        return projection + 4 * dim * self.feature_map.features(torch.empty(0, rows)).shape[-1]
