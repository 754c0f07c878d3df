"""Runs a model on many sequences, in batches of similar length that are halved when memory runs out."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from protlm.errors import ProtlmWarning, UserError, check_integer, counted
from protlm.inference.packing import packs
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.sequence.alphabets import PROTEIN, alphabet_of, name_of
from protlm.sequence.containers import tokens_of

Item = TypeVar("Item")
Result = TypeVar("Result")
PRECISIONS = ("float32", "bfloat16")
TOKEN_BUDGET = 16_384
"""Default for the maximum number of tokens in a batch, including padding."""
WINDOW_RESIDUES = 1 << 18
"""Number of residues in a window: consecutive sequences that are sorted by length together."""
_MOST = 4_096  # sequences in a window
_SPREAD = 0.06  # a row shorter than the longest of its batch by more than this fraction starts a new batch,
_FULL = 8  # once the batch has 1/8 of the budget: on a GPU, small batches cost more than padding


def framed(model: Performer, tokens: np.ndarray) -> np.ndarray:
    """Tokens (length,) of the model's alphabet with its start and end tokens: (length + 2,)."""
    return alphabet_of(model.config.alphabet).with_ends(tokens, model.config.start_id)


def check_of_proteins(model: Performer, what: str) -> None:
    """Raises a UserError for a model of another alphabet, whose tokens mean something else."""
    if (alphabet := alphabet_of(model.config.alphabet)) != PROTEIN:
        raise UserError(f"{what} requires a model of proteins; this one is of {alphabet.unit}s ({name_of(alphabet)})")


def encoded(model: Performer, proteins: Any) -> list[np.ndarray]:
    """Framed tokens of proteins, or sequences of the model's alphabet, in any container; see `tokens_of` for errors."""
    return [framed(model, tokens) for tokens in tokens_of(proteins, alphabet_of(model.config.alphabet)).sequences]


def windows(
    items: Iterable[Item], residues: Callable[[Item], int], most: int = WINDOW_RESIDUES
) -> Iterator[list[Item]]:
    """Runs of consecutive items to sort by length together, which end once they have `most` residues.

    They are small enough to keep their results in memory.
    """
    window: list[Item] = []
    size = 0
    for item in items:
        window.append(item)
        size += residues(item)
        if size >= most or len(window) == _MOST:
            yield window
            window, size = [], 0
    if window:
        yield window


def check_length(model: Performer, tokens: int) -> None:
    """Raises a UserError if the model's attention has a maximum length below this number of tokens, ends included."""
    longest = model.config.longest
    if longest is not None and tokens > longest:
        raise UserError(
            f"{tokens:,} tokens, including start and end: {model.config.attention_label} attention takes at most "
            f"{longest:,}; remove or shorten the sequence"
        )


def warn_beyond_positions(model: Performer, tokens: int) -> None:
    """Warns if a sequence of this many tokens, ends included, is longer than the positions that the model has learned.

    The text is the same for all sequences, so that Python shows it once.
    """
    learned = model.config.max_length
    if model.config.learned_positions and tokens > learned:
        record = alphabet_of(model.config.alphabet).record
        warnings.warn(
            f"a {record} is longer than the {learned:,} positions that this model has learned, including start and "
            "end; positions beyond are extrapolated, so that its results are less reliable",
            ProtlmWarning,
            stacklevel=3,
        )


@contextmanager
def evaluating(model: Performer) -> Iterator[None]:
    """Evaluation mode, without gradients; at the end, each module is in its earlier mode, also after an error."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def check_finite(values: np.ndarray, source: str = "") -> None:
    """Raises a UserError if a model's output contains NaN or infinity; `source`, such as "protein P69905", is named."""
    if not np.isfinite(values).all():
        raise UserError(
            f"{source}{': ' if source else ''}the model's output is not finite (NaN or infinity): training diverged "
            "or the model is damaged; use another checkpoint"
        )


class Computer:
    """Runs a function of the model on batches of rows of tokens.

    Args:
        model: evaluates, whatever its mode, where its parameters are.
        token_budget: maximum number of tokens in a batch, including padding; a longer row is computed alone. Halved,
            for all later batches, when memory runs out.
        precision: "float32", or "bfloat16" for matrix products in 16 bits (autocast).

    Attributes:
        packed: whether batches have no padding, see `packs`.
        seconds: spent computing so far, without what is done with the results.
    """

    def __init__(self, model: Performer, token_budget: int = TOKEN_BUDGET, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}", "precision")
        check_integer("token_budget", token_budget, 1)
        self.model, self.token_budget, self.precision = model, token_budget, precision
        self.device, self.packed = next(model.parameters()).device, packs(model, precision)
        self.seconds = 0.0

    def __call__(
        self, rows: Sequence[np.ndarray], function: Callable[[TokenBatch, np.ndarray], Result], skip: int = 0
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Yields, for each batch, longest rows first, its indices into `rows` and the result of the function.

        Args:
            rows: framed tokens, (length_i,) uint8 each.
            function: of a batch on the model's device and the indices (n,). Its result should be on the CPU, so that
                memory runs out inside the function or not at all.
            skip: number of batches to skip, which an earlier run over the same rows has computed.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        longest = int(lengths.max(initial=0))
        check_length(self.model, longest)
        warn_beyond_positions(self.model, longest)
        grouped = full_batches if self.packed else batches
        waiting = grouped(lengths, self.token_budget)[skip:][::-1]
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
                alphabet = alphabet_of(self.model.config.alphabet)
                length = counted(int(lengths[batch[0]]) - 2, alphabet.unit)
                raise UserError(
                    f"out of memory on {self.device} for a {alphabet.record} of {length}; remove it "
                    "or use a smaller model or another device"
                )
            self.token_budget = max(1, self.token_budget // 2)
            waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]

    def _run(
        self, rows: Sequence[np.ndarray], batch: np.ndarray, function: Callable[[TokenBatch, np.ndarray], Result]
    ) -> Result:
        started = time.perf_counter()
        tokens = TokenBatch.of([rows[i] for i in batch], self.device, self.packed, self.model.config.pad_id)
        with (
            evaluating(self.model),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            result = function(tokens, batch)
        self.seconds += time.perf_counter() - started
        return result


def batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Groups rows of similar length, longest first, to keep padding low.

    Batches need not be full: on 2^18 tokens of Swiss-Prot with a budget of 16,384, padding adds 3 %; with full batches,
    as in training (`length_buckets`), it adds 9 %.

    Args:
        lengths: (n,) integers, in tokens.
        token_budget: maximum number of tokens in a batch, including padding; a longer row gets its own batch.

    Returns:
        Arrays of indices into `lengths`; each index occurs once.

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


def full_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """As `batches`, for batches without padding, which are all full, whatever the lengths of their rows.

    >>> [batch.tolist() for batch in full_batches(np.array([50, 9, 99, 98]), 200)]
    [[2, 3], [0, 1]]
    """
    groups: list[list[int]] = []
    tokens = token_budget
    for row in np.argsort(-lengths, kind="stable").tolist():
        tokens += int(lengths[row])
        if tokens > token_budget or not groups:
            groups.append([])
            tokens = int(lengths[row])
        groups[-1].append(row)
    return [np.array(group) for group in groups]


def _out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory; its CPU allocator and cuBLAS (ALLOC_FAILED) raise plain RuntimeErrors."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "alloc" in str(error).lower()
