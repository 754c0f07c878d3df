"""How much attention amino acids pay to each other, over many proteins, as a similarity of amino acids.

Legend: B batch, H heads, L tokens, a the residue of the query, b that of the key, in the order of `STANDARD`.

Values that are one-hot in the residue, not in the position, give the attention that each position pays to all residues
of a kind together, in time and memory linear in L.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, encoded, windows
from protlm.interpret.attention_maps import Attend, chosen_blocks, watched
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD, STANDARD_TOKENS, TOKENS

_OTHER = len(STANDARD)
_RESIDUE = np.full(len(TOKENS), _OTHER)
_RESIDUE[STANDARD_TOKENS] = np.arange(len(STANDARD))


@dataclass(frozen=True)
class AttentionSums:
    """Attention between amino acids, summed over positions and proteins; ends, X and other letters are left out.

    Attributes:
        paid: (layers, H, 20, 20) float64, W_ab: from all positions with residue a to all with residue b.
        even: (20, 20) float64, U_ab: the same, had every position attended to all keys that it sees alike.
        counts: (20,) int64, residues of each kind.
    """

    paid: np.ndarray
    even: np.ndarray
    counts: np.ndarray

    def enrichment(self) -> np.ndarray:
        """(20, 20) float64, symmetric: attention over what even attention gives, less what single residues account for.

        R_ab = W_ab / U_ab with W summed over layers and heads and divided by their number; S_ab = (R_ab + R_ba) / 2 -
        m_a - m_b, with m by least squares over a != b. Frequencies cancel in R, and so do proteins that are rich in
        some residues together, since U is summed over the same positions; m takes away what a residue pays to or gets
        from all others alike. Ratios of observed to expected pairs are also what BLOSUM62 has the logarithms of; here
        there is none, since attention by signed features can be negative. The diagonal holds attention of positions to
        themselves as well.

        Raises:
            UserError: if one of the twenty is missing.
        """
        if not self.counts.all() or (off_diagonal(self.even) == 0).any():
            rare = [letter for letter, count in zip(STANDARD, self.counts, strict=True) if not count]
            never = ", ".join(rare) or "a pair of residues"
            raise UserError(f"too few proteins: {never} never came; expected all twenty amino acids")
        ratio = self.paid.mean((0, 1)) / self.even
        return without_main_effects((ratio + ratio.T) / 2)

    def head_correlation(self) -> np.ndarray:
        """(20, 20) float64: Pearson correlation, over the heads of all layers, of the shares of attention that go to a
        and to b (Vig et al. 2021, "BERTology meets biology", 4.1); NaN where a share never varies, or for fewer than
        three heads.
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
    """Sums of attention between amino acids over proteins; see `AttentionSums`.

    Args:
        model: in evaluation mode.
        sequences: amino acids in one-letter code.
        layers: 1 is the first block, -1 the last; None for all.
        token_budget: most tokens computed at once, padding included.

    Raises:
        UserError: for a sequence that is empty or has a letter without a token, or an unknown layer.
    """
    chosen = chosen_blocks(model, layers)
    heads, kinds = model.config.heads, len(STANDARD)
    paid = np.zeros((len(chosen), heads, kinds, kinds))
    even, counts = np.zeros((kinds, kinds)), np.zeros(kinds, dtype=np.int64)
    computer = Computer(model, token_budget)
    dtype = next(model.parameters()).dtype

    def read(tokens: Tensor, key_mask: Tensor, _: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    """Similarity (20, 20) of amino acids by attention, `AttentionSums.enrichment`, in the order of `STANDARD`.

    Args and errors: as `attention_sums`, and a UserError if one of the twenty is missing.
    """
    return attention_sums(model, sequences, layers, token_budget).enrichment()


def without_main_effects(similarity: np.ndarray) -> np.ndarray:
    """S_ab - m_a - m_b of a symmetric (n, n), n > 2, with m the least-squares fit to the entries off the diagonal.

    >>> without_main_effects(np.add.outer([0.0, 1.0, 5.0, 2.0], [0.0, 1.0, 5.0, 2.0])).round(9).any()
    np.False_
    """
    n = len(similarity)
    rows = similarity.sum(1) - similarity.diagonal()
    main = (rows - rows.sum() / (2 * n - 2)) / (n - 2)
    return similarity - main[:, None] - main


def log_odds(pairs: np.ndarray) -> np.ndarray:
    """log2 P_ab / (P_a P_b), symmetric, of the sums (20, 20) of pairs, all positive: what BLOSUM is for aligned pairs.

    Of `AttentionSums.even` it is the similarity that comes of residues that are frequent in the same proteins: by that
    measure any model's attention agrees with BLOSUM62 a little, also with random weights.
    """
    share = pairs / pairs.sum()
    odds = np.log2(share / np.outer(share.sum(1), share.sum(0)))
    return (odds + odds.T) / 2


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The entries (n (n - 1) / 2,) above the diagonal of (n, n)."""
    return matrix[np.triu_indices(len(matrix), 1)]


def _even(values: Tensor, key_mask: Tensor, causal: bool) -> Tensor:
    """The mean (B, L, e) of the values (B, L, e) of all keys that a position sees."""
    keys = key_mask[..., None].to(values.dtype)
    if causal:
        return (values * keys).cumsum(1) / keys.cumsum(1).clamp(min=1)
    return ((values * keys).sum(1, keepdim=True) / keys.sum(1, keepdim=True)).expand_as(values)
