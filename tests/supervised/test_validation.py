"""Proteins for validation: families of their own where relatives can be found, otherwise random, which is said."""

import numpy as np
import pytest

from protlm.homology.relatives import find_relatives
from protlm.supervised import validation
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.labels import LabelledSet
from protlm.supervised.partition import Partition, Round, by_column, by_groups, equal_sequences
from protlm.supervised.split import split_of
from protlm.supervised.target import target_of
from tests.supervised.proteins import LETTERS, variants


def silent(done: int, total: int) -> None:
    pass


def families(count: int, members: int, length: int = 60) -> list[str]:
    """Proteins of which each family differs from the next at every site, its members at a tenth."""
    draw = np.random.default_rng(1)
    found = []
    for parent in draw.choice(LETTERS, (count, length)):
        for _ in range(members):
            own = np.where(draw.random(length) < 0.1, draw.choice(LETTERS, length), parent)
            found.append("".join(own) + "AKE"[: len(found) % 3])
    return found


def labelled(sequences: list[str], parts: list[str] | None = None) -> LabelledSet:
    ids = [f"p{number}" for number in range(len(sequences))]
    labels = [("one", "other")[number % 2] for number in range(len(sequences))]
    target = target_of("label", labels, sequences)
    return LabelledSet("labels.csv", ids, sequences, [target], None if parts is None else np.array(parts))


def single(sequences: list[str], parts: list[str] | None = None, **options) -> tuple[Round, str]:
    split = split_of(labelled(sequences, parts), FitOptions(threads=1, **options), silent, single=True)
    return split.partition.rounds[0], split.partition.described


def related(sequences: list[str], part: Round) -> int:
    """Number of validation proteins with a training relative."""
    relatives = find_relatives(sequences, sequences, 1).between(part.valid, part.train)
    return int((relatives.closest(len(sequences)) >= 0.3).sum())


def test_no_relative_of_a_validation_protein_is_for_training():
    sequences = families(12, 5)
    parts = ["test" if number >= 55 else "train" for number in range(60)]
    part, described = single(sequences, parts)
    assert part.valid.sum() == 5
    assert not (part.valid & part.test).any()
    assert related(sequences, part) == 0
    assert described.endswith("; 5 training proteins for validation, 1 held-out cluster of relatives at 30% identity")
    part, described = single(sequences, parts, relatives=False)
    assert related(sequences, part) > 0  # so the first part of this test can fail
    assert described.endswith("6 training proteins for validation, at random, since relatives are not searched")


def test_folds_by_homology_have_validation_families():
    sequences = families(15, 4)
    part, described = single(sequences)
    assert related(sequences, part) == 0
    assert "one of 5 folds of" in described
    assert "held-out cluster" in described


@pytest.mark.parametrize(
    ("given", "options", "why"),
    [
        (families(12, 5), {"split_by": "random"}, "at random"),
        (variants(60)[0], {}, "at random, since all are variants of one protein"),
        (families(1, 60) + families(2, 1)[1:], {}, "at random, since most are relatives of each other"),
    ],
)
def test_otherwise_they_are_random(given, options, why):
    parts = None if options else ["test" if number % 6 == 0 else "train" for number in range(len(given))]
    part, described = single(given, parts, **options)
    assert described.endswith(f"for validation, {why}")
    assert 0.08 <= part.valid.sum() / (part.train | part.valid).sum() <= 0.13


def test_many_residues_are_not_compared(monkeypatch):
    monkeypatch.setattr(validation, "_SEARCHED", 1_000)
    parts = ["test" if number >= 55 else "train" for number in range(60)]
    assert "residues take too long to compare" in single(families(12, 5), parts)[1]


def test_given_clusters_stay_together(tmp_path):
    sequences = families(60, 1)
    path = tmp_path / "clusters.tsv"
    path.write_text("".join(f"p{number // 3 * 3}\tp{number}\n" for number in range(60)))
    part, described = single(sequences, clusters=path)
    assert described.endswith(f"of relatives in {path}")
    clusters = np.arange(60) // 3
    assert not set(clusters[part.valid]) & set(clusters[part.train])


def test_equal_peptides_too_short_for_phmmer_stay_together():
    sequences = families(30, 1, length=8) * 2
    parts = by_column(np.array(["train"] * 50 + ["test"] * 10), equal_sequences(sequences))
    valid, _ = validation.drawn(sequences, parts, None, FitOptions(threads=1), silent)
    train = parts.rounds[0].train & ~valid
    own = np.array(sequences)
    assert valid.sum() >= 4
    assert not set(own[valid]) & set(own[train])


def test_a_fold_given_by_groups_keeps_them_together():
    groups = np.repeat(np.arange(20), 3)
    partition: Partition = by_groups(groups, 5, 0, "")
    valid, described = validation.drawn(families(60, 1), partition, None, FitOptions(relatives=False), silent)
    assert not set(groups[valid]) & set(groups[partition.rounds[0].train & ~valid])
    assert "at random" in described
