"""Contacts of a protein from attention, by logistic regression.

Legend: L residues, H heads.
"""

import torch
from torch import Tensor, nn


def average_product_correction(scores: Tensor) -> Tensor:
    """Removes from symmetric scores (..., L, L) what the averages of both sites explain (Dunn et al. 2008).

    >>> average_product_correction(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    tensor([[-1.,  1.],
            [ 1., -1.]])
    """
    sums = scores.sum(-1, keepdim=True)
    total = sums.sum(-2, keepdim=True)
    return scores - sums * sums.mT / torch.where(total == 0, 1, total)


class ContactHead(nn.Module):
    """The contact head of ESM-2 (Rao et al. 2021; Lin et al. 2023).

    Buffers, not parameters: it is fitted to the attention of a trained model and does not learn with it.

    Args:
        layers, heads: of the model.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(layers, heads))
        self.register_buffer("bias", torch.zeros(1))

    def logits(self, layer: int, attention: Tensor) -> Tensor:
        """What one layer, from 0, adds to the logits: attention (H, L, L) among residues -> (L, L)."""
        features = average_product_correction(attention + attention.mT)
        return torch.tensordot(self.weight[layer], features, dims=1)
