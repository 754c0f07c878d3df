"""Attention between amino acids, summed over many proteins, as a similarity of amino acids.

Legend: B batch, H heads, L tokens, a the residue of the query, b that of the key, in the order of `STANDARD`.

Values that are one-hot in the residue instead of the position yield the attention of each position to all residues of a
type together, in time and memory linear in L.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, encoded, windows
from protlm.inference.token_batch import TokenBatch
from protlm.interpret.attention_maps import Attend, chosen_blocks, watched
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD, STANDARD_TOKENS, TOKENS

_OTHER = len(STANDARD)
_RESIDUE = np.full(len(TOKENS), _OTHER)
_RESIDUE[STANDARD_TOKENS] = np.arange(len(STANDARD))


@dataclass(frozen=True)
class AttentionSums:
    """Attention between amino acids, summed over positions and proteins; end tokens and other letters are left out.

    Attributes:
        paid: (layers, H, 20, 20) float64, W_ab: from all positions with residue a to all with residue b.
        even: (20, 20) float64, U_ab: the same for uniform attention, equal to all keys that are visible to a position.
        counts: (20,) int64, number of residues of each type.
    """

    paid: np.ndarray
    even: np.ndarray
    counts: np.ndarray

    def enrichment(self) -> np.ndarray:
        """(20, 20) float64, symmetric: the ratio of attention to uniform attention, without main effects of residues.

        R_ab = W_ab / U_ab with W averaged over layers and heads; S_ab = (R_ab + R_ba) / 2 - m_a - m_b, with m fitted by
        least squares over a != b. Residue frequencies cancel in R, as does the co-occurrence of residues in a protein,
        since U is summed over the same positions; m removes what a residue pays to or receives from all others alike.
        BLOSUM62 has logarithms of such ratios of observed to expected pairs; here there is no logarithm, since
        attention with signed features can be negative. The diagonal includes the attention of positions to themselves.

        Raises:
            UserError: if one of the twenty amino acids is missing.
        """
        if not self.counts.all() or (off_diagonal(self.even) == 0).any():
            rare = [letter for letter, count in zip(STANDARD, self.counts, strict=True) if not count]
            never = ", ".join(rare) or "a pair of residues"
            raise UserError(f"too few proteins: {never} missing; expected all twenty amino acids")
        ratio = self.paid.mean((0, 1)) / self.even
        return without_main_effects((ratio + ratio.T) / 2)

    def head_correlation(self) -> np.ndarray:
        """(20, 20) float64: Pearson correlation, over the heads of all layers, of the attention shares of a and b.

        NaN where a share does not vary, or for fewer than three heads. Source: Vig et al. 2021, "BERTology meets
        biology", 4.1.
        """
        paid = self.paid.sum(2).reshape(-1, len(STANDARD))
        share = paid / paid.sum(1, keepdims=True)
        centred = share - share.mean(0)
        norm = np.sqrt((centred**2).sum(0))
        norm = np.where((norm > 1e-12) & (len(share) > 2), norm, np.nan)
        return centred.T @ centred / np.outer(norm, norm)


def attention_sums(
    model: Performer,
    sequences: Iterable[str],
    layers: Sequence[int] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> AttentionSums:
    """Attention between amino acids, summed over proteins; see `AttentionSums`.

    Args:
        model: in evaluation mode.
        sequences: amino acids in one-letter code.
        layers: 1 is the first block, -1 the last; None for all.
        token_budget: maximum number of tokens per batch, padding included.

    Raises:
        UserError: for a sequence that is empty or has an unknown letter, or for an unknown layer.
    """
    chosen = chosen_blocks(model, layers)
    heads, kinds = model.config.heads, len(STANDARD)
    paid = np.zeros((len(chosen), heads, kinds, kinds))
    even, counts = np.zeros((kinds, kinds)), np.zeros(kinds, dtype=np.int64)
    computer = Computer(model, token_budget)
    computer.packed = False  # a protein per row
    dtype = next(model.parameters()).dtype

    def read(batch: TokenBatch, _: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens, key_mask = batch.tokens, batch.key_mask
        residue = torch.from_numpy(_RESIDUE).to(tokens.device)[tokens]
        one_hot = torch.nn.functional.one_hot(residue, kinds + 1)[..., :kinds].to(dtype)
        values = one_hot[:, None].expand(-1, heads, -1, -1).contiguous()
        found = torch.zeros(len(chosen), heads, kinds, kinds, device=tokens.device)

        def see(layer: int, attend: Attend) -> None:
            found[chosen.index(layer)] = torch.einsum("bla,bhlc->hac", one_hot.float(), attend(values).float())

        with watched(model, chosen, see):
            model.hidden(tokens, key_mask)
        evenly = _even(one_hot.float(), key_mask, model.config.causal)
        between = torch.einsum("bla,blc->ac", one_hot.float(), evenly)
        return tuple(x.cpu().numpy() for x in (found, between, one_hot.float().sum((0, 1))))  # type: ignore[return-value]

    for window in windows(sequences, len):
        for _, (found, between, number) in computer(encoded(model, window), read):
            paid += found
            even += between
            counts += number.round().astype(np.int64)
    return AttentionSums(paid, even, counts)


def residue_attention(
    model: Performer,
    sequences: Iterable[str],
    layers: Sequence[int] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> np.ndarray:
    """Similarity (20, 20) of amino acids by attention: `AttentionSums.enrichment` of `attention_sums`.

    Args and errors as there, and a `UserError` if one of the twenty amino acids is missing.
    """
    return attention_sums(model, sequences, layers, token_budget).enrichment()


def without_main_effects(similarity: np.ndarray) -> np.ndarray:
    """S_ab - m_a - m_b of a symmetric (n, n), n > 2, with m the least-squares fit to the off-diagonal entries.

    >>> without_main_effects(np.add.outer([0.0, 1.0, 5.0, 2.0], [0.0, 1.0, 5.0, 2.0])).round(9).any()
    np.False_
    """
    n = len(similarity)
    rows = similarity.sum(1) - similarity.diagonal()
    main = (rows - rows.sum() / (2 * n - 2)) / (n - 2)
    return similarity - main[:, None] - main


def log_odds(pairs: np.ndarray) -> np.ndarray:
    """log2 P_ab / (P_a P_b), symmetric, of positive sums (20, 20) of pairs, as in BLOSUM for aligned pairs.

    For `AttentionSums.even` it is the similarity of residues that are frequent in the same proteins. By that measure
    the attention of any model agrees slightly with BLOSUM62, even with random weights.
    """
    share = pairs / pairs.sum()
    odds = np.log2(share / np.outer(share.sum(1), share.sum(0)))
    return (odds + odds.T) / 2


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The entries (n (n - 1) / 2,) above the diagonal of (n, n)."""
    return matrix[np.triu_indices(len(matrix), 1)]


def _even(values: Tensor, key_mask: Tensor, causal: bool) -> Tensor:
    """The mean (B, L, e) of the values (B, L, e) of all keys that are visible to a position."""
    keys = key_mask[..., None].to(values.dtype)
    if causal:
        return (values * keys).cumsum(1) / keys.cumsum(1).clamp(min=1)
    return ((values * keys).sum(1, keepdim=True) / keys.sum(1, keepdim=True)).expand_as(values)
