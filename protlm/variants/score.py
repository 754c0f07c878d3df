"""Scores of variants: how much likelier or less likely a model finds them than the wild type.

Legend: L residues of the wild type x, n variants; wt_i and mt_i are the amino acids of wild type and variant at a
substituted position i. All logarithms are natural, and a variant that the model prefers to the wild type is above 0.

`masked-marginals`: sum over i of log p(mt_i | x with i masked) - log p(wt_i | x with i masked). Meier et al. 2021
(ESM-1v) write it with all substituted positions masked together; the code of ESM and ProteinGym masks one position at a
time in the wild type and adds up, which is the same for single substitutions. That is done here: a position is computed
once for all variants, and the figures can be compared with the published.

`wt-marginals`: sum over i of log p(mt_i | x) - log p(wt_i | x), with nothing masked, from one pass (Meier et al. 2021).

`pseudo-log-likelihood`: PLL(variant) - PLL(wild type), where PLL(y) is the sum over all residues of
log p(y_i | y with i masked) (Salazar et al. 2020): L passes for each variant.

`likelihood`, for unidirectional models: log p(variant) - log p(wild type), where log p(y) is the sum of
log p(y_i | y_1 ... y_(i-1)) over all residues and the end.

Probabilities are over the whole vocabulary. In the marginals, over the twenty amino acids alone they would give the
same differences. Proteins are computed whole, however long they are.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.inference.perplexity import COUNTED, following, masked_own
from protlm.inference.probabilities import STANDARD_TOKENS, masked, one_pass
from protlm.performer import Performer
from protlm.sequence.alphabet import LETTERS, STANDARD, encode
from protlm.variants.notation import Variants, all_singles, parse

METHODS = ("masked-marginals", "wt-marginals", "pseudo-log-likelihood", "likelihood")
Progress = Callable[[int, int], None]

_WINDOW = 1 << 18  # rows or residues computed before the next variants are made


def score(
    model: Performer,
    sequence: str,
    variants: Sequence[str],
    method: str | None = None,
    token_budget: int = 16_384,
    precision: str = "float32",
    offset: int = 0,
) -> np.ndarray:
    """Scores (n,) float64 of variants of one protein; see the head of this file for the formulas.

    Args:
        model: in evaluation mode.
        sequence: the wild type.
        variants: such as "A42G" or "A42G:L50P", positions from 1.
        method: one of `METHODS`; by default masked-marginals, or likelihood for a unidirectional model.
        token_budget, precision: see `Computer`.
        offset: the number of residues before the first of the sequence, if the variants are numbered on a longer one.

    Raises:
        UserError: for variants that do not fit the wild type, or a method that does not fit the model.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> score(model, "MKTAYIAK", ["K2R", "M1L:Y5F"]).shape
    (2,)
    """
    computer = Computer(model, token_budget, precision)
    return score_variants(computer, parse(_wild_type(sequence), variants, offset), method)


def score_matrix(
    model: Performer,
    sequence: str,
    method: str | None = None,
    token_budget: int = 16_384,
    precision: str = "float32",
) -> np.ndarray:
    """Scores (L, 20) float64 of every amino acid at every position, in the order of `STANDARD`.

    The amino acid of the wild type has 0, and a position that is none of the twenty has NaN. Arguments and errors are
    those of `score`.
    """
    variants = all_singles(_wild_type(sequence))
    return matrix(variants, score_variants(Computer(model, token_budget, precision), variants, method))


def matrix(variants: Variants, scores: np.ndarray) -> np.ndarray:
    """(L, 20) of the variants with one substitution, from scores (n,): 0 for the wild type, NaN where there is none."""
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
    """Scores (n,) float64 of variants that were read already; arguments and errors are those of `score`.

    Args:
        computer: of the model.
        variants: see `parse`.
        method: one of `METHODS`, or None.
        progress: called with the passes of the model that are done, and all.
    """
    method = chosen_method(computer.model, method)
    report = progress or (lambda done, total: None)
    if method.endswith("marginals"):
        scores = _marginals(computer, variants, method, report)
    else:
        scores = _likelihoods(computer, variants, method, report)
    if not np.isfinite(scores).all():
        raise UserError(
            "the model's answers are not finite numbers: its training went wrong; take an earlier checkpoint"
        )
    return scores


def chosen_method(model: Performer, method: str | None = None) -> str:
    """The method, or the default for the model.

    Raises:
        UserError: for an unknown one, or one that does not fit the model.
    """
    causal = model.config.causal
    if method is None:
        return "likelihood" if causal else "masked-marginals"
    if method not in METHODS:
        raise UserError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if causal and method != "likelihood":
        raise UserError(
            f"method {method}: this model is unidirectional, it sees nothing behind a residue; expected likelihood"
        )
    if not causal and method == "likelihood":
        raise UserError(
            f"method {method}: this model is bidirectional, it has no likelihood of a whole protein; expected one of "
            f"{', '.join(METHODS[:3])}"
        )
    return method


def _wild_type(sequence: str) -> str:
    """In capital letters that all have a token; nothing is left out, so that positions stay."""
    letters = sequence.upper().replace("J", "X")
    if not letters:
        raise UserError("the wild type is empty; expected amino acids in one-letter code")
    if odd := sorted(set(letters) - set(LETTERS)):
        raise UserError(f"the wild type has {odd[0]!r}; expected amino acids in one-letter code")
    return letters


def _marginals(computer: Computer, variants: Variants, method: str, report: Progress) -> np.ndarray:
    tokens = encode(variants.sequence)
    positions, place = np.unique(variants.position, return_inverse=True)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(done, len(positions))

    if not len(positions):
        return np.zeros(len(variants))
    if method == "masked-marginals":
        log_p = masked(computer, tokens, positions, count)
    else:
        log_p = one_pass(computer, tokens)[positions]
    gain = log_p[place, STANDARD_TOKENS[variants.mutant]] - log_p[place, STANDARD_TOKENS[variants.wild_type]]
    return np.bincount(variants.variant, gain, minlength=len(variants))


def _likelihoods(computer: Computer, variants: Variants, method: str, report: Progress) -> np.ndarray:
    """By the whole of each variant; equal ones are computed once."""
    pseudo = method == "pseudo-log-likelihood"
    numbers: dict[str, int] = {}
    order = np.array([numbers.setdefault(_sorted(name), len(numbers)) for name in variants.names], dtype=np.int64)
    wanted = set(np.unique(order, return_index=True)[1].tolist())
    values = np.empty(len(numbers) + 1)  # the wild type, then the variants
    total = len(values) * (int(COUNTED[encode(variants.sequence)].sum()) if pseudo else 1)
    begin = done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(done, total)

    for proteins in _windows(variants, wanted):
        if pseudo:
            pairs = zip(proteins, masked_own(computer, proteins, count), strict=True)
            sums = [own[COUNTED[tokens]].sum() for tokens, own in pairs]
        else:
            sums = [own.sum() for own in following(computer, proteins, count)]
        values[begin : begin + len(sums)] = sums
        begin += len(sums)
    return (values[1:] - values[0])[order]


def _windows(variants: Variants, wanted: set[int]) -> Iterator[list[np.ndarray]]:
    """The tokens of the wild type and of the variants with these numbers, some at a time."""
    size = max(1, _WINDOW // len(variants.sequence))
    window = [encode(variants.sequence)]
    for number, sequence in enumerate(variants.sequences()):
        if number in wanted:
            window.append(encode(sequence))
        if len(window) >= size:
            yield window
            window = []
    if window:
        yield window


def _sorted(name: str) -> str:
    """One name for all orders of the same substitutions."""
    return ":".join(sorted(name.split(":")))
