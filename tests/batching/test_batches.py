import pickle
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from protlm.batching import batches as batching
from protlm.batching.batches import Batches, BlockBatches, Key, Objective, ProteinBatches, collate, length_buckets, pad
from protlm.batching.masking import IGNORE, Masking
from protlm.batching.samplers import EndlessBatches, Plan, Position
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.errors import UserError
from protlm.sequence.alphabet import EOS, MASK, PAD, decode, with_ends
from protlm.sequence.alphabets import PROTEIN

MASKED, NEXT = Objective(False, Masking()), Objective(True, Masking())
KINDS = pytest.mark.parametrize("kind", [ProteinBatches, BlockBatches])
SAMPLING = [{}, {"sample_by": "cluster"}, {"weights": [0.3]}]
NOBODY = np.random.default_rng()


@pytest.fixture(scope="module")
def corpus(corpus_path: Path) -> Corpus:
    return Corpus(corpus_path)


class InMemory:
    """The part of a corpus that batches use: proteins of given lengths, in clusters of three, all in one split."""

    path = "memory"
    alphabet = PROTEIN

    def __init__(self, lengths: list[int], split: str = "train") -> None:
        self.lengths, self.split = np.array(lengths, dtype=np.int64), SPLITS.index(split)
        # counting in base 20, and from another letter in each protein
        self.proteins = [
            np.array([(number // 20 ** (i % 3) + i) % 20 + 4 for i in range(length)], dtype=np.uint8)
            for number, length in enumerate(lengths)
        ]
        self.residue_counts = np.zeros((4, 33), dtype=np.int64)
        self.residue_counts[self.split, 4] = self.lengths.sum()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.proteins[index]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        return self.lengths[indices]

    def members(self, split: str) -> np.ndarray:
        return np.arange(len(self) if SPLITS.index(split) == self.split else 0)

    def groups(self, split: str) -> np.ndarray:
        members = self.members(split)
        return np.append(members[::3], len(members))

    def check_unchanged(self) -> None:
        """Memory cannot be overwritten by others."""


def in_memory(lengths: list[int], split: str = "train") -> Corpora:
    return Corpora([InMemory(lengths, split)])


def make(
    kind: type[Batches], corpus: Corpus | Corpora, split: str = "train", objective: Objective = MASKED, **changes
) -> Batches:
    return kind(corpus, split, objective, **{"max_length": 128, "token_budget": 1_000, "seed": 0, **changes})


def plan(samples: Batches, epoch: int) -> list[Key]:
    return list(samples.plan(epoch))


def keys(sampler: EndlessBatches | Iterator[Key], count: int) -> list[list[list[int]]]:
    return [key.tolist() for key in islice(iter(sampler), count)]


def epochs(samples: Batches, count: int) -> list[list[list[int]]]:
    """The keys of all batches of the first epochs, in order."""
    return [key.tolist() for epoch in range(count) for key in samples.plan(epoch)]


def equal(one: batching.Batch, other: batching.Batch) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)


def stream(samples: Batches, epoch: int) -> np.ndarray:
    """All blocks of an epoch, joined in the order of their numbers."""
    rows = np.concatenate(plan(samples, epoch)).tolist()
    assert [row[0] for row in rows] == [epoch] * len(rows)
    assert sorted(row[1] for row in rows) == list(range(len(rows)))
    blocks = [samples.sequence(row, NOBODY) for row in sorted(rows, key=lambda row: row[1])]
    assert {len(block) for block in blocks[:-1]} <= {samples.max_length}
    return np.concatenate(blocks)


def drawn(samples: Batches, epoch: int) -> np.ndarray:
    """All proteins of an epoch's draws, joined by <eos>."""
    _, proteins = samples.draws(epoch, 0, samples.draws.size)
    return np.concatenate([part for protein in proteins for part in (samples.corpora[int(protein)], [EOS])])


def expected_blocks(samples: Batches, epoch: int) -> np.ndarray:
    """The expected `stream`: without the incomplete block in training, or a single token without targets."""
    whole = drawn(samples, epoch)
    rest = len(whole) % samples.max_length
    return whole[: len(whole) - rest] if samples.split == "train" or rest == 1 else whole


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 200))
def test_buckets_hold_each_sequence_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    buckets = length_buckets(np.array(lengths, dtype=np.int64), budget)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        assert len(bucket) == 1 or len(bucket) * max(lengths[i] for i in bucket) <= budget


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(300, 900))
def test_buckets_are_as_few_as_the_lengths_allow(lengths: list[int], budget: int) -> None:
    """Sequences of similar length share a batch, as many as the budget allows."""
    buckets = [[lengths[i] for i in bucket] for bucket in length_buckets(np.array(lengths), budget)]
    for bucket, following in pairwise(buckets):
        assert min(bucket) >= max(following)
        assert (len(bucket) + 1) * max(bucket) > budget


@pytest.mark.parametrize("size", [1, 3])
def test_batches_mix_no_further_than_a_pool(size: int) -> None:
    """An epoch needs no more memory than a pool, and is shuffled like its draws."""
    lengths = np.random.default_rng(0).integers(1, 30, 2_000)
    samples = make(ProteinBatches, in_memory(lengths.tolist()), max_length=40, token_budget=100)
    with patch.object(batching, "POOL", size):
        batches = plan(samples, 0)
    place = np.argsort(samples.draws(0, 0, 2_000)[1])
    for key in batches:
        places = place[key[:, 1]]
        assert np.ptp(places) < size * 100 / (samples.mean_length + 2) + 1
    firsts = [place[key[:, 1]].min() for key in batches]
    assert firsts != sorted(firsts) or size == 1


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_batches_are_not_ordered_by_length(corpus: Corpus, epoch: int) -> None:
    longest = np.array([corpus.lengths[key[:, 1]].max() for key in make(ProteinBatches, corpus).plan(epoch)])
    assert len(longest) > 200
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 4 / np.sqrt(len(longest))
    assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 4 / np.sqrt(len(longest))
    with patch.object(batching, "POOL", 1000):
        blocks = np.concatenate(plan(make(BlockBatches, corpus), epoch))[:, 1]
    assert abs(np.corrcoef(blocks, np.arange(len(blocks)))[0, 1]) < 4 / np.sqrt(len(blocks))


def test_little_padding_on_the_sample(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, max_length=1024, token_budget=16_384)
    for epoch in range(3):
        lengths = [np.minimum(corpus.lengths[key[:, 1]] + 2, 1024) for key in samples.plan(epoch)]
        computed = sum(row.max() * len(row) for row in lengths)
        assert 1 - sum(row.sum() for row in lengths) / computed < 0.06


@pytest.mark.parametrize("pool", [1, 256])
@pytest.mark.parametrize("split", ["train", "valid", "test", "ood"])
def test_every_protein_once_an_epoch_within_the_budget(corpus: Corpus, split: str, pool: int) -> None:
    samples = make(ProteinBatches, corpus, split)
    with patch.object(batching, "POOL", pool):
        for epoch in range(3):
            batches = plan(samples, epoch)
            rows = np.concatenate(batches)
            assert sorted(rows[:, 1].tolist()) == sorted(corpus.members(split).tolist())
            assert set(rows[:, 0].tolist()) == {epoch}
            for key in batches:
                assert samples[key].inputs.numel() <= samples.token_budget


@KINDS
def test_epochs_and_seeds_differ_but_are_always_the_same(corpus: Corpus, kind: type[Batches]) -> None:
    def content(seed: int, epoch: int) -> list[int]:
        samples = make(kind, corpus, seed=seed)
        return samples[plan(samples, epoch)[0]].inputs.flatten().tolist()

    assert content(0, 0) == content(0, 0)
    assert len({tuple(content(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@KINDS
@pytest.mark.parametrize("sampling", SAMPLING)
def test_the_keys_of_an_epoch_depend_on_seed_and_epoch_only(corpus: Corpus, kind: type[Batches], sampling) -> None:
    with patch.object(batching, "POOL", 2):
        used = make(kind, corpus, **sampling)
        for epoch in (2, 0, 1, 1):
            for key in islice(used.plan(epoch), 5):
                used[key]
        for epoch in (1, 0, 2):
            fresh = make(kind, corpus, **sampling)
            assert list(map(np.ndarray.tolist, used.plan(epoch))) == list(map(np.ndarray.tolist, fresh.plan(epoch)))


def test_crops_and_masks_are_new_in_every_epoch(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus)
    members = corpus.members("train")
    lengths = corpus.lengths[members] + 2
    for index in (members[lengths <= 128][0], members[lengths > 300][0]):
        inputs = {tuple(samples[np.array([[epoch, index]])].inputs[0].tolist()) for epoch in range(5)}
        assert len(inputs) == 5


def test_masks_of_neighbouring_samples_and_epochs_are_independent() -> None:
    """Each residue of a repeated protein is masked independently with the same probability."""
    corpora = in_memory([64] * 40)
    samples = make(ProteinBatches, corpora, objective=MASKED.for_evaluation(), token_budget=10_000)
    masked = np.array(
        [
            (samples[np.array([[epoch, index] for index in range(40)])].inputs == MASK).numpy()[:, 1:65]
            for epoch in range(50)
        ]
    ).astype(float)  # (epoch, protein, position)
    assert masked.mean() == pytest.approx(0.15, abs=0.004)
    assert np.abs(masked.mean((0, 1)) - 0.15).max() < 5 * np.sqrt(0.1275 / 2000)
    centred = masked - masked.mean()
    for other in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred[:, 2:] * centred[:, :-2]):
        assert abs(other.mean()) < 5 * 0.1275 / np.sqrt(other.size)


@KINDS
@pytest.mark.parametrize("objective", [MASKED, NEXT])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_sample_is_the_same_in_any_batch(
    corpus: Corpus, kind: type[Batches], objective: Objective, sampling: dict
) -> None:
    samples = make(kind, corpus, objective=objective, **sampling)
    key = plan(samples, 1)[0]
    together = samples[key[::-1]]
    other = make(kind, corpus, objective=objective, **sampling)
    other[plan(other, 0)[-1]]  # another worker has made other batches before
    for row, alone in enumerate(other[key[i : i + 1]] for i in reversed(range(len(key)))):
        length = alone.inputs.shape[1]
        for part, whole in zip(alone[:4], together[:4], strict=True):
            assert torch.equal(part[0], whole[row, :length])
        assert (together.inputs[row, length:] == PAD).all()
        assert (together.targets[row, length:] == IGNORE).all()
        assert not together.key_mask[row, length:].any()
        assert not together.scored[row, length:].any()
        assert together.key_mask[row, :length].all()


@KINDS
def test_samples_do_not_depend_on_pools_or_budgets(corpus: Corpus, kind: type[Batches]) -> None:
    """The targets of a sequence do not depend on how batches are formed."""

    def rows(pool: int, token_budget: int) -> dict[tuple[int, ...], list[int]]:
        samples = make(kind, corpus, "valid", token_budget=token_budget)
        with patch.object(batching, "POOL", pool):
            batches = [(key, samples[key].inputs) for key in samples.plan(0)]
        return {
            tuple(row[:2]): [token for token in inputs if token != PAD]
            for key, batch in batches
            for row, inputs in zip(key.tolist(), batch.tolist(), strict=True)
        }

    first = rows(256, 1_000)
    assert rows(1, 1_000) == first
    assert rows(2, 300) == first


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_make_the_batches_that_the_main_process_makes(corpus: Corpus, kind: type[Batches], method: str) -> None:
    samples = make(kind, corpus, "valid", token_budget=4_000)
    options = {"batch_size": None, "sampler": Plan(samples)}
    loader = DataLoader(samples, num_workers=2, multiprocessing_context=method, **options)
    pairs = list(zip(DataLoader(samples, **options), loader, strict=True))
    assert len(pairs) == len(plan(samples, 0)) > 1
    assert all(equal(one, other) for one, other in pairs)


@KINDS
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_pickled_dataset_is_the_same_and_does_not_carry_the_corpus(
    corpus: Corpus, kind: type[Batches], sampling: dict
) -> None:
    samples = make(kind, corpus, **sampling)
    key = plan(samples, 0)[0]
    before = samples[key]
    pickled = pickle.dumps(samples)
    again = pickle.loads(pickled)
    assert list(map(np.ndarray.tolist, again.plan(1))) == list(map(np.ndarray.tolist, samples.plan(1)))
    assert equal(again[key], before)
    assert equal(again[key[:1]], samples[key[:1]])
    assert len(pickled) < corpus.members("train").nbytes / 2


def test_crops_are_contiguous_residues_from_anywhere(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, objective=NEXT)
    index = int(corpus.members("train")[corpus.lengths[corpus.members("train")].argmax()])
    whole = decode(with_ends(corpus[index]))
    starts = set()
    for epoch in range(30):
        crop = samples.sequence((epoch, index), np.random.default_rng(epoch))
        assert len(crop) == 128
        assert decode(crop) in whole
        starts.add(whole.index(decode(crop)))
    assert len(starts) > 15


def test_short_proteins_are_whole(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus)
    index = int(corpus.members("train")[corpus.lengths[corpus.members("train")].argmin()])
    assert (samples.sequence((0, index), NOBODY) == with_ends(corpus[index])).all()


def test_crops_cover_every_position_of_a_long_protein(write_fasta, tmp_path: Path) -> None:
    prepare_corpus([write_fasta([("a", "LAGVSERTID")])], tmp_path / "c.h5", SplitRule(0, 0))
    samples = make(ProteinBatches, Corpus(tmp_path / "c.h5"), objective=NEXT, max_length=8, token_budget=8)
    crops = {decode(samples.sequence((0, 0), np.random.default_rng(seed))) for seed in range(100)}
    assert crops == {"<cls>LAGVSER", "LAGVSERT", "AGVSERTI", "GVSERTID", "VSERTID<eos>"}


@pytest.mark.parametrize(("max_length", "token_budget"), [(2, 100), (101, 100)])
@KINDS
def test_lengths_that_fit_no_batch_are_refused(
    corpus: Corpus, kind: type[Batches], max_length: int, token_budget: int
) -> None:
    with pytest.raises(UserError, match="expected 3 to .*; for longer sequences, raise token_budget"):
        make(kind, corpus, max_length=max_length, token_budget=token_budget)


@pytest.mark.parametrize("pool", [1, 256])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("max_length", [19, 100, 777])
def test_blocks_are_all_proteins_joined_by_eos(corpus: Corpus, split: str, max_length: int, pool: int) -> None:
    samples = make(BlockBatches, corpus, split, max_length=max_length)
    members = corpus.members(split).tolist()
    expected = int((corpus.lengths[members] + 1).sum())
    proteins = Counter(decode(corpus[i]) for i in members)
    orders = []
    for epoch in (0, 1):
        with patch.object(batching, "POOL", pool):
            tokens = stream(samples, epoch)
        if split == "train":
            assert len(tokens) == expected // max_length * max_length
        else:
            assert len(tokens) == expected - (expected % max_length == 1)
        *whole, rest = "".join(decode(tokens)).split("<eos>")
        assert not Counter(whole) - proteins
        left = proteins - Counter(whole)
        if split == "train":
            assert sum(len(protein) + 1 for protein in left.elements()) - len(rest) == expected - len(tokens)
            assert any(protein.startswith(rest) for protein in left) or not rest
        else:
            assert not left
        orders.append(whole)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("max_length", [3, 4, 5, 7, 8, 16, 33, 64, 231, 232, 500, 1000])
def test_pools_of_blocks_leave_no_gap_and_no_overlap(corpus: Corpus, max_length: int) -> None:
    for pool in (1, 2):
        samples = make(BlockBatches, corpus, "valid", max_length=max_length, token_budget=3 * max_length)
        with patch.object(batching, "POOL", pool):
            assert np.array_equal(stream(samples, 0), expected_blocks(samples, 0))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(3, 30),
    st.integers(1, 3),
    st.sampled_from([1, 2, 5, 256]),
    st.sampled_from(["train", "valid"]),
    st.sampled_from(SAMPLING),
    st.integers(0, 2),
)
def test_blocks_of_any_proteins_in_any_pools_are_the_draws_joined(
    lengths: list[int], max_length: int, size: int, pool: int, split: str, sampling: dict, epoch: int
) -> None:
    corpora = in_memory(lengths, split)
    if split == "train" and sum(lengths) + len(lengths) < max_length:
        lengths = [max_length]
        corpora = in_memory(lengths, split)
    samples = make(BlockBatches, corpora, split, max_length=max_length, token_budget=size * max_length, **sampling)
    with patch.object(batching, "POOL", pool):
        batches = plan(samples, epoch)
        expected = expected_blocks(samples, epoch)
        assert np.array_equal(stream(samples, epoch) if batches else np.zeros(0), expected)
        pools = list(samples.pools(epoch, samples.first))
        for number, (cursor, _) in enumerate(pools):
            after = list(samples.pools(epoch, cursor))
            assert [place for place, _ in after] == [place for place, _ in pools[number:]]
            again = [key.tolist() for _, keys in after for key in keys]
            assert again == [key.tolist() for _, keys in pools[number:] for key in keys]
    for _, keys in pools:
        assert 1 <= len(keys) <= pool
        assert all(len(key) == size for key in keys[:-1])
        assert 1 <= len(keys[-1]) <= size


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=60),
    st.integers(3, 50),
    st.integers(1, 4),
    st.sampled_from([1, 2, 256]),
    st.sampled_from(SAMPLING),
    st.integers(0, 2),
)
def test_batches_of_any_proteins_in_any_pools_are_the_draws(
    lengths: list[int], max_length: int, size: int, pool: int, sampling: dict, epoch: int
) -> None:
    samples = make(
        ProteinBatches, in_memory(lengths), max_length=max_length, token_budget=size * max_length, **sampling
    )
    with patch.object(batching, "POOL", pool):
        pools = list(samples.pools(epoch, samples.first))
        for number, (cursor, _) in enumerate(pools):
            after = [key.tolist() for _, keys in samples.pools(epoch, cursor) for key in keys]
            assert after == [key.tolist() for _, keys in pools[number:] for key in keys]
    rows = [tuple(row) for _, keys in pools for key in keys for row in key.tolist()]
    passes, proteins = samples.draws(epoch, 0, samples.draws.size)
    assert sorted(rows) == sorted(zip(passes.tolist(), proteins.tolist(), strict=True))
    for _, keys in pools:
        assert keys
        for key in keys:
            longest = min(max_length, max(lengths[protein] + 2 for protein in key[:, 1]))
            assert len(key) * longest <= size * max_length


@pytest.mark.parametrize("sampling", [{"sample_by": "cluster"}, {"weights": [0.1, 0.9]}])
def test_blocks_follow_draws_by_cluster_and_by_weight(corpus: Corpus, sampling: dict) -> None:
    corpora = Corpora([corpus, corpus]) if "weights" in sampling else Corpora([corpus])
    samples = make(BlockBatches, corpora, max_length=200, token_budget=400, **sampling)
    with patch.object(batching, "POOL", 3):
        streams = [stream(samples, epoch) for epoch in range(3)]
        for epoch in range(3):
            assert np.array_equal(streams[epoch], expected_blocks(samples, epoch))
    assert not np.array_equal(streams[0][:1000], streams[1][:1000])


def test_blocks_do_not_depend_on_the_order_of_access(corpus: Corpus) -> None:
    samples = make(BlockBatches, corpus)
    rows = {epoch: np.concatenate(plan(samples, epoch)).tolist() for epoch in (0, 1, 2)}
    ask = [rows[epoch][place] for epoch, place in [(0, 3), (1, 0), (0, 0), (2, 1), (0, 3), (1, 0)]]
    got = [samples.sequence(row, NOBODY).tolist() for row in ask]
    assert got == [make(BlockBatches, corpus).sequence(row, NOBODY).tolist() for row in ask]
    assert got[0] == got[4] != got[1] == got[5]


def test_the_last_block_may_be_anywhere_in_its_pool_and_keeps_its_length() -> None:
    samples = make(BlockBatches, in_memory([10] * 10, "valid"), "valid", max_length=20, token_budget=20)
    lengths = [samples[key].inputs.shape[1] for key in samples.plan(0)]
    assert sorted(lengths) == [10, 20, 20, 20, 20, 20]


def test_block_batches_keep_to_the_budget(corpus: Corpus) -> None:
    samples = make(BlockBatches, corpus, max_length=300)
    batches = plan(samples, 0)
    assert {len(key) for key in batches[:-1]} == {3}
    assert samples[batches[0]].inputs.shape == (3, 300)
    assert (samples[batches[0]].inputs == EOS).any()


@pytest.mark.parametrize("objective", [MASKED, NEXT])
def test_separate_numbers_the_proteins_of_a_block(corpus: Corpus, objective: Objective) -> None:
    apart = make(BlockBatches, corpus, "valid", objective, max_length=700, token_budget=2_100, separate=True)
    joined = make(BlockBatches, corpus, "valid", objective, max_length=700, token_budget=2_100)
    for key in apart.plan(0):
        batch = apart[key]
        assert equal(batch._replace(segments=None), joined[key])
        for row, inputs, segments in zip(key.tolist(), batch.inputs, batch.segments, strict=True):
            tokens = apart.sequence(row, NOBODY)
            tokens = tokens[:-1] if objective.causal else tokens
            ends = np.flatnonzero(tokens == EOS) + 1
            parts = np.split(np.arange(len(tokens)), ends[ends < len(tokens)])
            assert len(parts) > 1
            for number, part in enumerate(parts):
                assert (segments[part] == number).all()
            padding = segments[len(tokens) :]
            assert (inputs[len(tokens) :] == PAD).all()
            assert (padding == padding[:1]).all()
            assert (padding >= len(parts) - 1).all()


def test_too_few_residues_for_a_block_are_refused_in_training_only(write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKTAYIAK"), ("b", "MKTAYIAR")])
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, held_out=frozenset("b")))
    corpus = Corpus(tmp_path / "c.h5")
    with pytest.raises(UserError, match="9 tokens, not enough for a block of 10"):
        make(BlockBatches, corpus, max_length=10)
    assert len(plan(make(BlockBatches, corpus, max_length=9), 0)) == 1
    assert len(plan(make(BlockBatches, corpus, "ood", max_length=10), 0)) == 1


@KINDS
def test_an_empty_split_has_no_batches(kind: type[Batches]) -> None:
    samples = make(kind, in_memory([50] * 9, "train"), "valid")
    assert plan(samples, 0) == []
    assert len(Plan(samples)) == 0
    with pytest.raises(UserError, match="memory: no batch in the valid split"):
        next(iter(EndlessBatches(samples)))


@KINDS
@pytest.mark.parametrize("pool", [1, 256])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_get_disjoint_and_equally_many_batches(
    corpus: Corpus, kind: type[Batches], pool: int, ranks: int
) -> None:
    samples = make(kind, corpus, "valid")
    with patch.object(batching, "POOL", pool):
        expected = epochs(samples, 5)
        share = len(expected) // ranks
        got = [keys(EndlessBatches(samples, rank, ranks), share) for rank in range(ranks)]
    assert [rank[number] for number in range(share) for rank in got] == expected[: share * ranks]
    for epoch in (0, 4):  # within an epoch no two batches share a sample
        rows = [tuple(row) for key in samples.plan(epoch) for row in key.tolist()]
        assert len(set(rows)) == len(rows)


def test_more_ranks_than_batches_share_several_epochs(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, token_budget=10**9)
    assert len(plan(samples, 0)) == 1
    first, second = (keys(EndlessBatches(samples, rank, 2), 3) for rank in range(2))
    assert [key[0][0] for key in first] == [0, 2, 4]
    assert [key[0][0] for key in second] == [1, 3, 5]


@KINDS
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_resumed_run_gets_exactly_the_remaining_batches(corpus: Corpus, kind: type[Batches], ranks: int) -> None:
    samples = make(kind, corpus, token_budget=8_000)
    size = len(plan(samples, 0)) // ranks
    all_keys = keys(EndlessBatches(samples, 1 % ranks, ranks), 5 * size)
    for consumed in (0, 1, size - 1, size, size + 1, 3 * size):
        stopped = EndlessBatches(samples, 1 % ranks, ranks)
        keys(stopped, consumed + 2)  # workers prefetch beyond the batches trained on
        start = stopped.position(consumed)
        resumed = EndlessBatches(samples, 1 % ranks, ranks, start)
        again = keys(resumed, size + 3)
        assert again == all_keys[consumed : consumed + size + 3]
        # stopped a second time
        third = EndlessBatches(samples, 1 % ranks, ranks, resumed.position(size))
        assert keys(third, 2) == all_keys[consumed + size : consumed + size + 2]


def run_of(samples: Batches, ranks: int, consumed: int, ahead: int, start: Position | None) -> tuple[list, Position]:
    """The batches that a run on several ranks trained on, in order, and its position, the same on all ranks."""
    samplers = [EndlessBatches(samples, rank, ranks, start) for rank in range(ranks)]
    seen = [keys(sampler, consumed + ahead)[:consumed] for sampler in samplers]
    places = [sampler.position(consumed) for sampler in samplers]
    following = [keys(EndlessBatches(samples, start=place), 2) for place in places]
    assert all(batches == following[0] for batches in following)
    return [rank[number] for number in range(consumed) for rank in seen], places[0]


@given(
    st.sampled_from([ProteinBatches, BlockBatches]),
    st.sampled_from(SAMPLING),
    st.sampled_from([1, 2, 3]),
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 7]), st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=4),
)
def test_runs_resumed_on_any_number_of_ranks_see_every_batch_once(
    kind: type[Batches], sampling: dict, pool: int, runs: list[tuple[int, int, int]]
) -> None:
    """Each run: number of ranks, batches per rank, and batches prefetched by its workers."""
    lengths = np.random.default_rng(1).integers(1, 40, 30).tolist()
    samples = make(kind, in_memory(lengths), max_length=30, token_budget=60, **sampling)
    seen: list[list[list[int]]] = []
    place: Position | None = None
    with patch.object(batching, "POOL", pool):
        for ranks, consumed, ahead in runs:
            more, place = run_of(samples, ranks, consumed, ahead, place)
            seen += more
        order = keys(EndlessBatches(samples), len(seen) + 3)
        assert seen == order[: len(seen)]
        assert keys(EndlessBatches(samples, start=place), 3) == order[len(seen) :]


@KINDS
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_position_after_every_step_is_right(kind: type[Batches], ranks: int) -> None:
    """As if a checkpoint were written after each step while workers prefetch."""
    samples = make(kind, in_memory([20, 7, 30, 3, 11, 25, 9] * 3), max_length=20, token_budget=40)
    with patch.object(batching, "POOL", 2):
        order = keys(EndlessBatches(samples), 80 + ranks)
        first = len(plan(samples, 0))
        assert 4 < first < 20
        sampler = EndlessBatches(samples, ranks - 1, ranks)
        running = iter(sampler)
        for _ in range(4):
            next(running)
        for consumed in range(80 // ranks):
            for _ in range(2):  # a position can be computed twice
                place = sampler.position(consumed)
                assert keys(EndlessBatches(samples, start=place), 2)[0] == order[consumed * ranks]
            assert place[2] < len(dict(samples.pools(*place[:2]))[place[1]])  # within its pool, not beyond
            next(running)
        assert place[0] > 1


def test_a_position_is_known_before_the_first_batch_and_survives_repeated_stops(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, "valid")
    place: Position = (3, (0,), 2)
    for _ in range(3):
        place = EndlessBatches(samples, start=place).position(0)
    assert place == (3, (0,), 2)
    assert keys(EndlessBatches(samples, start=place), 1) == [plan(samples, 3)[2].tolist()]
    assert EndlessBatches(samples).position(0) == (0, (0,), 0)


@KINDS
def test_the_sequence_of_batches_can_be_iterated_again(corpus: Corpus, kind: type[Batches]) -> None:
    samples = make(kind, corpus, "valid")
    with patch.object(batching, "POOL", 1):
        sampler = EndlessBatches(samples)
        first = keys(sampler, 60)
        sampler.position(50)
        assert keys(sampler, 60) == first
        for consumed in (0, 1, 30, 55):
            assert keys(EndlessBatches(samples, start=sampler.position(consumed)), 1)[0] == first[consumed]


def test_a_resumed_run_does_not_plan_earlier_pools(corpus: Corpus) -> None:
    samples = make(BlockBatches, corpus)
    requested = []
    with patch.object(batching, "POOL", 1):
        pools = [place for place, _ in samples.pools(0, samples.first)]
        original = samples.draws

        class Listening:
            size = original.size

            def __call__(self, epoch: int, start: int, stop: int):
                requested.append((epoch, start))
                return original(epoch, start, stop)

        samples.draws = Listening()
        next(iter(EndlessBatches(samples, start=(0, pools[-2], 0))))
    assert requested
    assert min(requested) >= (0, pools[-2][1])


@KINDS
@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
def test_plans_of_the_ranks_are_one_epoch_together(corpus: Corpus, kind: type[Batches], ranks: int) -> None:
    samples = make(kind, corpus, "valid", token_budget=4_000)
    plans = [Plan(samples, rank, ranks) for rank in range(ranks)]
    (length,) = {len(own) for own in plans} & {len(list(own)) for own in plans}  # for models that compute together
    keys = [key for own in plans for key in own]
    assert sorted(key.tolist() for key in keys if key[0, 0] >= 0) == sorted(epochs(samples, 1))
    spare = [key for key in keys if key[0, 0] < 0]
    assert len(spare) == length * ranks - len(epochs(samples, 1)) < ranks
    for batch in map(samples.__getitem__, spare[:1]):
        assert batch.key_mask.any()
        assert not batch.scored.any()
        assert (batch.targets == IGNORE).all()


def test_collate_marks_padding() -> None:
    rows = [(np.arange(4, 4 + n), np.arange(4, 4 + n), np.ones(n, dtype=bool)) for n in (2, 3)]
    batch = collate(rows)
    assert batch.inputs.tolist() == [[4, 5, PAD], [4, 5, 6]]
    assert batch.targets.tolist() == [[4, 5, IGNORE], [4, 5, 6]]
    assert batch.key_mask.tolist() == batch.scored.tolist() == [[True, True, False], [True] * 3]


@given(st.lists(st.lists(st.integers(0, 32), max_size=9), min_size=1))
def test_pad_keeps_the_rows(rows: list[list[int]]) -> None:
    padded = pad([np.array(row, dtype=np.uint8) for row in rows], PAD)
    assert padded.shape == (len(rows), max(map(len, rows)))
    for row, values in zip(padded.tolist(), rows, strict=True):
        assert row == values + [PAD] * (len(row) - len(values))
