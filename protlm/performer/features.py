"""Feature maps phi with phi(q).phi(k) ~ kernel(q, k), as log-features where the kernel is an exponential.

Legend: B batch, H heads, L length, d head width, M features. Inputs x are (B, H, L, d), directions (M, d), results
(B, H, L, M).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureMap:
    """A map of queries and one of keys.

    Args:
        queries, keys: functions of (x, directions).
        log: whether they return logarithms of positive features.
    """

    queries: Callable[[Tensor, Tensor], Tensor]
    keys: Callable[[Tensor, Tensor], Tensor]
    log: bool


def log_positive_query(x: Tensor, directions: Tensor) -> Tensor:
    """w.x, the log-feature of a query but for its own |x|^2 / 2, which cancels when attention is normalised."""
    return x @ directions.T


def log_positive(x: Tensor, directions: Tensor) -> Tensor:
    """w.x - |x|^2 / 2: positive features of the softmax kernel exp(x.y); Choromanski et al. 2021, Lemma 1."""
    return x @ directions.T - x.square().sum(-1, keepdim=True) / 2


def relu(x: Tensor, directions: Tensor) -> Tensor:
    """max(w.x, 0) + 0.001: the generalised kernel that did best on proteins; Choromanski et al. 2021, 2.2 and D.4."""
    return (x @ directions.T).relu() + 1e-3


FEATURE_MAPS = {
    "softmax": FeatureMap(log_positive_query, log_positive, log=True),
    "relu": FeatureMap(relu, relu, log=False),
}
