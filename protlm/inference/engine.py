"""A model over many sequences: batches of similar length, halved when memory runs out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from protlm.batching.batches import pad
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, encode, with_ends

Item = TypeVar("Item")
Result = TypeVar("Result")
PRECISIONS = ("float32", "bfloat16")
TOKEN_BUDGET = 16_384
"""Tokens computed at once, unless another number is asked for."""
WINDOW = 1 << 18
"""Residues of sequences that are sorted by length together."""
_MOST = 4_096  # sequences
_SPREAD = 0.06  # a row shorter than the longest of its batch by more than this share begins a new batch,
_FULL = 8  # if the batch has this part of the budget already: small ones cost a device more than padding does


def framed(model: Performer, tokens: np.ndarray) -> np.ndarray:
    """A protein's tokens (length,) uint8 between the ends that the model was trained with: (length + 2,)."""
    return with_ends(tokens, model.config.start_id)


def encoded(model: Performer, sequences: Sequence[str]) -> list[np.ndarray]:
    """The framed tokens of sequences in one-letter code; small letters count as capital ones, J as X.

    Raises:
        UserError: for a sequence that is empty or has a letter without a token, with its number.
    """
    rows = []
    for number, sequence in enumerate(sequences, start=1):
        if not isinstance(sequence, str):
            raise UserError(f"sequence {number}: expected a text, got {type(sequence).__name__}")
        if not sequence:
            raise UserError(f"sequence {number} is empty; expected amino acids in one-letter code")
        try:
            letters = sequence.upper().replace("J", "X") if sequence.isascii() else sequence
            rows.append(framed(model, encode(letters)))
        except ValueError as error:
            raise UserError(f"sequence {number}: {error}") from error
    return rows


def windows(items: Iterable[Item], residues: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Runs of consecutive items, to be sorted by length together; few enough to hold what is made of them in memory."""
    window: list[Item] = []
    size = 0
    for item in items:
        window.append(item)
        size += residues(item)
        if size >= WINDOW or len(window) == _MOST:
            yield window
            window, size = [], 0
    if window:
        yield window


def check_length(model: Performer, tokens: int) -> None:
    """Raises a UserError if the model's attention does not take a sequence of so many tokens, ends included."""
    longest = model.config.longest
    if longest is not None and tokens > longest:
        raise UserError(
            f"attention {model.config.attention_name} of this model takes {longest:,} tokens with both ends, but there "
            f"is one of {tokens:,}; leave it out or cut it"
        )


def check_finite(values: np.ndarray, source: str = "") -> None:
    """Raises a UserError if a model's output contains NaN or infinity.

    Args:
        values: floating-point array of any shape.
        source: what the values belong to, such as "protein P69905"; the message starts with it.
    """
    if not np.isfinite(values).all():
        raise UserError(
            f"{source}{': ' if source else ''}the model's output is not finite (NaN or infinity): training diverged "
            "or the model is damaged; use another checkpoint"
        )


class Computer:
    """Runs a function of the model on batches of rows of tokens.

    Args:
        model: in evaluation mode; computes where its parameters are.
        token_budget: most tokens computed at once, padding included; a longer row is computed alone. Lowered for good
            when memory runs out.
        precision: "float32" is that of the weights, "bfloat16" multiplies in 16 bits (autocast).
    """

    def __init__(self, model: Performer, token_budget: int = TOKEN_BUDGET, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        self.model, self.token_budget, self.precision = model, token_budget, precision
        self.device = next(model.parameters()).device

    def __call__(
        self, rows: Sequence[np.ndarray], function: Callable[[Tensor, Tensor, np.ndarray], Result], skip: int = 0
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """For each batch, longest rows first: indices into `rows`, and what the function makes of it.

        Args:
            rows: framed tokens, (length_i,) uint8 each.
            function: of tokens (B, L) int64, key mask (B, L) bool, both on the model's device, and the indices (B,).
                What it returns should be on the CPU already, so that memory that runs out does so inside of it.
            skip: how many batches to leave out, which an earlier run over the same rows has done.

        Raises:
            UserError: if the memory is too small for a single row; for one that the model does not take.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        check_length(self.model, int(lengths.max(initial=0)))
        waiting = batches(lengths, self.token_budget)[skip:][::-1]
        while waiting:
            batch = waiting.pop()
            try:
                result = self._run(rows, batch, function)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                result = None
            if result is not None:
                yield batch, result
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(batch) == 1:
                raise UserError(
                    f"memory of {self.device} is too small for a protein of {lengths[batch[0]] - 2:,} residues; leave "
                    "it out, or use a smaller model or another device"
                )
            self.token_budget = max(1, self.token_budget // 2)
            waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]

    def _run(
        self, rows: Sequence[np.ndarray], batch: np.ndarray, function: Callable[[Tensor, Tensor, np.ndarray], Result]
    ) -> Result:
        tokens = torch.from_numpy(pad([rows[i] for i in batch], PAD)).to(self.device).long()
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            return function(tokens, tokens != PAD, batch)


def batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Groups rows of similar length, longest first, so that little is padding.

    Unlike training's `length_buckets`, a batch need not be full: on 2^18 tokens of Swiss-Prot, budget 16,384, padding
    adds 3 % instead of 9 %.

    Args:
        lengths: (n,) integers, in tokens.
        token_budget: most tokens in a batch, padding included; a longer row gets a batch of its own.

    Returns:
        Indices into `lengths`, each exactly once.

    >>> [batch.tolist() for batch in batches(np.array([50, 9, 99, 98]), 400)]
    [[2, 3], [0], [1]]
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    groups, start = [], 0
    while start < len(order):
        longest = int(ordered[start])
        most = max(1, token_budget // longest)
        least = max(1, -(-token_budget // (_FULL * longest)))
        similar = int(np.searchsorted(-ordered, -(1 - _SPREAD) * longest, side="right"))
        stop = min(start + most, max(similar, start + least))
        groups.append(order[start:stop])
        start = stop
    return groups


def _out_of_memory(error: Exception) -> bool:
    """Whether torch could not get memory; the CPU's allocator and cuBLAS (ALLOC_FAILED) say so in a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "alloc" in str(error).lower()
