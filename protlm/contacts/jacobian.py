"""Contacts by the categorical Jacobian: how each substitution changes the predictions at all other positions.

    J_iajb = logit_b at j of (x with residue i replaced by a)  -  logit_b at j of x

J is centred over each of its four axes and made symmetric, (J_iajb + J_jbia) / 2; the score of i and j is the Frobenius
norm of its 20 x 20 values, after an average product correction (Zhang et al. 2024, "Protein language models learn
evolutionary statistics of interacting sequence motifs").

Legend: L residues of a protein x, i and j its positions; amino acids a and b in the order of `STANDARD`.
"""

import numpy as np
import torch
from torch import Tensor

from protlm.inference.engine import Computer, framed
from protlm.inference.probabilities import check_bidirectional
from protlm.inference.token_batch import TokenBatch
from protlm.performer.contact_head import average_product_correction
from protlm.progress import Advance
from protlm.sequence.alphabet import STANDARD_TOKENS

WHOLE = 800
"""Residues of the longest protein whose whole J is held in memory, 1,600 L^2 bytes. For longer ones, J is reduced to
norms block by block: it is not centred over i, and the norms are made symmetric instead of J."""
_TOGETHER = 32  # positions in a block
_A = len(STANDARD_TOKENS)


def jacobian_contacts(computer: Computer, tokens: np.ndarray, report: Advance | None = None) -> np.ndarray:
    """Scores (L, L) float32 of one protein, 0 on the diagonal; about 20 L passes of a bidirectional model.

    Args:
        computer: runs the model.
        tokens: (L,) uint8.
        report: called with the number of passes of each batch.

    Raises:
        UserError: for a causal model.
    """
    check_bidirectional(computer.model, "the categorical Jacobian")
    length = len(tokens)
    whole = torch.empty(length, _A, length, _A) if length <= WHOLE else None
    norms = torch.empty(length, length)
    for start in range(0, length, _TOGETHER):
        part = slice(start, min(start + _TOGETHER, length))
        change = _changes(computer, tokens, part, report)
        if whole is None:
            norms[part] = _norms(_centred(change, (1, 2, 3)))
        else:
            whole[part] = change
    if whole is None:
        norms = (norms + norms.T) / 2
    else:
        _centred(whole, (0, 1, 2, 3))
        for start in range(0, length, _TOGETHER):
            part = slice(start, start + _TOGETHER)
            norms[part] = _norms((whole[part] + whole[:, :, part].permute(2, 3, 0, 1)) / 2)
    return corrected(norms)


def jacobian_passes(tokens: np.ndarray) -> int:
    """Number of passes of the model for a protein: of each substitution, and of the protein once per block."""
    known = np.isin(tokens, STANDARD_TOKENS)
    return int(_A * len(tokens) - known.sum()) + -(-len(tokens) // _TOGETHER)


def corrected(norms: Tensor) -> np.ndarray:
    """Norms (L, L) after an average product correction without their diagonal, which becomes 0."""
    scores = average_product_correction(norms.clone().fill_diagonal_(0))
    return scores.fill_diagonal_(0).numpy()


def _changes(computer: Computer, tokens: np.ndarray, part: slice, report: Advance | None) -> Tensor:
    """J_iajb (n, 20, L, 20) of some positions i; the residue itself changes nothing and is not computed."""
    model, length = computer.model, len(tokens)

    def read(batch: TokenBatch, _: np.ndarray) -> Tensor:
        logits = batch.logits(model).unflatten(0, (-1, length + 2))[:, 1:-1]
        return logits[..., STANDARD_TOKENS].float().cpu()

    chosen = [
        (i, a) for i in range(part.start, part.stop) for a, token in enumerate(STANDARD_TOKENS) if token != tokens[i]
    ]
    rows = [framed(model, tokens)]
    for i, a in chosen:
        row = rows[0].copy()
        row[i + 1] = STANDARD_TOKENS[a]
        rows.append(row)
    logits = torch.empty(len(rows), length, _A)
    for batch, result in computer(rows, read):
        logits[batch] = result
        if report:
            report(len(batch))
    change = torch.zeros(part.stop - part.start, _A, length, _A)
    i, a = np.array(chosen).T
    change[i - part.start, a] = logits[1:] - logits[0]
    return change


def _centred(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Subtracts the mean over each axis, in place."""
    for axis in axes:
        x -= x.mean(axis, keepdim=True)
    return x


def _norms(x: Tensor) -> Tensor:
    """(n, 20, L, 20) -> (n, L)."""
    return x.square().sum((1, 3)).sqrt()
