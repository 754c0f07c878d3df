"""Accuracy and perplexity of a model on a corpus, split by split, by length of the protein and by residue."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protlm import __version__
from protlm.batching.batches import ProteinBatches, Question
from protlm.batching.masking import Masking
from protlm.corpus.reader import Corpus, Unigram
from protlm.corpus.splits import SPLITS
from protlm.errors import UserError
from protlm.inference.engine import check_length
from protlm.metrics import Breakdown, ResidueMetrics
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD

FORMAT = "protlm evaluation"
VERSION = 1
LONGEST = 128 << np.arange(8)
"""(bins - 1,) the longest protein, in residues, of each bin of lengths but the last, which has no end."""


class SplitResults(dict[str, float]):
    """What `ResidueMetrics.beside` says of one split, and of its parts.

    Attributes:
        proteins: how many the split has.
        asked: how many residues the model was asked for.
        by_length: a row for each bin of lengths in which there are proteins, shorter ones first: "min" and "max" length
            in residues (None without an end), "proteins", and the row of `Breakdown.over`.
        by_residue: letter -> the row of `Breakdown.over`, and "predicted", how often the model said it; only residues
            that were asked for.
    """

    proteins: int
    asked: int
    by_length: list[dict[str, Any]]
    by_residue: dict[str, dict[str, Any]]


def evaluate(
    model: Performer,
    corpus: Corpus,
    splits: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 16_384,
    share: float = 0.15,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SplitResults]:
    """Split -> accuracy and perplexity, and those of the unigram baseline over the same residues.

    A bidirectional model restores residues of which all that were selected are masked; a unidirectional one says the
    next residue.

    Args:
        model: in evaluation mode.
        corpus: its training split is the source of the unigram baseline.
        splits: by default test and ood, those of them that have proteins.
        max_length: longer proteins are cropped at random, in tokens; by default the model's positions.
        token_budget: most tokens computed at once.
        share: share of the residues that is masked.
        seed: of crops and masks: the same seed asks the same questions.
        progress: called with the proteins done and all.

    Raises:
        UserError: for a split that is unknown or has no proteins; for a model whose answers are not finite.
    """
    splits = _chosen(corpus, splits)
    max_length = max_length or model.config.max_length
    check_length(model, max_length)
    question = Question(model.config.causal, Masking(share)).for_evaluation()
    device = next(model.parameters()).device
    done, total = 0, sum(len(corpus.members(split)) for split in splits)
    results = {}
    for split in splits:
        batches = ProteinBatches(corpus, split, question, max_length, max(max_length, token_budget), seed)
        batches.start = model.config.start_id
        metrics, breakdown = ResidueMetrics().to(device), Breakdown(len(LONGEST) + 1)
        proteins = np.zeros(len(LONGEST) + 1, dtype=np.int64)
        for key in batches.plan(0):
            inputs, targets, scored, key_mask = (tensor.to(device) for tensor in batches[key][:4])
            with torch.inference_mode():
                logits = model(inputs, key_mask)
            bins = np.searchsorted(LONGEST, corpus.lengths_of(key[:, 1]))  # of whole proteins, not of crops
            proteins += np.bincount(bins, minlength=len(proteins))
            metrics.update(logits, targets, scored)
            breakdown.update(logits, targets, scored, bins)
            if not np.isfinite(breakdown.negative_log).all():
                raise UserError(
                    "the model's answers are not finite numbers: its training went wrong; take an earlier checkpoint"
                )
            done += len(key)
            if progress:
                progress(done, total)
        results[split] = _results(metrics, breakdown, proteins, corpus.unigram())
    return results


def _chosen(corpus: Corpus, splits: Sequence[str]) -> list[str]:
    present = [split for split in SPLITS if len(corpus.members(split))]
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    wanted = list(dict.fromkeys(splits)) or [split for split in ("test", "ood") if split in present]
    if not wanted:
        raise UserError(
            f"{corpus.path}: no proteins in test or ood; name other splits, those with proteins: {', '.join(present)}"
        )
    if absent := [split for split in wanted if split not in present]:
        raise UserError(
            f"{corpus.path}: no proteins in {', '.join(absent)}; splits with proteins: {', '.join(present)}"
        )
    return wanted


def _results(metrics: ResidueMetrics, breakdown: Breakdown, proteins: np.ndarray, unigram: Unigram) -> SplitResults:
    results = SplitResults(metrics.beside(unigram))
    results.proteins, results.asked = int(proteins.sum()), int(breakdown.asked.sum())
    results.by_length, results.by_residue = [], {}
    for number in np.flatnonzero(proteins).tolist():
        part = np.zeros(breakdown.asked.shape, dtype=bool)
        part[number] = True
        row = {
            "min": int(LONGEST[number - 1]) + 1 if number else 1,
            "max": int(LONGEST[number]) if number < len(LONGEST) else None,
            "proteins": int(proteins[number]),
        }
        results.by_length.append({**row, **breakdown.over(part, unigram)})
    for letter in (*STANDARD, "U", "O"):
        part = np.zeros(breakdown.asked.shape, dtype=bool)
        part[:, INDEX[letter]] = True
        row = breakdown.over(part, unigram)
        if row["asked"]:
            results.by_residue[letter] = {**row, "predicted": int(breakdown.predicted[INDEX[letter]])}
    return results


def format_details(results: dict[str, SplitResults]) -> str:
    """Two plain tables for each split: by length of the protein, and by residue."""
    tables = []
    for split, result in results.items():
        columns = ("proteins", "asked", "accuracy", "unigram", "perplexity", "unigram")
        rows = [[f"{split} by length", *columns]]
        for row in result.by_length:
            name = f"{row['min']:,}-{row['max']:,}" if row["max"] else f"{row['min']:,} and more"
            accuracies = [_percent(row["accuracy"]), _percent(row["unigram_accuracy"])]
            rows.append([name, f"{row['proteins']:,}", f"{row['asked']:,}", *accuracies, *_perplexities(row)])
        tables.append(_aligned(rows))
        rows = [[f"{split} by residue", "asked", "predicted", "accuracy", "perplexity", "unigram"]]
        for letter, row in result.by_residue.items():
            counts = [f"{row['asked']:,}", f"{row['predicted']:,}"]
            rows.append([letter, *counts, _percent(row["accuracy"]), *_perplexities(row)])
        tables.append(_aligned(rows))
    return "\n\n".join(tables)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _perplexities(row: dict[str, Any]) -> list[str]:
    return [f"{row['perplexity']:.2f}", f"{row['unigram_perplexity']:.2f}"]


def _aligned(rows: list[list[str]]) -> str:
    """The first column at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("   ".join(row) for row in cells)


def to_json(
    results: dict[str, SplitResults], model: Performer, path: str | Path, corpus: Corpus, options: dict[str, Any]
) -> str:
    """Everything as JSON, in the layout of docs/formats.md.

    Args:
        results: of `evaluate`.
        model: the model that was evaluated.
        path: where it was loaded from.
        corpus: the corpus it was evaluated on.
        options: what `evaluate` was called with.
    """
    about = {
        "format": FORMAT,
        "version": VERSION,
        "protlm": __version__,
        "model": {"path": str(path), "causal": model.config.causal},
        "corpus": {"path": str(corpus.path), "fingerprint": corpus.fingerprint},
        "options": {**options, "device": str(next(model.parameters()).device)},
    }
    splits = {
        split: {
            "proteins": result.proteins,
            "asked": result.asked,
            **result,
            "by_length": result.by_length,
            "by_residue": result.by_residue,
        }
        for split, result in results.items()
    }
    return json.dumps(_without_nan({**about, "splits": splits}), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    """None for nan, which JSON does not have, at any depth."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
