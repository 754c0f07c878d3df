"""The cache of `generate`: the state of each row of a batch after the tokens so far.

Legend: B batch, L length, D width, V vocabulary, n rows of a group.

The state of linear attention has a constant size; exact attention keeps all keys and values, a window the last ones. A
step of the model takes rows with equally many tokens, so that rows are grouped by that number: prompts of one length
are one group, whatever their padding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from protlm.exchange.remote_code.padding import LeftPadding
from protlm.performer.model import Performer
from protlm.performer.recurrent import PerformerState


class Group(NamedTuple):
    """Rows (n,) int64 of the batch with equally many tokens, and their state, None before the first one."""

    rows: Tensor
    state: PerformerState | None


@contextmanager
def embedded_as(model: Performer, embeddings: Tensor | None) -> Iterator[None]:
    """A context in which the model takes these embeddings (B, L, D) of the tokens, unless None, for its own."""
    handle = None if embeddings is None else model.embedding.register_forward_hook(lambda *_: embeddings)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


class StateCache:
    """The states of a causal model, `past_key_values` in transformers' words.

    Args:
        rows: B.
        device: of the model.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, rows: int, device: torch.device) -> None:
        self.groups = [Group(torch.arange(rows, device=device), None)]
        self._length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, with padding."""
        return self._length

    @staticmethod
    def can_start(key_mask: Tensor) -> bool:
        """Whether tokens (B, L) with this mask, bool, true where a token is real, have padding at the left only."""
        return bool(key_mask[:, -1].all() and (key_mask.long().diff(dim=1) >= 0).all())

    def step(self, model: Performer, tokens: Tensor, key_mask: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of the next tokens; the states are then those after them.

        Args:
            model: causal, in evaluation mode.
            tokens: (B, L) int64.
            key_mask: (B, L) bool, for which `can_start` is true; all true except at the first call.
            embeddings: (B, L, D), instead of those of the tokens; None for theirs.
        """
        if not self._length:
            sizes = key_mask.sum(1)
            self.groups = [Group((sizes == size).nonzero().flatten(), None) for size in sizes.unique()]
        elif not bool(key_mask.all()):
            raise ValueError("attention_mask: tokens after those in the cache cannot be padding")
        padding, groups = LeftPadding(key_mask), []
        tokens = padding.removed(tokens)
        embeddings = None if embeddings is None else padding.removed(embeddings)
        logits = model.embedding.weight.new_zeros(*tokens.shape, model.config.vocab_size)
        for rows, state in self.groups:
            length = tokens.shape[1] if state else int(key_mask[rows[0]].sum())
            with embedded_as(model, None if embeddings is None else embeddings[rows, :length]):
                part, state = model.step(tokens[rows, :length], state)
            logits[rows, :length] = part.to(logits.dtype)
            groups.append(Group(rows, state))
        self.groups, self._length = groups, self._length + tokens.shape[1]
        return padding.restored(logits)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replaces the rows by others of the batch, (B,) int64, each any number of times."""
        groups = []
        for rows, state in self.groups:
            chosen = (beam_idx[:, None] == rows).nonzero()  # (n, 2): new rows, and numbers within the group
            if len(chosen):
                groups.append(Group(chosen[:, 0], None if state is None else state.select(chosen[:, 1])))
        self.groups = groups
