"""What scores may rest on: homologs, a model, a structure; and which scorer uses what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.progress import Progress
from protlm.variants.scorers import Scorer
from protlm.variants.scorers.blosum62 import Blosum62Scorer

if TYPE_CHECKING:
    from protlm.inference.engine import Computer
    from protlm.variants.structure import Structure

AUTO = "auto"
SCORERS = ("blosum62", "profile", "model", "blend")
_HOMOLOGS = "homologs: a database or an alignment"


@dataclass(frozen=True)
class Sources:
    """What is known about one protein.

    Attributes:
        alignment: of its homologs.
        model: a language model.
        method: of the model, see `protlm.variants.score`.
        structure: whose `weights` are those of the sites, see `ProfileScorer`.
        progress: of the model.
    """

    alignment: Alignment | None = None
    model: "Computer | None" = None
    method: str | None = None
    structure: "Structure | None" = None
    progress: Progress | None = None

    def scorers(self, wild_type: str) -> dict[str, Scorer]:
        """Name -> each scorer for which there is a source, fitted."""
        scorers: dict[str, Scorer] = {"blosum62": Blosum62Scorer()}
        model = None
        weights = self.structure.weights if self.structure else None
        if self.model:
            from protlm.variants.scorers.language_model import ModelScorer

            scorers["model"] = model = ModelScorer(self.model, self.method, self.progress).fit(wild_type)
        if self.alignment:
            from protlm.variants.scorers.blend import BlendScorer
            from protlm.variants.scorers.profile import ProfileScorer

            scorers["profile"] = profile = ProfileScorer(weights).fit(wild_type, self.alignment)
            scorers["blend"] = BlendScorer(profile, model).fit(wild_type, self.alignment)
        return scorers


def chosen_scorer(scorer: str, homologs: bool, model: bool) -> str:
    """The scorer to use: for "auto" the one that uses all that is there.

    Raises:
        UserError: for an unknown scorer, or one that needs what is not there.

    >>> chosen_scorer("auto", homologs=True, model=False), chosen_scorer("auto", homologs=False, model=False)
    ('blend', 'blosum62')
    """
    if scorer == AUTO:
        return "blend" if homologs else "model" if model else "blosum62"
    if scorer not in SCORERS:
        raise UserError(f"scorer {scorer!r}: expected {AUTO} or one of {', '.join(SCORERS)}", "scorer")
    missing = [_HOMOLOGS] * (scorer in ("profile", "blend") and not homologs)
    missing += ["a model"] * (scorer == "model" and not model)
    if missing:
        raise UserError(f"scorer {scorer}: requires {' and '.join(missing)}", "scorer")
    return scorer
