"""What a probe has to beat: the majority, composition, a window of residues, one-hot sites, the nearest relative.

Legend: r rows, k outputs.
"""

import numpy as np

from protlm.supervised.features import COMPOSITION, SITES, WINDOW
from protlm.supervised.kinship import Kinship
from protlm.supervised.linear_fit import indicators
from protlm.supervised.partition import Round
from protlm.supervised.probe import learn, predicted
from protlm.supervised.target import VALUED, Target

NEAREST = "nearest relative"
NAMES = {COMPOSITION: "composition", WINDOW: "window of residues", SITES: "one-hot residues"}


def baseline_blocks(target: Target, variants: bool) -> list[str]:
    """The blocks of features without a model that suit a target."""
    if target.per_residue:
        return [WINDOW]
    return [COMPOSITION, SITES] if variants else [COMPOSITION]


def baselines(
    target: Target, blocks: dict[str, np.ndarray], part: Round, groups: np.ndarray, kinship: Kinship | None, seed: int
) -> dict[str, np.ndarray]:
    """Name -> predictions (test rows, k), of models that are fitted to the same training part.

    The majority predicts the frequencies of classes, or the mean. The nearest relative has the labels of the training
    protein with the highest phmmer score or, of variants, with the fewest differences; without one, the majority.
    """
    outputs, train = max(1, len(target.classes)), target.of(part.train)
    rows = np.flatnonzero(target.of(part.test))
    wanted = indicators(target.y, target.kind, outputs)
    prior = np.tile(wanted[train].mean(axis=0), (len(rows), 1))
    found = {"mean" if target.kind in VALUED else "majority": prior}
    for name, title in NAMES.items():
        if name in blocks:
            own = {name: blocks[name]}
            found[title] = predicted(learn(target, own, [(name,)], part, groups, seed).head, own, rows)
    if kinship is not None and not target.per_residue:
        labelled = np.zeros(len(part.train), dtype=bool)
        labelled[target.owner[train]] = True
        tested = np.zeros_like(labelled)
        tested[target.owner[rows]] = True
        nearest, _ = kinship.nearest(tested, labelled)
        row_of = np.full(len(labelled), -1)
        row_of[target.owner] = np.arange(len(target.owner))
        guess = prior.copy()
        guess[nearest >= 0] = wanted[row_of[nearest[nearest >= 0]]]
        found[NEAREST] = guess
    return found
