"""Activation checkpointing that keeps the results of attention, the costly part of a block, and recomputes the rest."""

from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from protlm.performer.operators import NAMESPACE

SELECTIVE = "selective"
"""Its name in `Performer.activation_checkpointing`."""
_EXACT = ("aten::_scaled_dot_product_", "torch_attn::_varlen_attn")
"""How the names of PyTorch's fused operators of exact attention begin."""


def keeping_attention() -> Any:
    """What `torch.utils.checkpoint.checkpoint` takes as `context_fn`."""
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    name = operation.name()
    kept = name.startswith((f"{NAMESPACE}::", *_EXACT))
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
