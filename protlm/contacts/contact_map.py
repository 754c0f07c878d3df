"""A contact map: a score for each two residues of a protein, from a model or an alignment.

Legend: L residues, n pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch

from protlm.contacts.attention_head import check_contact_head, head_contacts
from protlm.contacts.jacobian import corrected, jacobian_contacts, jacobian_passes
from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.couplings import Couplings
from protlm.inference.engine import Computer, check_finite, check_of_proteins
from protlm.inference.probabilities import check_bidirectional
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabet import encode

AUTO = "auto"
METHODS = ("head", "jacobian", "couplings")
SEPARATION = 6
"""Residues between i and j of a pair, at least: nearer ones touch in any protein."""


@dataclass(frozen=True)
class ContactMap:
    """Scores of all pairs of residues.

    Attributes:
        sequence: L residues.
        scores: (L, L) float32, symmetric; probabilities of "head", otherwise corrected norms, which only rank pairs.
        method: one of `METHODS`.
    """

    sequence: str
    scores: np.ndarray
    method: str

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions i < j from 0 and scores, (n,) each, of the pairs at least `SEPARATION` apart, the best first."""
        i, j = np.triu_indices(len(self.sequence), SEPARATION)
        order = np.argsort(-self.scores[i, j], kind="stable")
        return i[order], j[order], self.scores[i, j][order]


def chosen_method(method: str, model: Performer | None, homologs: bool) -> str:
    """The method to use; "auto" is couplings with homologs, otherwise the contact head, otherwise the Jacobian.

    Raises:
        UserError: for an unknown method, or one that needs what is not there.
    """
    if method not in (AUTO, *METHODS):
        raise UserError(f"method {method!r}: expected {AUTO}, {', '.join(METHODS)}", "method")
    if method == AUTO:
        method = "couplings" if homologs else "head" if model and model.config.predicts_contacts else "jacobian"
    if (method == "couplings") != homologs:
        needs = "requires homologs: an alignment or a database" if not homologs else "does not use homologs"
        raise UserError(f"method {method}: {needs}", "method")
    if model:
        check_of_proteins(model, "a contact map")
    if model and method == "head":
        check_contact_head(model)
    if model and method == "jacobian":
        check_bidirectional(model, "the categorical Jacobian")
    return method


def contact_map(sequence: str, method: str, source: Computer | Alignment, report: Advance | None = None) -> ContactMap:
    """Computes the contact map of one protein.

    Args:
        sequence: normalised residues.
        method: one of `METHODS`.
        source: a model, or for "couplings" an alignment of the protein.
        report: called with the number of passes of each batch.
    """
    if isinstance(source, Alignment):
        scores = corrected(torch.from_numpy(Couplings(source).norms()))
    elif method == "head":
        scores = head_contacts(source.model, encode(sequence))
        if report:
            report(1)
    else:
        scores = jacobian_contacts(source, encode(sequence), report)
    check_finite(scores)
    return ContactMap(sequence, scores, method)


def passes(method: str, sequence: str) -> int:
    """Number of passes of the model that `contact_map` reports for a protein."""
    return jacobian_passes(encode(sequence)) if method == "jacobian" else 1
