"""Accuracy and perplexity of a model on the splits of a corpus, also by protein length and by residue."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protlm import __version__
from protlm.batching.batches import Objective, ProteinBatches
from protlm.batching.masking import Masking
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SPLITS
from protlm.corpus.unigram import Unigram
from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, check_finite, check_length, evaluating, warn_beyond_positions
from protlm.inference.packing import pack, packs
from protlm.inference.token_batch import check_head
from protlm.metrics import Breakdown, ResidueCounts, format_row
from protlm.performer import Performer
from protlm.sequence.alphabets import PROTEIN, alphabet_of, name_of
from protlm.sequence.letters import Alphabet
from protlm.strict_json import dumps
from protlm.tables import aligned

FORMAT = "protlm evaluation"
VERSION = 1
BIN_MAXIMA = 128 << np.arange(8)
"""(bins - 1,) the maximum length, in residues, of each bin of protein lengths; the last bin has none."""


class SplitResults(dict[str, float]):
    """The metrics of one split, see `ResidueCounts.with_baseline`, and of its parts.

    Attributes:
        proteins: number of proteins in the split.
        scored: number of residues that the model predicted.
        alphabet: of the corpus.
        by_length: one row per non-empty bin of lengths, in ascending order: "min" and "max" length in residues (None
            in the last bin), "proteins", and the row of `Breakdown.over`.
        by_residue: letter -> the row of `Breakdown.over`, and "predicted", how often the model predicted this letter;
            only residues that were scored.
    """

    alphabet: Alphabet = PROTEIN
    proteins: int
    scored: int
    by_length: list[dict[str, Any]]
    by_residue: dict[str, dict[str, Any]]


def evaluate(
    model: Performer,
    corpus: Corpus,
    splits: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    share: float = 0.15,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SplitResults]:
    """Split -> accuracy and perplexity, with the unigram baseline over the same residues.

    A bidirectional model predicts masked residues (all selected residues are masked), a causal model the next residue.

    Args:
        model: evaluates, whatever its mode.
        corpus: its training split provides the unigram baseline.
        splits: by default "test" and "ood", if they have proteins.
        max_length: in tokens; longer proteins are cropped at random. By default the model's.
        token_budget: maximum number of tokens in a batch, including padding.
        share: fraction of the residues to mask.
        seed: of crops and masks.
        progress: called with the numbers of proteins done and in total.

    Raises:
        UserError: for an unknown or empty split, or a model whose output is not finite.
    """
    check_head(model)
    own = alphabet_of(model.config.alphabet)
    if corpus.alphabet != own:
        given = name_of(corpus.alphabet)
        raise UserError(f"{corpus.path}: alphabet {given}; expected that of the model, {name_of(own)}")
    splits = checked_splits(corpus, splits, share)
    max_length = max_length or model.config.max_length
    check_length(model, max_length)
    objective = Objective(model.config.causal, Masking(share)).for_evaluation()
    device, packed = next(model.parameters()).device, packs(model)
    done, total = 0, sum(len(corpus.members(split)) for split in splits)
    results = {}
    for split in splits:
        batches = ProteinBatches(corpus, split, objective, max_length, max(max_length, token_budget), seed)
        batches.start = model.config.start_id
        metrics, breakdown = ResidueCounts(device, own.size), Breakdown(len(BIN_MAXIMA) + 1, own.size)
        proteins = np.zeros(len(BIN_MAXIMA) + 1, dtype=np.int64)
        for key in batches.plan(0):
            batch = batches[key]
            warn_beyond_positions(model, batch.inputs.shape[1])
            bins = np.searchsorted(BIN_MAXIMA, corpus.lengths_of(key[:, 1]))  # of whole proteins, not of crops
            proteins += np.bincount(bins, minlength=len(proteins))
            of_positions = bins[:, None]
            if packed:
                of_positions = np.repeat(bins, batch.key_mask.sum(1).numpy())
                batch = pack(batch)
            segments = batch.segments and batch.segments._replace(cu_seqlens=batch.segments.cu_seqlens.to(device))
            inputs, targets, scored, key_mask = (tensor.to(device) for tensor in batch[:4])
            with evaluating(model):
                logits = model(inputs, key_mask, segments)
            metrics.update(logits, targets, scored)
            breakdown.update(logits, targets, scored, of_positions)
            check_finite(breakdown.negative_log)
            done += len(key)
            if progress:
                progress(done, total)
        results[split] = _results(metrics, breakdown, proteins, corpus.unigram(), own)
    return results


def checked_splits(corpus: Corpus, splits: Sequence[str], share: float = 0.15) -> list[str]:
    """The splits to evaluate, by default "test" and "ood"; what is wrong with them or the fraction needs no model."""
    if not 0 < share <= 1:
        raise UserError(f"share {share:g}: expected a number above 0 and at most 1", "share")
    present = [split for split in SPLITS if len(corpus.members(split))]
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"split {split!r}: expected one of {', '.join(SPLITS)}", "split")
    chosen = list(dict.fromkeys(splits)) or [split for split in ("test", "ood") if split in present]
    absent = [split for split in chosen if split not in present]
    if absent or not chosen:
        raise UserError(
            f"{corpus.path}: no proteins in {', '.join(absent) or 'test or ood'}; "
            f"splits with proteins: {', '.join(present)}"
        )
    return chosen


def _results(
    metrics: ResidueCounts, breakdown: Breakdown, proteins: np.ndarray, unigram: Unigram, alphabet: Alphabet
) -> SplitResults:
    results = SplitResults(metrics.with_baseline(unigram))
    results.proteins, results.scored = int(proteins.sum()), int(breakdown.scored.sum())
    results.alphabet, results.by_length, results.by_residue = alphabet, [], {}
    for number in np.flatnonzero(proteins).tolist():
        part = np.zeros(breakdown.scored.shape, dtype=bool)
        part[number] = True
        row = {
            "min": int(BIN_MAXIMA[number - 1]) + 1 if number else 1,
            "max": int(BIN_MAXIMA[number]) if number < len(BIN_MAXIMA) else None,
            "proteins": int(proteins[number]),
        }
        results.by_length.append({**row, **breakdown.over(part, unigram)})
    rare = [PROTEIN.index[letter] for letter in "UO"] if alphabet == PROTEIN else []
    for token in (*alphabet.drawn.tolist(), *rare):
        part = np.zeros(breakdown.scored.shape, dtype=bool)
        part[:, token] = True
        row = breakdown.over(part, unigram)
        if row["asked"]:
            results.by_residue[alphabet.tokens[token]] = {**row, "predicted": int(breakdown.predicted[token])}
    return results


def format_details(results: dict[str, SplitResults]) -> str:
    """Two tables for each split: by protein length and by residue."""
    tables = []
    for split, result in results.items():
        columns = ["scored", "accuracy", "unigram", "perplexity", "unigram"]
        header = [f"{split} by length", f"{result.alphabet.record}s", *columns]
        rows = []
        for row in result.by_length:
            name = f"{row['min']:,}-{row['max']:,}" if row["max"] else f"{row['min']:,} and more"
            rows.append([name, f"{row['proteins']:,}", f"{row['asked']:,}", *format_row(row)])
        tables.append(aligned(header, rows))
        header = [f"{split} by {result.alphabet.unit}", "scored", "predicted", "accuracy", "perplexity", "unigram"]
        rows = []
        for letter, row in result.by_residue.items():
            accuracy, _, *perplexities = format_row(row)
            rows.append([letter, f"{row['asked']:,}", f"{row['predicted']:,}", accuracy, *perplexities])
        tables.append(aligned(header, rows))
    return "\n\n".join(tables)


def to_json(
    results: dict[str, SplitResults], model: Performer, path: str | Path, corpus: Corpus, options: dict[str, Any]
) -> str:
    """The results of `evaluate` as JSON, in the layout of docs/formats.md, with the path of the model."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "protlm": __version__,
        "model": {"path": str(path), "causal": model.config.causal},
        "corpus": {"path": str(corpus.path), "fingerprint": corpus.fingerprint},
        "options": {**options, "device": str(next(model.parameters()).device)},
    }
    splits = {
        split: {"proteins": r.proteins, "asked": r.scored, **r, "by_length": r.by_length, "by_residue": r.by_residue}
        for split, r in results.items()
    }
    return dumps({**about, "splits": splits}, indent=2) + "\n"
