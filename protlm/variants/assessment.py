"""Scores of the variants of one protein, and how much each of them knows.

Legend: L residues of the wild type, n variants, m substitutions.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from protlm.errors import counted
from protlm.sequence.alphabet import STANDARD
from protlm.variants.notation import Variants, all_singles
from protlm.variants.sources import AUTO, Sources, chosen_scorer

if TYPE_CHECKING:
    from protlm.homology.profile import Profile

ALONE = 1.0
"""Effective number of sequences at a site that only the wild type covers."""
REASON = "reason"
"""Column with the reason why a variant is not scored."""
NOT_SCORED = "insertion or deletion: requires homologs or a model"
TOO_LONG = "insertion or deletion: the protein is too long for its profile HMM"


@dataclass(frozen=True)
class Assessment:
    """What is known about the variants of one protein.

    Attributes:
        variants: n variants.
        sources: of the scores.
        chosen: name of the requested scorer.
        scores: name -> (n,) float64 of each scorer for which there was a source; NaN for variants not scored.
        singles: (L, 20) float64, the chosen scores of all single substitutions; NaN at the wild type, and everywhere if
            they would take too long.
        effective: (n,) float64, the effective number of sequences, including the wild type, that cover the site of the
            variant; of several sites the least. NaN without homologs.
        percentile: (n,) float64, the percentage of all single substitutions that score lower; ties count half.
        blosum62_only: (n,) bool, that the score rests on BLOSUM62 alone.
        profile: of the homologs; None without them.
        notes: what the scorers report about themselves.
    """

    variants: Variants
    sources: Sources
    chosen: str
    scores: dict[str, np.ndarray]
    singles: np.ndarray
    effective: np.ndarray
    percentile: np.ndarray
    blosum62_only: np.ndarray
    profile: "Profile | None"
    notes: list[str]

    @property
    def values(self) -> np.ndarray:
        """The chosen scores (n,)."""
        return self.scores[self.chosen]

    @cached_property
    def reasons(self) -> list[str]:
        """Why a variant is not scored, n strings; "" if it is."""
        reasons = [""] * len(self.variants)
        for number in np.flatnonzero(np.isnan(self.values)).tolist():
            otherwise = TOO_LONG if self.chosen in ("profile", "blend") else NOT_SCORED
            reasons[number] = self.variants.reasons.get(number, otherwise)
        return reasons

    def summary(self) -> str:
        """One line: what was used, and how much it knew."""
        model = "the model, " if self.sources.model else ""
        known = {
            "blosum62": f"blosum62, which knows nothing of this protein: {self._why_blosum62()}",
            "profile": f"profile of {self._homologs()}",
            "model": "model",
            "blend": f"blend of {model}profile and couplings of {self._homologs()}",
        }
        line = "; ".join([f"scorer: {known[self.chosen]}", *self._structure(), *self.notes])
        alone = int(self.blosum62_only.sum())
        if alone and self.chosen != "blosum62":
            line += f"; {counted(alone, 'variant')} by BLOSUM62 alone"
        return line

    def unscored(self) -> list[str]:
        """A line that counts the variants without a score by reason; none if all are scored."""
        counts = Counter(reason.partition(" at residue")[0] for reason in self.reasons if reason)
        if not counts:
            return []
        listed = ", ".join(f"{number:,} {reason}" for reason, number in counts.most_common())
        return [f"{counted(counts.total(), 'variant')} without a score: {listed}"]

    def _why_blosum62(self) -> str:
        if self.sources.model or (self.sources.alignment and len(self.sources.alignment) > 1):
            return "the requested scorer"
        return "no homologs found" if self.sources.alignment else "neither homologs (database, alignment) nor a model"

    def _structure(self) -> list[str]:
        if (structure := self.sources.structure) is None:
            return []
        if self.chosen not in ("profile", "blend"):
            return ["the structure is not used, since it weighs what homologs tell"]
        resolved = f"{structure.resolved:,} of {counted(len(structure.buried), 'residue')}"
        return [f"sites weighed by their burial in chain {structure.chain} of the structure ({resolved})"]

    def _homologs(self) -> str:
        alignment, profile = self.sources.alignment, self.profile
        if alignment is None or profile is None:
            return "no homologs"
        low, middle, high = np.quantile(profile.effective, [0, 0.5, 1])
        number = counted(len(alignment) - 1, "homolog")
        return f"{number} (effective sequences per residue: median {middle:.1f}, {low:.1f} to {high:.1f})"


def assess(variants: Variants, sources: Sources, scorer: str = "auto") -> Assessment:
    """Scores variants by all scorers for which there is a source.

    Args:
        variants: of one protein.
        sources: see `Sources`; their alignment is that of the wild type.
        scorer: "auto" or one of `sources.SCORERS`.

    Raises:
        UserError: see `chosen_scorer`; also if a model's answers are not finite.
    """
    homologs = sources.alignment is not None and (len(sources.alignment) > 1 or scorer != AUTO)
    chosen = chosen_scorer(scorer, homologs, sources.model is not None)
    wild_type = variants.sequence
    scorers = sources.scorers(wild_type)
    scores = {name: each.score(variants) for name, each in scorers.items()}
    singles = np.full((len(wild_type), len(STANDARD)), np.nan)
    if chosen != "model" or getattr(scorers["model"], "additive", True):
        every = all_singles(wild_type)
        singles[every.position, every.mutant] = scorers[chosen].score(every)
    profile = getattr(scorers.get("profile"), "profile", None)
    effective = np.full(len(variants), np.nan) if profile is None else least_at(variants, profile.effective)
    alone = {"blosum62": True, "model": False}.get(chosen, effective <= ALONE)
    return Assessment(
        variants,
        sources,
        chosen,
        scores,
        singles,
        effective,
        percentiles(scores[chosen], singles[np.isfinite(singles)]),
        alone & np.isfinite(scores[chosen]),
        profile,
        [note for each in scorers.values() for note in getattr(each, "notes", ())],
    )


def percentiles(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The percentage of values `among` (k,) below each score (n,), ties counted half; NaN for NaN or if k is 0.

    >>> percentiles(np.array([0.0, 1.0, 9.0, np.nan]), np.array([1.0, 1.0, 2.0, 3.0])).tolist()
    [0.0, 25.0, 100.0, nan]
    """
    if not len(among):
        return np.full(len(scores), np.nan)
    ordered = np.sort(among)
    below = [np.searchsorted(ordered, scores, side) for side in ("left", "right")]
    return np.where(np.isnan(scores), np.nan, 50 * (below[0] + below[1]) / len(ordered))


def least_at(variants: Variants, values: np.ndarray) -> np.ndarray:
    """The least of the values (L,) at the sites of each variant (n,); NaN for the wild type and variants not scored.

    The sites of an insertion are its neighbours.
    """
    least = np.full(len(variants), np.inf)
    np.minimum.at(least, variants.variant, values[variants.position])
    for number, edits in variants.indels.items():
        sites = [site for start, end, _ in edits for site in (range(start, end) or (start - 1, start))]
        least[number] = min(values[site] for site in sites if 0 <= site < len(values))
    return np.where(np.isinf(least), np.nan, least)
