"""A probe: a linear head fitted to frozen features, with its features, strength and temperature chosen honestly.

Legend: n proteins, r rows, k outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protlm.errors import UserError
from protlm.performer.label_head import AT
from protlm.supervised.calibration import fitted_temperature
from protlm.supervised.features import COMPOSITION, LAYER, SITES, WINDOW
from protlm.supervised.linear_fit import ABSENT, Sets, choose, final_rows, fit_sets, standard
from protlm.supervised.linear_head import LinearHead, answers
from protlm.supervised.partition import FOLDS, Round, folds_of
from protlm.supervised.target import VALUED, Target, training_values
from protlm.supervised.threshold import called_from

LEAST = 10
"""Labelled proteins that a probe needs for training."""


@dataclass(frozen=True)
class Learned:
    """A head, the regressions of which it is the mean, and mean and standard deviation (d,) of features in training."""

    head: LinearHead
    sets: Sets
    center: np.ndarray
    scale: np.ndarray


def candidates_of(
    layers: Sequence[int], per_residue: bool, variants: bool, residues: str = ""
) -> list[tuple[str, ...]]:
    """The sets of features among which cross-validation chooses.

    Args:
        layers: of the model, counted from 0.
        per_residue: rows are residues.
        variants: proteins are variants of one, of equal length.
        residues: of variants, at which they differ; see `variable_sites`.

    >>> candidates_of([3, 6], per_residue=True, variants=False)[-1]
    ('layer 3', 'layer 6', 'window')
    """
    names = [f"{LAYER}{layer}" for layer in layers]
    sets = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    extra = WINDOW if per_residue else SITES if variants else COMPOSITION
    if variants and residues and not per_residue:
        sets += [(f"{name}{AT}{residues}",) for name in names]
    return [*sets, *((*own, extra) for own in sets)]


def check_learnable(target: Target, source: str) -> None:
    """Raises a UserError for labels from which nothing can be learned."""
    proteins = len(np.unique(target.owner))
    where = f"{source}: {target.name!r}"
    if proteins < LEAST:
        raise UserError(f"{where} has {proteins} labelled training proteins; expected at least {LEAST}")
    if target.kind in VALUED and np.ptp(target.y) == 0:
        raise UserError(f"{where} is {target.y[0]:g} in all training proteins; expected values that differ")
    if target.kind == "classification" and len(np.unique(target.y)) == 1:
        name = target.classes[int(target.y[0])]
        raise UserError(f"{where} is {name!r} in all training proteins; expected at least two classes")
    if target.kind == "multilabel" and not (target.y.min(axis=0) < target.y.max(axis=0)).any():
        raise UserError(f"{where}: all training proteins have the same labels; expected labels that differ")


def learn(
    target: Target,
    blocks: dict[str, np.ndarray],
    candidates: Sequence[tuple[str, ...]],
    part: Round,
    groups: np.ndarray,
    seed: int = 0,
) -> Learned:
    """Fits a head to the training part; temperature and threshold to the validation part or, without one, in
    cross-validation.

    Args:
        target: r rows.
        blocks: name -> (r, d), of the same rows.
        candidates: sets of blocks.
        part: of the proteins.
        groups: (n,) proteins that stay together in cross-validation.
        seed: of folds.
    """
    kind, outputs = target.kind, max(1, len(target.classes))
    rows = np.flatnonzero(target.of(part.train))
    rows = rows[final_rows(target.owner[rows], seed)]
    own = {name: values[rows] for name, values in blocks.items()}
    y, owner = training_values(target.take(rows)), target.owner[rows]
    proteins = np.unique(owner)
    count = min(FOLDS, len(np.unique(groups[proteins])))
    if count < 2:
        raise UserError(f"{target.name}: all training proteins are in one cluster; expected at least two")
    fold = np.zeros(len(groups), dtype=np.int64)
    fold[proteins] = folds_of(groups[proteins], count, seed)
    choice = choose(own, candidates, y, kind, outputs, fold[owner], owner, seed)
    x = np.concatenate([own[name] for name in choice.blocks], axis=1)
    weight, bias = fit_sets(own, choice.sets, y, kind, outputs)
    temperature, threshold = 1.0, None
    if kind not in VALUED:
        valid = target.of(part.valid)
        logits, known = choice.logits, y[choice.rows]
        if valid.any():
            held = np.concatenate([blocks[name][valid] for name in choice.blocks], axis=1)
            logits, known = held @ weight + bias, target.y[valid]
        if kind == "classification":
            seen = bias[known] > ABSENT / 2
            logits, known = logits[seen], known[seen]
        temperature = fitted_temperature(logits, known, kind) if len(known) else 1.0
        if kind == "classification":
            threshold = called_from(answers(kind, logits, temperature), known, target.classes)
    head = LinearHead(
        target.name,
        kind,
        target.per_residue,
        target.classes,
        choice.blocks,
        np.ascontiguousarray(weight, dtype=np.float32),
        bias.astype(np.float32),
        temperature,
        threshold,
    )
    return Learned(head, choice.sets, *standard(x))


def predicted(head: LinearHead, blocks: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Probabilities or values of some rows, (rows, k)."""
    return head(np.concatenate([blocks[name][rows] for name in head.blocks], axis=1))
