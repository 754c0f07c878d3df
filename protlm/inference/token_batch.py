"""A batch of sequences for a model: padded rows, or one row without padding.

Legend: n sequences, T positions of the batch in all; (B, L) is (n, longest) with padding and (1, T) without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from protlm.batching.batches import pad
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.model import NO_HEAD
from protlm.performer.segments import Packed
from protlm.sequence.alphabet import PAD


def check_head(model: Performer) -> None:
    """Raises a UserError for a model without a language-model head."""
    if model.head is None:
        raise UserError(NO_HEAD)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of n sequences on the device of a model.

    Args:
        tokens: (B, L) int64.
        key_mask: (B, L) bool, false at padding.
        lengths: (n,) int64 of the sequences, on the host.
        segments: the boundaries of the sequences of a batch without padding; None for one with padding.
    """

    tokens: Tensor
    key_mask: Tensor
    lengths: np.ndarray
    segments: Packed | None = None

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], device: torch.device, packed: bool, padding: int = PAD) -> "TokenBatch":
        """A batch of rows of tokens (length_i,) uint8, or of another integer type."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        joined = np.concatenate(rows)[None] if packed else pad(list(rows), padding)
        tokens = torch.from_numpy(joined).to(device).long()
        segments = None
        if packed:
            edges = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
            segments = Packed(edges.to(device), int(lengths.max()))
        return cls(tokens, tokens != padding, lengths, segments)

    @cached_property
    def starts(self) -> np.ndarray:
        """(n,) where the sequences begin among the T positions."""
        if self.segments is None:
            return np.arange(len(self.lengths)) * self.tokens.shape[1]
        return np.concatenate(([0], np.cumsum(self.lengths)[:-1]))

    @cached_property
    def inner(self) -> Tensor:
        """(T,) bool on the host: all but padding and the first and last token of each sequence."""
        steps = np.zeros(self.tokens.numel() + 1, dtype=np.int8)
        steps[self.starts + 1] += 1
        steps[self.starts + self.lengths - 1] -= 1
        return torch.from_numpy(steps[:-1].cumsum().astype(bool))

    def positions(self, sequences: np.ndarray, columns: np.ndarray) -> Tensor:
        """Indices into the T positions, from the numbers of sequences and positions within these, both (k,)."""
        return torch.from_numpy(self.starts[sequences] + columns).to(self.tokens.device)

    def replaced(self, positions: Tensor, token: int) -> "TokenBatch":
        """The same batch with another token at these of the T positions."""
        tokens = self.tokens.flatten().clone()
        tokens[positions] = token
        return TokenBatch(tokens.view_as(self.tokens), self.key_mask, self.lengths, self.segments)

    def hidden(self, model: Performer) -> Tensor:
        """`Performer.hidden` of the batch, (T, D)."""
        return model.hidden(self.tokens, self.key_mask, self.segments).flatten(0, 1)

    def logits(self, model: Performer, positions: Tensor | None = None) -> Tensor:
        """Logits (T, V), or those at some of the T positions; a UserError for a model without a head for them."""
        check_head(model)
        hidden = self.hidden(model)
        return model.logits(hidden if positions is None else hidden[positions])

    def split(self, values: np.ndarray, cut: int = 0) -> list[np.ndarray]:
        """The part (length_i, ...) of each sequence of values (T, ...), without `cut` positions at both ends."""
        ends = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [values[start + cut : start + length - cut] for start, length in ends]
