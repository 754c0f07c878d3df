"""Contacts by the contact head that an imported model brings along.

Legend: L residues, T tokens with both ends, H heads.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import evaluating, framed, warn_beyond_positions
from protlm.performer import Performer
from protlm.performer.baselines import ExactAttention


def check_contact_head(model: Performer) -> None:
    """Raises a UserError if the model has no contact head, or attention to which the head was not fitted."""
    config = model.config
    if not config.contact_head:
        raise UserError("method head: the model has no contact head; use jacobian", "method")
    if not config.predicts_contacts:
        what = "exact attention with local heads" if config.local_heads else f"{config.attention_label} attention"
        raise UserError(f"method head: fitted to exact attention, but the model has {what}; use jacobian", "method")


def head_contacts(model: Performer, tokens: np.ndarray) -> np.ndarray:
    """Probabilities of contacts (L, L) float32 of one protein, tokens (L,) uint8; see `ContactHead`."""
    check_contact_head(model)
    row = framed(model, tokens)
    warn_beyond_positions(model, len(row))
    device = model.embedding.weight.device
    logits = torch.zeros(len(tokens), len(tokens), device=device) + model.contact_head.bias

    def hook(layer: int) -> Callable[..., None]:
        def before(module: ExactAttention, inputs: tuple[Tensor, ...]) -> None:
            attention = module.matrix(inputs[0].float(), inputs[1].float())[0, :, 1:-1, 1:-1]
            logits.add_(model.contact_head.logits(layer, attention))

        return before

    handles = [block.attention.attention.register_forward_pre_hook(hook(n)) for n, block in enumerate(model.blocks)]  # type: ignore[union-attr]
    try:
        with evaluating(model):
            model.hidden(torch.from_numpy(row).to(device).long()[None])
    finally:
        for handle in handles:
            handle.remove()
    return logits.sigmoid().cpu().numpy()
