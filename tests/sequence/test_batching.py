from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence.alphabet import EOS, PAD, decode, with_ends
from protlm.sequence.batching import (
    Batches,
    BlockBatches,
    EndlessBatches,
    ProteinBatches,
    Question,
    collate,
    length_buckets,
    pad,
)
from protlm.sequence.corpus import Corpus, prepare_corpus
from protlm.sequence.masking import IGNORE, Masking
from protlm.sequence.splits import SplitRule

MASKED, NEXT = Question(False, Masking()), Question(True, Masking())
KINDS = pytest.mark.parametrize("kind", [ProteinBatches, BlockBatches])


@pytest.fixture(scope="module")
def corpus(corpus_path: Path) -> Corpus:
    return Corpus(corpus_path)


def make(kind: type[Batches], corpus: Corpus, split: str = "train", question: Question = MASKED, **changes) -> Batches:
    return kind(corpus, split, question, **{"max_length": 128, "token_budget": 1_000, "seed": 0, **changes})


def keys(sampler: EndlessBatches, count: int) -> list[tuple[int, list[int]]]:
    return [(epoch, indices.tolist()) for epoch, indices in islice(iter(sampler), count)]


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 200))
def test_buckets_hold_each_sequence_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    buckets = length_buckets(np.array(lengths, dtype=np.int64), budget)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        assert len(bucket) == 1 or len(bucket) * max(lengths[i] for i in bucket) <= budget


def test_buckets_mix_no_further_than_a_pool() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 10_000)
    for bucket in length_buckets(lengths, 100):
        assert lengths[bucket.min() : bucket.max() + 1].sum() <= 64 * 100 + 30


def test_little_padding_on_the_sample(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, max_length=1024, token_budget=16_384)
    for epoch in range(3):
        lengths = [np.minimum(corpus.lengths[indices] + 2, 1024) for indices in samples.plan(epoch)]
        computed = sum(row.max() * len(row) for row in lengths)
        assert 1 - sum(row.sum() for row in lengths) / computed < 0.1


@pytest.mark.parametrize("split", ["train", "valid", "test", "ood"])
def test_every_protein_once_an_epoch_within_the_budget(corpus: Corpus, split: str) -> None:
    samples = make(ProteinBatches, corpus, split)
    for epoch in range(3):
        plan = samples.plan(epoch)
        assert sorted(np.concatenate(plan)) == corpus.members(split).tolist()
        for indices in plan:
            assert samples[epoch, indices].inputs.numel() <= samples.token_budget


@KINDS
def test_epochs_and_seeds_differ_but_are_always_the_same(corpus: Corpus, kind: type[Batches]) -> None:
    def content(seed: int, epoch: int) -> list[int]:
        samples = make(kind, corpus, seed=seed)
        return samples[epoch, samples.plan(epoch)[0]].inputs.flatten().tolist()

    assert content(0, 0) == content(0, 0)
    assert len({tuple(content(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_crops_and_masks_are_new_in_every_epoch(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus)
    lengths = corpus.lengths[samples.members] + 2
    for index in (samples.members[lengths <= 128][0], samples.members[lengths > 300][0]):
        inputs = {tuple(samples[epoch, np.array([index])].inputs[0].tolist()) for epoch in range(5)}
        assert len(inputs) == 5


@KINDS
@pytest.mark.parametrize("question", [MASKED, NEXT])
def test_a_sample_is_the_same_in_any_batch(corpus: Corpus, kind: type[Batches], question: Question) -> None:
    samples = make(kind, corpus, question=question)
    indices = samples.plan(1)[0]
    together = samples[1, indices[::-1]]
    make(kind, corpus, question=question)[0, indices]  # another worker has been elsewhere
    for row, index in enumerate(indices[::-1]):
        alone = samples[1, np.array([index])]
        length = alone.inputs.shape[1]
        for part, whole in zip(alone, together, strict=True):
            assert torch.equal(part[0], whole[row, :length])
        assert (together.inputs[row, length:] == PAD).all()
        assert (together.targets[row, length:] == IGNORE).all()
        assert not together.key_mask[row, length:].any()
        assert not together.scored[row, length:].any()
        assert together.key_mask[row, :length].all()


def test_crops_are_contiguous_residues_from_anywhere(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, question=NEXT)
    index = corpus.members("train")[corpus.lengths[corpus.members("train")].argmax()]
    whole = decode(with_ends(corpus[index]))
    starts = set()
    for epoch in range(30):
        crop = samples.sequence(epoch, index, np.random.default_rng(epoch))
        assert len(crop) == 128
        assert decode(crop) in whole
        starts.add(whole.index(decode(crop)))
    assert len(starts) > 15


def test_short_proteins_are_whole(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus)
    index = corpus.members("train")[corpus.lengths[corpus.members("train")].argmin()]
    assert (samples.sequence(0, index, np.random.default_rng()) == with_ends(corpus[index])).all()


def test_every_place_of_a_long_protein_is_seen(write_fasta, tmp_path: Path) -> None:
    prepare_corpus([write_fasta([("a", "LAGVSERTID")])], tmp_path / "c.h5", SplitRule(0, 0))
    samples = make(ProteinBatches, Corpus(tmp_path / "c.h5"), question=NEXT, max_length=8, token_budget=8)
    crops = {decode(samples.sequence(0, 0, np.random.default_rng(seed))) for seed in range(100)}
    assert crops == {"<cls>LAGVSER", "LAGVSERT", "AGVSERTI", "GVSERTID", "VSERTID<eos>"}


@pytest.mark.parametrize(("max_length", "token_budget"), [(2, 100), (101, 100)])
@KINDS
def test_lengths_that_fit_no_batch_are_refused(
    corpus: Corpus, kind: type[Batches], max_length: int, token_budget: int
) -> None:
    with pytest.raises(UserError, match="expected 3 <= max_length <= token_budget"):
        make(kind, corpus, max_length=max_length, token_budget=token_budget)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("max_length", [19, 100, 777])
def test_blocks_are_all_proteins_joined_by_eos(corpus: Corpus, split: str, max_length: int) -> None:
    samples = make(BlockBatches, corpus, split, max_length=max_length)
    orders = []
    for epoch in (0, 1):
        blocks = [
            samples.sequence(epoch, i, np.random.default_rng()) for i in sorted(np.concatenate(samples.plan(epoch)))
        ]
        assert {len(block) for block in blocks[:-1]} == {max_length}
        stream = np.concatenate(blocks)
        expected = int((corpus.lengths[samples.members] + 1).sum())
        if split == "train":
            assert len(stream) == expected // max_length * max_length
        else:
            assert len(stream) == expected - (expected % max_length == 1)
        *whole, rest = "".join(decode(stream)).split("<eos>")
        proteins = Counter(decode(corpus[i]) for i in samples.members)
        assert not Counter(whole) - proteins
        left = proteins - Counter(whole)
        if split == "train":
            assert sum(len(protein) + 1 for protein in left.elements()) - len(rest) == expected - len(stream)
            assert any(protein.startswith(rest) for protein in left) or not rest
        else:
            assert not left
        orders.append(whole)
    assert orders[0] != orders[1]


def test_blocks_are_the_same_in_whatever_order_they_are_asked_for(corpus: Corpus) -> None:
    ask = [(0, 3), (1, 0), (0, 0), (2, 1), (0, 3), (1, 0)]
    samples, nobody = make(BlockBatches, corpus), np.random.default_rng()
    got = [samples.sequence(epoch, index, nobody).tolist() for epoch, index in ask]
    assert got == [make(BlockBatches, corpus).sequence(epoch, index, nobody).tolist() for epoch, index in ask]


def test_block_batches_keep_to_the_budget(corpus: Corpus) -> None:
    samples = make(BlockBatches, corpus, max_length=300)
    plan = samples.plan(0)
    assert {len(indices) for indices in plan[:-1]} == {3}
    assert samples[0, plan[0]].inputs.shape == (3, 300)
    assert (samples[0, plan[0]].inputs == EOS).any()


def test_too_few_residues_for_a_block_are_refused_in_training_only(write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKTAYIAK"), ("b", "MKTAYIAR")])
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, held_out=frozenset("b")))
    corpus = Corpus(tmp_path / "c.h5")
    with pytest.raises(UserError, match="9 tokens, not enough for one block of 10"):
        make(BlockBatches, corpus, max_length=10)
    assert len(make(BlockBatches, corpus, max_length=9).plan(0)) == 1
    assert len(make(BlockBatches, corpus, "ood", max_length=10).plan(0)) == 1


@KINDS
def test_ranks_are_disjoint_and_equally_many(corpus: Corpus, kind: type[Batches]) -> None:
    samples = make(kind, corpus)
    plan = [indices.tolist() for indices in samples.plan(0)]
    for ranks in (1, 2, 3, 7):
        share = len(plan) // ranks
        got = [keys(EndlessBatches(samples, rank, ranks), share + 1) for rank in range(ranks)]
        assert all([epoch for epoch, _ in rank] == [0] * share + [1] for rank in got)
        seen = [indices for rank in got for _, indices in rank[:-1]]
        assert len(seen) == ranks * share
        proteins = [i for indices in seen for i in indices]
        assert len(set(proteins)) == len(proteins)
        assert all(indices in plan for indices in seen)


def test_more_ranks_than_batches_share_them(corpus: Corpus) -> None:
    samples = make(ProteinBatches, corpus, token_budget=10**9)
    assert len(samples.plan(0)) == 1
    first, second = (keys(EndlessBatches(samples, rank, 2), 3) for rank in range(2))
    assert first == second
    assert [epoch for epoch, _ in first] == [0, 1, 2]


@KINDS
@pytest.mark.parametrize("ranks", [1, 3])
def test_going_on_gives_exactly_the_remaining_batches(corpus: Corpus, kind: type[Batches], ranks: int) -> None:
    samples = make(kind, corpus, token_budget=8_000)
    size = len(samples.plan(0)) // ranks
    all_keys = keys(EndlessBatches(samples, 1 % ranks, ranks), 5 * size)
    for consumed in (0, 1, size - 1, size, size + 1, 3 * size):
        stopped = EndlessBatches(samples, 1 % ranks, ranks)
        keys(stopped, consumed + 2)  # workers run ahead of what was trained on
        start = stopped.place(consumed)
        resumed = EndlessBatches(samples, 1 % ranks, ranks, start)
        again = keys(resumed, size + 3)
        assert again == all_keys[consumed : consumed + size + 3]
        # stopped a second time
        third = EndlessBatches(samples, 1 % ranks, ranks, resumed.place(size))
        assert keys(third, 2) == all_keys[consumed + size : consumed + size + 2]


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
