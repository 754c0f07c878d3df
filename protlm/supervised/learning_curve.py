"""How a probe does when it is fitted to fewer proteins: whether more labels would help.

Legend: n proteins, r rows of a target.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from protlm.supervised.linear_fit import final_rows, fit_sets
from protlm.supervised.metrics import MAIN, evaluate
from protlm.supervised.partition import Round
from protlm.supervised.probe import Learned, predicted
from protlm.supervised.target import Target, training_values

FRACTIONS = (0.125, 0.25, 0.5)
"""Of the training proteins, before all of them."""

_COMMON = 0.8

Part = tuple[float, np.ndarray]
"""Number of training proteins, and predictions (rows, k) of the test."""


def smaller_fits(
    learned: Learned, target: Target, blocks: dict[str, np.ndarray], part: Round, rows: np.ndarray, seed: int
) -> list[Part | None]:
    """Fits to fractions of the training proteins, with the features and the penalty of the whole, which comes last.

    None for a fraction from which nothing can be learned.

    Args:
        learned: fitted to all training proteins of `part`.
        target, blocks, part: see `learn`.
        rows: for testing.
        seed: of the choice of proteins; larger fractions contain smaller ones.
    """
    train = np.flatnonzero(target.of(part.train))
    train = train[final_rows(target.owner[train], seed)]
    proteins = np.unique(target.owner[train])
    order = np.random.default_rng(seed).permutation(proteins)
    found: list[Part | None] = []
    for fraction in FRACTIONS:
        chosen = order[: int(fraction * len(order))]
        own = train[np.isin(target.owner[train], chosen)]
        y, head = training_values(target.take(own)), learned.head
        if len(chosen) < 2 or np.ptp(y, axis=0).max() == 0:
            found.append(None)
            continue
        rows_of = {name: blocks[name][own] for name in head.blocks}
        weight, bias = fit_sets(rows_of, learned.sets, y, target.kind, max(1, len(target.classes)))
        smaller = replace(head, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        found.append((float(len(chosen)), predicted(smaller, blocks, rows)))
    return [*found, (float(len(proteins)), predicted(learned.head, blocks, rows))]


def curve_metric(target: Target) -> str:
    """The metric of a learning curve: the main one, AUPRC where four of five rows, but not all, have the same class."""
    if target.kind == "classification" and _COMMON * len(target.y) <= np.bincount(target.y).max() < len(target.y):
        return "AUPRC"
    return MAIN[target.kind]


def learning_curve(target: Target, rounds: Sequence[list[Part | None]]) -> list[dict[str, Any]]:
    """Training proteins, on average, and the metric of each fraction that all rounds could be fitted to.

    Args:
        target: rows for testing, in the order of the rounds.
        rounds: of `smaller_fits`.
    """
    curve, metric = [], curve_metric(target)
    for parts in zip(*rounds, strict=True):
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            predictions = np.concatenate([values for _, values in known])
            metrics = evaluate(target.kind, target.y, predictions, target.owner, draws=0)
            proteins = float(np.mean([count for count, _ in known]))
            curve.append({"metric": metric, "proteins": proteins, "value": metrics[metric].value})
    return curve
