"""Scores of variants: how much more or less probable they are to a model than the wild type.

Legend: L residues of the wild type x, n variants; wt_i and mt_i are the amino acids of wild type and variant at a
substituted position i. Logarithms are natural; a variant that the model prefers to the wild type scores above 0.

`masked-marginals`: sum over i of log p(mt_i | x with i masked) - log p(wt_i | x with i masked). Meier et al. 2021
(ESM-1v) define it with all substituted positions masked together; the code of ESM and ProteinGym masks one position at
a time in the wild type and sums, which is the same for single substitutions. So does this code: each position is
computed once for all variants, and scores are comparable with published ones.

`wt-marginals`: sum over i of log p(mt_i | x) - log p(wt_i | x), with nothing masked, from one pass (Meier et al. 2021).

`pseudo-log-likelihood`: PLL(variant) - PLL(wild type), where PLL(y) is the sum over all residues of
log p(y_i | y with i masked) (Salazar et al. 2020): L passes per variant.

`likelihood`, for causal models: log p(variant) - log p(wild type), where log p(y) is the sum of
log p(y_i | y_1 ... y_(i-1)) over all residues and the end.

Insertions and deletions have no marginals. By the likelihoods, and by the marginals instead of these, their score is
L (log p(variant) / L' - log p(wild type) / L), where L' is the length of the variant and log p is the log-likelihood or
PLL (one unmasked pass for `wt-marginals`): normalised by length, so that residues more or less do not count by
themselves.

Probabilities are over the whole vocabulary; marginals would be the same over the twenty amino acids alone. Proteins
of any length are computed whole.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from protlm.errors import ProtlmWarning, UserError, counted
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite, check_of_proteins
from protlm.inference.probabilities import causal_own, masked, masked_own, one_pass
from protlm.performer import Performer
from protlm.progress import Advance, Progress, summed
from protlm.sequence.alphabet import IS_STANDARD, STANDARD_TOKENS, encode
from protlm.sequence.containers import protein_of
from protlm.variants.names import variant_names
from protlm.variants.notation import Variants, all_singles, examine, parse
from protlm.variants.score_matrix import matrix_of

METHODS = ("masked-marginals", "wt-marginals", "pseudo-log-likelihood", "likelihood")

WILD_TYPE = "the wild type"
_LISTED = 5  # invalid variants named in a warning
_RESIDUES = 1 << 18  # of variants that are in memory together


def score(
    model: Performer,
    sequence: Any,
    variants: Iterable[str],
    method: str | None = None,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
    offset: int = 0,
    invalid: str = "error",
) -> np.ndarray:
    """Scores (n,) float64 of variants of one protein, by one of `METHODS`; formulas at the top of this file.

    The wild type is a string or another object that holds one protein, see `proteins_of`. Gaps are refused, since
    removing them would shift positions.

    `offset` is the number of residues before the sequence, if variants are numbered on a longer one. Variants that
    cannot be scored, such as frameshifts, have NaN, with a warning. With `invalid` "nan" so do malformed variants and
    missing ones (None, NaN); "error" refuses these.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> score(model, "MKTAYIAK", ["K2R", "M1L:Y5F"]).shape
    (2,)
    """
    if invalid not in ("error", "nan"):
        raise UserError(
            f"invalid {invalid!r}: expected 'error' or 'nan', so that there is a score per variant", "invalid"
        )
    names = variant_names(variants, missing=invalid == "nan")
    wild_type, computer = protein_of(sequence, gaps=False, name=WILD_TYPE), Computer(model, token_budget, precision)
    if invalid == "error":
        examined, problems = parse(wild_type, names, offset), {}
    else:
        examined, problems, _ = examine(wild_type, names, offset)
    scores = score_variants(computer, examined, method)
    scores[list(problems)] = np.nan
    problems |= {number: f", variant {names[number]}: {reason}" for number, reason in examined.reasons.items()}
    if problems:
        listed = "; ".join(f"variant {number + 1}{problems[number]}" for number in sorted(problems)[:_LISTED])
        more = "; ..." if len(problems) > _LISTED else ""
        message = f"{len(problems):,} of {counted(len(names), 'variant')} not scored: {listed}{more}"
        warnings.warn(message, ProtlmWarning, stacklevel=2)
    return scores


def score_matrix(
    model: Performer,
    sequence: Any,
    method: str | None = None,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
) -> np.ndarray:
    """Scores (L, 20) float64 of every amino acid at every position, in the order of `STANDARD`.

    The wild type scores 0; a position that is not one of the twenty has NaN. Arguments and errors as in `score`.
    """
    variants = all_singles(protein_of(sequence, gaps=False, name=WILD_TYPE))
    return matrix_of(variants, score_variants(Computer(model, token_budget, precision), variants, method))


def score_variants(
    computer: Computer, variants: Variants, method: str | None = None, progress: Progress | None = None
) -> np.ndarray:
    """As `score`, for parsed variants; NaN for those with a reason."""
    check_of_proteins(computer.model, "the score of a variant")
    method = chosen_method(computer.model, method)
    known = np.ones(len(variants), dtype=bool)
    known[list(variants.reasons)] = False
    if method.endswith("marginals"):
        scores = _marginals(computer, variants, method, progress)
        if numbers := sorted(variants.indels):
            whole = "unmasked" if method == "wt-marginals" else "pseudo-log-likelihood"
            scores[numbers] = _likelihoods(computer, variants.take(numbers), whole, progress)
    else:
        scores = _likelihoods(computer, variants, method, progress)
    check_finite(scores[known])
    scores[~known] = np.nan
    return scores


def chosen_method(model: Performer, method: str | None = None) -> str:
    """The method, by default that of the model's direction."""
    causal = model.config.causal
    if method is None:
        return "likelihood" if causal else "masked-marginals"
    if method not in METHODS:
        raise UserError(f"method {method!r}: expected one of {', '.join(METHODS)}", "method")
    if causal and method != "likelihood":
        raise UserError(
            f"method {method} requires a bidirectional model; expected likelihood for this causal one", "method"
        )
    if not causal and method == "likelihood":
        expected = f"expected {', '.join(METHODS[:2])} or {METHODS[2]}"
        raise UserError(f"method {method} requires a causal model; {expected}", "method")
    return method


def _marginals(computer: Computer, variants: Variants, method: str, report: Progress | None) -> np.ndarray:
    tokens = encode(variants.sequence)
    positions, row = np.unique(variants.position, return_inverse=True)
    if not len(positions):
        return np.zeros(len(variants))
    if method == "masked-marginals":
        log_p = masked(computer, tokens, positions, summed(report, len(positions)))
    else:
        log_p = one_pass(computer, tokens)[positions]
    gain = log_p[row, STANDARD_TOKENS[variants.mutant]] - log_p[row, STANDARD_TOKENS[variants.wild_type]]
    return np.bincount(variants.variant, gain, minlength=len(variants))


def _likelihoods(computer: Computer, variants: Variants, method: str, report: Progress | None) -> np.ndarray:
    """From whole mutated sequences; identical ones, and the wild type, are computed once."""
    changes: list[list[tuple[int, int]]] = [[] for _ in variants.names]
    changed = variants.mutant != variants.wild_type
    columns = (variants.variant, variants.position, variants.mutant)
    for variant, position, mutant in zip(*(column[changed].tolist() for column in columns), strict=True):
        changes[variant].append((position, mutant))
    keys = [variants.indels.get(number) or tuple(sorted(change)) for number, change in enumerate(changes)]
    numbers: dict[Any, int] = {(): 0}  # the wild type, then the distinct variants
    order = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    new, first = np.unique(order, return_index=True)
    distinct = set(first[new > 0].tolist())
    values, lengths = np.empty((2, len(numbers)))
    pseudo = method != "likelihood"
    total = len(values) * (int(IS_STANDARD[encode(variants.sequence)].sum()) if method == METHODS[2] else 1)
    start, count = 0, summed(report, total)
    for proteins in _sequences(variants, distinct):
        own = _OWN[method](computer, proteins, count)
        if pseudo:
            own = [each[IS_STANDARD[tokens]] for tokens, each in zip(proteins, own, strict=True)]
        values[start : start + len(own)] = [each.sum() for each in own]
        lengths[start : start + len(own)] = [len(each) for each in own]
        start += len(own)
    same = lengths == lengths[0]
    gain = np.where(same, values - values[0], lengths[0] * (values / lengths - values[0] / lengths[0]))
    return gain[order]


def _unmasked_own(computer: Computer, proteins: list[np.ndarray], report: Advance) -> list[np.ndarray]:
    """log p(y_i | y) of each residue, with nothing masked."""
    own = []
    for tokens in proteins:
        own.append(one_pass(computer, tokens)[np.arange(len(tokens)), tokens])
        report(1)
    return own


_OWN = {
    METHODS[2]: lambda *arguments: masked_own(*arguments),
    METHODS[3]: lambda *arguments: causal_own(*arguments),
    "unmasked": _unmasked_own,
}
"""Method -> log-probabilities of the residues of whole proteins."""


def _sequences(variants: Variants, distinct: set[int]) -> Iterator[list[np.ndarray]]:
    """The tokens of the wild type and of the variants with these numbers, in groups."""
    size = max(1, _RESIDUES // len(variants.sequence))
    window = [encode(variants.sequence)]
    for number, sequence in enumerate(variants.sequences()):
        if number in distinct:
            window.append(encode(sequence))
        if len(window) >= size:
            yield window
            window = []
    if window:
        yield window
