"""Feature maps with parameters of their own for each head, which training can fit to any attention.

Legend: B batch, H heads, L length, d head width, R rows of a weight, M features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.projection import draw_directions

LEARNED_MAPS = ("positive", "hedgehog", "relu")
SIDES = ("queries", "keys")
"""Prefixes of the names of parameters."""
_LEAST = 1e-3  # added to ReLU features, as in `Generalised`
_GAIN = -2.0  # logarithm of the weight at which Hedgehog features start


class LearnedFeatures(nn.Module):
    """Positive features phi of queries and psi of keys; phi(q).psi(k) is the weight of k in the attention of q.

    With x = q or k times d^(-1/4), and parameters W (M or M / 2, d), b and c for each head, for queries and keys:

        "positive"   exp(W x + b + c |x|^2), M features. At first, W are random directions and c = -1/2: the estimate of
                     softmax of FAVOR+ (Choromanski et al. 2021, Lemma 1). Its variants OPRF and SDERF are of this form.
        "hedgehog"   softmax of (W x, -W x) along the features (Zhang et al. 2024, "The Hedgehog & the Porcupine"),
                     times exp(b), one number
        "relu"       relu(W x + b) + 0.001, M features

    Args:
        map: one of LEARNED_MAPS.
        heads, head_dim, num_features: H, d and M; M is even for "hedgehog".
        key: of the random directions that W starts from; head h has its own.
    """

    queries_weight: Tensor
    keys_bias: Tensor

    def __init__(self, map: str, heads: int, head_dim: int, num_features: int, key: tuple[int, int]) -> None:  # noqa: A002
        super().__init__()
        if map not in LEARNED_MAPS:
            raise ValueError(f"map {map!r}: expected one of {', '.join(LEARNED_MAPS)}")
        if map == "hedgehog" and num_features % 2:
            raise ValueError(f"num_features {num_features}: expected an even number for the map hedgehog")
        self.map, self.count, self._key = map, num_features, key
        rows = num_features // 2 if map == "hedgehog" else num_features
        for name in SIDES:
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(heads, rows, head_dim)))
            self.register_parameter(
                f"{name}_bias", nn.Parameter(torch.empty(heads, 1, 1 if map == "hedgehog" else rows))
            )
            if map == "positive":
                self.register_parameter(f"{name}_curvature", nn.Parameter(torch.empty(heads, 1, 1)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Starts from random directions."""
        heads, rows, width = self.queries_weight.shape
        drawn = [draw_directions("orthogonal", "chi", rows, width, (*self._key, 0, head)) for head in range(heads)]
        for name in SIDES:
            getattr(self, f"{name}_weight").copy_(torch.stack(drawn))
            nn.init.zeros_(getattr(self, f"{name}_bias"))
            if self.map == "positive":
                nn.init.constant_(getattr(self, f"{name}_curvature"), -0.5)
        if self.map != "relu":
            nn.init.constant_(self.keys_bias, _GAIN if self.map == "hedgehog" else -math.log(rows))

    def queries(self, q: Tensor, heads: slice = slice(None)) -> Tensor:
        """Logarithms of phi (B, H', ..., M) from (B, H', ..., d), for some of the heads."""
        return self._logarithms(q, "queries", heads)

    def keys(self, k: Tensor, heads: slice = slice(None)) -> Tensor:
        """Logarithms of psi, like `queries`."""
        return self._logarithms(k, "keys", heads)

    def _logarithms(self, x: Tensor, name: str, heads: slice) -> Tensor:
        def own(kind: str) -> Tensor:
            parameter = getattr(self, f"{name}_{kind}")[heads].to(x)
            return parameter.view(len(parameter), *[1] * (x.dim() - 4), *parameter.shape[1:])

        x = x * x.shape[-1] ** -0.25
        if self.map == "positive":  # one product: c and b are weights of |x|^2 and of 1
            x = torch.cat((x, x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])), -1)
            weight = own("weight")
            curvature = own("curvature").expand(*weight.shape[:-1], 1)
            return x @ torch.cat((weight, curvature, own("bias").mT), -1).mT
        p = x @ own("weight").mT
        if self.map == "hedgehog":
            return torch.cat((p, -p), -1).log_softmax(-1) + own("bias")
        return (F.relu(p + own("bias")) + _LEAST).log()
