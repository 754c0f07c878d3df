import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import pytest

from protlm.batching.sampling import Draws
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.corpus.unigram import Unigram
from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD

SIZES = (300, 7, 45)
"""Proteins of the three corpora; all of the third are for training, and it has no clusters."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    folder, chance = tmp_path_factory.mktemp("corpora"), random.Random(0)
    made = []
    for number, size in enumerate(SIZES):
        fasta, table, path = (folder / f"{number}.{ending}" for ending in ("fasta", "tsv", "h5"))
        names = [f"c{number}p{i}" for i in range(size)]
        fasta.write_text(
            "".join(f">{name}\n{''.join(chance.choices(STANDARD, k=5 + i))}\n" for i, name in enumerate(names))
        )
        # clusters of 1, 2, 3, ... proteins
        heads = [name for i, name in enumerate(names) for _ in range(i + 1)]
        table.write_text("".join(f"{head}\t{name}\n" for head, name in zip(heads, names, strict=False)))
        rule = SplitRule(0.1, 0.2, table, whole_clusters=False) if number < 2 else SplitRule(0, 0)
        prepare_corpus([fasta], path, rule)
        made.append(Corpus(path))
    return made


def epoch(draws: Draws, number: int) -> list[tuple[int, int]]:
    """(pass, protein) in order."""
    passes, proteins = draws(number, 0, draws.size)
    return list(zip(passes.tolist(), proteins.tolist(), strict=True))


def proteins_of(corpora: Sequence[Corpus], split: str) -> list[list[int]]:
    """Numbers of a split's proteins among all, corpus by corpus."""
    starts = np.cumsum([0, *map(len, corpora)])
    return [(start + corpus.members(split)).tolist() for start, corpus in zip(starts, corpora, strict=False)]


def clusters_of(corpora: Sequence[Corpus], split: str) -> list[list[int]]:
    """The same by cluster."""
    return [
        numbers[first:stop]
        for corpus, numbers in zip(corpora, proteins_of(corpora, split), strict=True)
        for first, stop in zip(corpus.groups(split), corpus.groups(split)[1:], strict=False)
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_every_protein_of_the_split_once_an_epoch(corpora, split: str) -> None:
    draws = Draws(Corpora(corpora), split, seed=0)
    expected = sorted(chain.from_iterable(proteins_of(corpora, split)))
    orders = []
    for number in range(4):
        order = epoch(draws, number)
        assert sorted(protein for _, protein in order) == expected
        assert {times for times, _ in order} <= {number}
        orders.append([protein for _, protein in order])
    assert draws.size == len(expected)
    if len(expected) > 5:
        assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"by": "cluster"},
        {"weights": [0.2, 0.8]},
        {"by": "cluster", "weights": [1, 3]},
        {"min_cluster_size": 3},
        {"min_cluster_size": [1, 3], "weights": [1, 2], "by": "cluster"},
    ],
)
def test_any_slice_of_an_epoch_can_be_computed_alone(corpora, options: dict) -> None:
    draws = Draws(Corpora(corpora[:2]), "train", 3, **options)
    for number in (0, 5):
        whole = epoch(draws, number)
        for start in range(0, draws.size + 1, 5):
            passes, proteins = Draws(Corpora(corpora[:2]), "train", 3, **options)(number, start, start + 5)
            assert list(zip(passes.tolist(), proteins.tolist(), strict=True)) == whole[start : start + 5]
    assert epoch(draws, 0) != epoch(Draws(Corpora(corpora[:2]), "train", 4, **options), 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_cluster_once_an_epoch(corpora, split: str) -> None:
    clusters = clusters_of(corpora[:2], split)
    cluster_of = {protein: number for number, cluster in enumerate(clusters) for protein in cluster}
    draws = Draws(Corpora(corpora[:2]), split, 0, by="cluster")
    assert draws.size == len(clusters)
    for number in range(5):
        drawn = epoch(draws, number)
        assert sorted(cluster_of[protein] for _, protein in drawn) == list(range(len(clusters)))
        assert {times for times, _ in drawn} == {number}


def test_every_member_of_a_cluster_is_drawn_equally_often(corpora) -> None:
    epochs = 3000
    draws = Draws(Corpora(corpora[:2]), "train", 1, by="cluster")
    counts = Counter(protein for number in range(epochs) for _, protein in epoch(draws, number))
    clusters = clusters_of(corpora[:2], "train")
    assert max(map(len, clusters)) > 10
    total = freedom = 0.0
    for cluster in clusters:
        expected = epochs / len(cluster)
        total += sum((counts[protein] - expected) ** 2 / expected for protein in cluster)
        freedom += len(cluster) - 1
    assert all(counts[protein] for cluster in clusters for protein in cluster)
    assert abs(total - freedom) < 5 * np.sqrt(2 * freedom)


def test_members_of_a_cluster_are_drawn_independently_across_epochs(corpora) -> None:
    """The member drawn in one epoch does not predict that of the next epoch or of another cluster."""
    draws = Draws(Corpora(corpora[:1]), "train", 1, by="cluster")
    pair = sorted(clusters_of(corpora[:1], "train"), key=len)[-4:-2]
    drawn = [{protein for _, protein in epoch(draws, number)} for number in range(8000)]
    first, second = ([cluster.index(*(set(cluster) & proteins)) for proteins in drawn] for cluster in pair)
    for one, other in ((first[1:], first[:-1]), (first[2:], first[:-2]), (first, second)):
        shape = (len(pair[0]), len(pair[0] if other is not second else pair[1]))
        assert min(shape) > 5
        counts = np.histogram2d(one, other, bins=shape)[0]
        expected = counts.sum() / counts.size
        chi_square, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
        assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("by", ["protein", "cluster"])
def test_small_clusters_are_left_out(corpora, by: str) -> None:
    clusters = clusters_of(corpora[:2], "train")
    number_of = {protein: number for number, cluster in enumerate(clusters) for protein in cluster}
    large = {number for number, cluster in enumerate(clusters) if len(cluster) >= 5}
    assert 3 < len(large) < len(clusters)
    draws = Draws(Corpora(corpora[:2]), "train", 0, by=by, min_cluster_size=5)
    drawn = [protein for _, protein in epoch(draws, 0)]
    assert {number_of[protein] for protein in drawn} == large
    assert draws.size == (len(large) if by == "cluster" else sum(len(clusters[number]) for number in large))
    assert len(set(drawn)) == draws.size
    assert Draws(Corpora(corpora[:2]), "train", 0, by=by, min_cluster_size=1000).size == 0
    with pytest.raises(UserError, match="has no clusters; prepare it again with a cluster table"):
        Draws(Corpora(corpora), "train", 0, by=by, min_cluster_size=2)
    for odd in (0, 1.5, "2", [1, 0], [1, "2"], None):
        with pytest.raises(UserError, match="min_cluster_size .*: expected an integer of at least 1"):
            Draws(Corpora(corpora), "train", 0, by=by, min_cluster_size=odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["protein", "cluster"])
def test_parts_of_one_corpus_by_the_size_of_clusters(corpora, by: str) -> None:
    """Large clusters have the share of their part, in addition to their draws in the part of all clusters."""
    clusters = clusters_of(corpora[:1], "train")
    large = {protein for cluster in clusters if len(cluster) >= 5 for protein in cluster}
    units = [clusters, [cluster for cluster in clusters if len(cluster) >= 5]]
    first, second = map(len, units) if by == "cluster" else (sum(map(len, part)) for part in units)
    draws = Draws(Corpora(corpora[:1]), "train", 0, by=by, min_cluster_size=[1, 5], weights=[1, 1])
    assert draws.size == 2 * round((first + second) / 2)
    drawn = [protein for _, protein in epoch(draws, 0)]
    small = [protein for protein in drawn if protein not in large]
    assert set(drawn) <= {protein for cluster in clusters for protein in cluster}
    assert abs(len(small) - draws.size / 2 * (first - second) / first) <= second  # only whole rounds are exact
    everything = Draws(Corpora(corpora[:1]), "train", 0, by=by, min_cluster_size=[1, 5])
    assert everything.size == first + second
    count = Counter(protein for _, protein in epoch(everything, 0))
    assert len(set(epoch(everything, 0))) == everything.size  # a repeated protein gets a new crop and mask
    if by == "protein":
        assert count == {protein: 1 + (protein in large) for cluster in clusters for protein in cluster}
    alone = Draws(Corpora(corpora[:1]), "train", 0, by=by, min_cluster_size=[1, 5], weights=[0, 1])
    assert {protein for _, protein in epoch(alone, 0)} <= large


def test_each_of_several_corpora_has_its_own_minimum_cluster_size(corpora) -> None:
    draws = Draws(Corpora(corpora[:2]), "train", 0, min_cluster_size=[10_000, 1])
    assert sorted(protein for _, protein in epoch(draws, 0)) == sorted(proteins_of(corpora[:2], "train")[1])
    with pytest.raises(UserError, match="expected one number, or 2, one for each corpus"):
        Draws(Corpora(corpora[:2]), "train", 0, min_cluster_size=[1, 2, 3])
    with pytest.raises(UserError, match="a non-negative number for each number in min_cluster_size"):
        Draws(Corpora(corpora[:1]), "train", 0, min_cluster_size=[1, 2], weights=[1])


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.7, 0.1, 0.2], [5, 90, 5], [0, 1, 3], [1, 0, 0], [1e-9, 1, 0]])
def test_weights_are_the_shares_of_the_draws(corpora, weights: list[float]) -> None:
    draws = Draws(Corpora(corpora), "train", 0, weights=weights)
    members = proteins_of(corpora, "train")
    size = sum(map(len, members))
    for number in (0, 1, 7):
        drawn = [protein for _, protein in epoch(draws, number)]
        for own, weight in zip(members, weights, strict=True):
            count = len([protein for protein in drawn if protein in own])
            if weight == 0:
                assert count == 0
            else:
                assert count >= 1
                assert abs(count - size * weight / sum(weights)) <= 1


@pytest.mark.parametrize("by", ["protein", "cluster"])
@pytest.mark.parametrize("weights", [[1, 1], [0.97, 0.03], [3, 97], [1, 30]])
def test_no_protein_repeats_before_its_corpus_is_exhausted(corpora, by: str, weights: list[float]) -> None:
    """Even if a corpus has more draws in an epoch than proteins, or takes many epochs to be used up."""
    draws = Draws(Corpora(corpora[:2]), "train", 0, by=by, weights=weights)
    drawn = [pair for number in range(40) for pair in epoch(draws, number)]
    assert len(set(drawn)) == len(drawn)
    if by == "cluster":
        units = {protein: number for number, own in enumerate(clusters_of(corpora[:2], "train")) for protein in own}
    else:
        units = {protein: protein for own in proteins_of(corpora[:2], "train") for protein in own}
    for own in proteins_of(corpora[:2], "train"):
        ours = {units[protein] for protein in own}
        by_pass: dict[int, Counter[int]] = {}
        for times, protein in drawn:
            if protein in own:
                by_pass.setdefault(times, Counter())[units[protein]] += 1
        assert sorted(by_pass) == list(range(len(by_pass)))
        assert all(max(counts.values()) == 1 for counts in by_pass.values())
        # all but the last pass are complete
        assert all(set(by_pass[times]) == ours for times in list(range(len(by_pass)))[:-1])


def test_each_pass_through_a_corpus_has_a_new_order(corpora) -> None:
    """So every epoch of a large corpus contains a new part of a small one."""
    draws = Draws(Corpora([corpora[0], corpora[2]]), "train", 0, weights=[0.95, 0.05])
    small = set(proteins_of([corpora[0], corpora[2]], "train")[1])
    parts = [{protein for _, protein in epoch(draws, number) if protein in small} for number in range(200)]
    assert 10 < len(parts[0]) < len(small) / 3
    together = {pair for part in parts for pair in combinations(sorted(part), 2)}
    assert together == set(combinations(sorted(small), 2))


@pytest.mark.parametrize(
    "weights",
    [[1, 1], [1, 1, 1, 1], [], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [1, float("inf"), 1], ["a", 1, 1], 0.5],
)
def test_weights_that_do_not_fit_are_refused(corpora, weights) -> None:
    with pytest.raises(UserError, match="a non-negative number for each corpus .3., not all 0"):
        Draws(Corpora(corpora), "train", 0, weights=weights)


def test_the_share_of_a_corpus_without_the_split_goes_to_the_others(corpora) -> None:
    draws = Draws(Corpora(corpora), "test", 0, weights=[1, 0, 99])  # the third has only a training split
    assert draws.size == len(corpora[0].members("test")) + len(corpora[1].members("test"))
    assert {protein for _, protein in epoch(draws, 0)} <= set(proteins_of(corpora, "test")[0])
    assert Draws(Corpora(corpora), "ood", 0, weights=[1, 1, 1]).size == 0
    assert Draws(Corpora(corpora[2:]), "test", 0).size == 0


def test_missing_clusters_and_unknown_units_are_refused(corpora) -> None:
    with pytest.raises(UserError, match=r"2\.h5: has no clusters; prepare it again with a cluster table"):
        Draws(Corpora(corpora), "train", 0, by="cluster")
    with pytest.raises(UserError, match="'family': expected one of protein, cluster"):
        Draws(Corpora(corpora), "train", 0, by="family")


def test_several_corpora_are_numbered_one_after_the_other(corpora) -> None:
    together = Corpora(corpora)
    assert together.starts.tolist() == [0, 300, 307, 352]
    assert len(together) == 352
    whole = [corpus[i] for corpus in corpora for i in range(len(corpus))]
    for number, tokens in enumerate(whole):
        assert np.array_equal(together[number], tokens)
    mixed = np.random.default_rng(0).permutation(len(together))
    assert together.lengths_of(mixed).tolist() == [len(whole[number]) for number in mixed]
    assert together.lengths_of(mixed[:0]).tolist() == []
    assert all(str(corpus.path) in str(together) for corpus in corpora)


@pytest.mark.parametrize("split", SPLITS)
def test_several_corpora_count_and_predict_as_one(corpora, split: str) -> None:
    together = Corpora(corpora)
    proteins = list(chain.from_iterable(proteins_of(corpora, split)))
    assert together.count(split) == (len(proteins), sum(len(together[number]) for number in proteins))
    counts = sum(np.bincount(together[number], minlength=33) for own in proteins_of(corpora, "train") for number in own)
    assert np.array_equal(together.unigram().probabilities, Unigram(counts).probabilities)
