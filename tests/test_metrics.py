import math

import numpy as np
import pytest
import torch

from protlm.corpus.unigram import Unigram
from protlm.metrics import Breakdown, format_metrics
from protlm.residue_metrics import ResidueMetrics
from protlm.sequence.alphabet import SCORED


def answers(batch: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, 33, generator=chance)
    targets = torch.randint(4, 24, (batch, length), generator=chance)
    scored = torch.rand(batch, length, generator=chance) < 0.3
    targets[~scored & (torch.rand(batch, length, generator=chance) < 0.5)] = -100
    return logits, targets, scored


def test_metrics_equal_a_calculation_by_hand() -> None:
    logits = torch.zeros(1, 3, 33)
    logits[0, 0, 5] = logits[0, 1, 6] = logits[0, 2, 7] = math.log(32.0)  # probability 1/2 of it, 1/64 of others
    metrics = ResidueMetrics()
    metrics.update(logits, torch.tensor([[5, 5, 7]]), torch.tensor([[True, True, False]]))
    assert metrics.compute() == pytest.approx({"accuracy": 0.5, "perplexity": math.sqrt(2 * 64)})


def test_any_division_into_batches_gives_the_same() -> None:
    logits, targets, scored = answers(8, 50)
    whole, parts = ResidueMetrics(), ResidueMetrics()
    whole.update(logits, targets, scored)
    for row in range(8):
        parts.update(logits[row : row + 1], targets[row : row + 1], scored[row : row + 1])
    assert parts.compute() == pytest.approx(whole.compute())
    assert parts.compute()["accuracy"] == whole.compute()["accuracy"]


def test_only_scored_positions_count() -> None:
    logits, targets, scored = answers(4, 30)
    metrics, others = ResidueMetrics(), ResidueMetrics()
    metrics.update(logits, targets, scored)
    logits[~scored] = torch.nan
    others.update(logits, targets, scored)
    assert metrics.compute() == others.compute()


def test_a_perfect_and_a_uniform_model() -> None:
    targets, scored = torch.randint(4, 24, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    sure, even = ResidueMetrics(), ResidueMetrics()
    sure.update(100.0 * torch.nn.functional.one_hot(targets, 33), targets, scored)
    even.update(torch.zeros(2, 9, 33), targets, scored)
    assert sure.compute() == pytest.approx({"accuracy": 1, "perplexity": 1})
    assert even.compute()["perplexity"] == pytest.approx(33)


def test_the_baseline_covers_the_same_residues() -> None:
    logits, targets, scored = answers(4, 30)
    unigram = Unigram(np.arange(33))
    metrics = ResidueMetrics()
    metrics.update(logits, targets, scored)
    row = metrics.with_baseline(unigram)
    of_targets = unigram.probabilities[targets[scored].numpy()]
    assert row["unigram_perplexity"] == pytest.approx(np.exp(-np.log(of_targets).mean()))
    commonest = np.flatnonzero(SCORED).max()
    assert row["unigram_accuracy"] == pytest.approx((targets[scored] == commonest).float().mean().item())
    assert {name: row[name] for name in ("accuracy", "perplexity")} == metrics.compute()


def test_nothing_scored_is_nan_and_reset_clears() -> None:
    logits, targets, scored = answers(2, 9)
    metrics = ResidueMetrics()
    metrics.update(logits, targets, torch.zeros_like(scored))
    assert all(map(math.isnan, metrics.compute().values()))
    metrics.update(logits, targets, scored)
    assert not any(map(math.isnan, metrics.compute().values()))
    metrics.reset()
    metrics.update(logits, targets, torch.zeros_like(scored))
    assert all(map(math.isnan, metrics.compute().values()))


def test_a_diverged_model_has_a_large_but_finite_perplexity() -> None:
    metrics = ResidueMetrics()
    logits = torch.zeros(1, 1, 33)
    logits[..., 4] = 1e6
    metrics.update(logits, torch.tensor([[5]]), torch.tensor([[True]]))
    assert 1e300 < metrics.compute()["perplexity"] < math.inf


def test_the_baseline_over_nothing_is_nan() -> None:
    logits, targets, scored = answers(2, 9)
    metrics = ResidueMetrics()
    metrics.update(logits, targets, torch.zeros_like(scored))
    assert all(map(math.isnan, metrics.with_baseline(Unigram(np.arange(33))).values()))
    nothing = Breakdown(2).over(np.ones((2, 33), dtype=bool), Unigram(np.arange(33)))
    assert nothing.pop("asked") == 0
    assert all(map(math.isnan, nothing.values()))


def broken_down(batches: int = 1) -> tuple[Breakdown, ResidueMetrics, np.ndarray]:
    """Metrics of eight proteins in three groups, the last one empty, from several batches; and the groups."""
    logits, targets, scored = answers(8, 50)
    groups = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    breakdown, metrics = Breakdown(3), ResidueMetrics()
    for rows in np.array_split(np.arange(8), batches):
        breakdown.update(logits[rows], targets[rows], scored[rows], groups[rows, None])
        metrics.update(logits[rows], targets[rows], scored[rows])
    return breakdown, metrics, groups


def test_a_breakdown_over_everything_is_the_metrics() -> None:
    breakdown, metrics, _ = broken_down()
    unigram = Unigram(np.arange(33))
    whole = breakdown.over(np.ones((3, 33), dtype=bool), unigram)
    assert whole.pop("asked") == metrics.targets.sum()
    assert whole == pytest.approx(metrics.with_baseline(unigram))
    assert whole["accuracy"] == metrics.compute()["accuracy"]


def test_a_breakdown_counts_each_protein_in_its_group() -> None:
    breakdown, _, groups = broken_down()
    logits, targets, scored = answers(8, 50)
    unigram = Unigram(np.arange(33))
    for group in (0, 1):
        rows = groups == group
        alone = ResidueMetrics()
        alone.update(logits[rows], targets[rows], scored[rows])
        part = np.zeros((3, 33), dtype=bool)
        part[group] = True
        row = breakdown.over(part, unigram)
        assert row.pop("asked") == scored[rows].sum()
        assert row == pytest.approx(alone.with_baseline(unigram))
    assert breakdown.scored[2].sum() == 0


def test_a_breakdown_counts_each_target_separately() -> None:
    breakdown, _, _ = broken_down()
    logits, targets, scored = answers(8, 50)
    unigram = Unigram(np.arange(33))
    for token in (4, 23):
        alone = ResidueMetrics()
        alone.update(logits, targets, scored & (targets == token))
        part = np.zeros((3, 33), dtype=bool)
        part[:, token] = True
        row = breakdown.over(part, unigram)
        assert row.pop("asked") == alone.targets.sum()
        assert row == pytest.approx(alone.with_baseline(unigram))
        assert breakdown.predicted[token] == (logits.argmax(-1)[scored] == token).sum()
    assert breakdown.predicted.sum() == breakdown.scored.sum()


@pytest.mark.parametrize("batches", [2, 8])
def test_a_breakdown_does_not_depend_on_the_batches(batches: int) -> None:
    (one, *_), (other, *_) = broken_down(), broken_down(batches)
    for name in ("scored", "correct", "predicted"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert one.negative_log == pytest.approx(other.negative_log)


def test_the_table_has_a_line_for_each_split() -> None:
    row = {"accuracy": 0.25, "unigram_accuracy": 0.0901, "perplexity": 9.5, "unigram_perplexity": 18.125}
    _header, test, ood = format_metrics({"test": row, "ood": dict.fromkeys(row, math.nan)}).splitlines()
    assert test.split() == ["test", "25.0", "%", "9.0", "%", "9.50", "18.12"]
    assert ood.split() == ["ood", "nan", "%", "nan", "%", "nan", "nan"]
    assert len(test) == len(ood)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_output_that_is_not_finite_has_infinite_perplexity(odd: float) -> None:
    metrics = ResidueMetrics()
    targets = torch.tensor([[5, 6]])
    for value in (0.0, odd, 0.0, odd):
        logits = torch.zeros(1, 2, 33)
        logits[0, 0, 5] = value
        metrics.update(logits, targets, targets > 0)
    assert metrics.compute()["perplexity"] == math.inf
