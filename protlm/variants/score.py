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

Probabilities are over the whole vocabulary; marginals would be the same over the twenty amino acids alone. Proteins
of any length are computed whole.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from protlm.errors import ProtlmWarning, UserError, counted
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite
from protlm.inference.probabilities import causal_own, masked, masked_own, one_pass
from protlm.performer import Performer
from protlm.progress import Progress, summed
from protlm.sequence.alphabet import IS_STANDARD, STANDARD, STANDARD_TOKENS, encode
from protlm.sequence.containers import protein_of
from protlm.tables import BLANKS
from protlm.variants.notation import Variants, all_singles, examine, parse

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

    `offset` is the number of residues before the sequence, if variants are numbered on a longer one. With `invalid`
    "nan", variants that cannot be scored, or are missing (None, NaN), have NaN, with a warning; "error" refuses them.

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
        return score_variants(computer, parse(wild_type, names, offset), method)
    examined, problems, _ = examine(wild_type, names, offset)
    scores = score_variants(computer, examined, method)
    scores[list(problems)] = np.nan
    if problems:
        listed = "; ".join(f"variant {number + 1}{problems[number]}" for number in sorted(problems)[:_LISTED])
        more = "; ..." if len(problems) > _LISTED else ""
        message = f"{len(problems):,} of {counted(len(names), 'variant')} invalid, scored as NaN: {listed}{more}"
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


def matrix_of(variants: Variants, scores: np.ndarray) -> np.ndarray:
    """Scores (L, 20) of the single substitutions among variants, from (n,): 0 for the wild type, NaN if unknown."""
    values = np.full((len(variants.sequence), len(STANDARD)), np.nan)
    for i, letter in enumerate(variants.sequence):
        if letter in STANDARD:
            values[i, STANDARD.index(letter)] = 0
    single = np.bincount(variants.variant, minlength=len(variants))[variants.variant] == 1
    values[variants.position[single], variants.mutant[single]] = scores[variants.variant[single]]
    return values


def score_variants(
    computer: Computer, variants: Variants, method: str | None = None, progress: Progress | None = None
) -> np.ndarray:
    """As `score`, for parsed variants."""
    method = chosen_method(computer.model, method)
    if method.endswith("marginals"):
        scores = _marginals(computer, variants, method, progress)
    else:
        scores = _likelihoods(computer, variants, method, progress)
    check_finite(scores)
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


def variant_names(variants: Iterable[str], missing: bool = False) -> list[str]:
    """The names of variants in a list, tuple, generator, array or pandas Series; "" for None and NaN if `missing`.

    Raises:
        UserError: for any other object, or if an element is not a string.
    """
    if (
        isinstance(variants, str | bytes | Mapping)
        or hasattr(variants, "columns")
        or not isinstance(variants, Iterable)
    ):
        raise UserError(f"variants: expected a list of strings such as 'A42G', got {type(variants).__name__}")
    names = list(variants)
    if missing:
        names = ["" if str(name).casefold() in BLANKS else name for name in names]
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise UserError(f"variant {number}: expected a string such as 'A42G', got {name!r}")
    return names


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
    pseudo = method == "pseudo-log-likelihood"
    changes: list[list[tuple[int, int]]] = [[] for _ in variants.names]
    changed = variants.mutant != variants.wild_type
    columns = (variants.variant, variants.position, variants.mutant)
    for variant, position, mutant in zip(*(column[changed].tolist() for column in columns), strict=True):
        changes[variant].append((position, mutant))
    numbers: dict[tuple[tuple[int, int], ...], int] = {(): 0}  # the wild type, then the distinct variants
    order = np.array([numbers.setdefault(tuple(sorted(change)), len(numbers)) for change in changes], dtype=np.int64)
    new, first = np.unique(order, return_index=True)
    distinct = set(first[new > 0].tolist())
    values = np.empty(len(numbers))
    total = len(values) * (int(IS_STANDARD[encode(variants.sequence)].sum()) if pseudo else 1)
    start, count = 0, summed(report, total)
    for proteins in _sequences(variants, distinct):
        if pseudo:
            pairs = zip(proteins, masked_own(computer, proteins, count), strict=True)
            sums = [own[IS_STANDARD[tokens]].sum() for tokens, own in pairs]
        else:
            sums = [own.sum() for own in causal_own(computer, proteins, count)]
        values[start : start + len(sums)] = sums
        start += len(sums)
    return (values - values[0])[order]


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
