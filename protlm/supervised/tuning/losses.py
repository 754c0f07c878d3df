"""Losses of the kinds of targets, of the rows that have a label.

Legend: r rows, k outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from protlm.supervised.tuning.batches import MISSING


def loss_of(kind: str, logits: Tensor, labels: Tensor, weight: Tensor | None = None, spread: float = 1.0) -> Tensor:
    """The mean loss; 0, with gradients of 0, without any label.

    Args:
        kind: see `Target`. Cross-entropy of classes in nats, squared error of values, or the logistic loss of pairs
            whose order is wrong for a ranking (Burges et al. 2005).
        logits: (r, k).
        labels: (r,) or (r, k), as in `LabelledBatch`.
        weight: (k,) of each class, or of the positive examples of each label.
        spread: standard deviation of values, in whose units the error is taken.
    """
    known = labels != MISSING if kind == "classification" else ~labels.isnan()
    known = known.all(1) if known.ndim > 1 else known
    logits, labels = logits[known], labels[known]
    nothing = logits.sum() * 0
    if kind == "classification":
        return F.cross_entropy(logits, labels, weight) if len(labels) else nothing
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight) if len(labels) else nothing
    values = logits[:, 0]
    if kind == "ranking":
        above = labels[:, None] > labels[None]
        pairs = (values[:, None] - values[None])[above]
        return F.softplus(-pairs / spread).mean() if len(pairs) else nothing
    return ((values - labels) ** 2).mean() / spread**2 if len(labels) else nothing


def class_weights(kind: str, y: Tensor, outputs: int) -> Tensor | None:
    """(k,) weights that make classes, or the two sides of each label, count equally; None for values.

    >>> class_weights("classification", torch.tensor([0, 0, 0, 1]), 2).tolist()
    [0.6666666865348816, 2.0]
    """
    if kind == "classification":
        y = y[y != MISSING]
        counts = torch.bincount(y, minlength=outputs).clamp(min=1).float()
        return len(y) / (outputs * counts)
    if kind == "multilabel":
        positive = y.float().sum(0)
        return ((len(y) - positive) / positive.clamp(min=1)).clamp(max=100)
    return None
