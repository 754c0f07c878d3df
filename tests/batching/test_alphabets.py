"""Batches of DNA, RNA and bytes: masks, targets, ends and strands."""

from pathlib import Path

import numpy as np
import pytest

from protlm.batching.batches import Batches, BlockBatches, Objective, ProteinBatches
from protlm.batching.masking import IGNORE, Masking, next_token
from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.sequence.alphabets import ALPHABETS

DNA, BYTES = ALPHABETS["dna"], ALPHABETS["bytes"]
UNCHANGED = Objective(False, Masking(1, 0, 0, 1))


def made(tmp_path: Path, content: bytes, alphabet: str, **options) -> Corpus:
    (tmp_path / "source").write_bytes(content)
    selection = Selection(alphabet=ALPHABETS[alphabet], **options)
    prepare_corpus([tmp_path / "source"], tmp_path / "c.h5", SplitRule(0, 0), selection)
    return Corpus(tmp_path / "c.h5")


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_masks_and_random_letters_are_of_the_alphabet(alphabet) -> None:
    tokens = alphabet.with_ends(np.repeat(alphabet.drawn, 50))
    generator = np.random.default_rng(1)
    inputs, targets, scored = Masking(0.5, 0.5, 0.5, 0)(tokens, generator, alphabet)
    assert (inputs[scored] == alphabet.mask).all()
    assert (targets[scored] == tokens[scored]).all()
    replaced = (targets != IGNORE) & ~scored
    assert set(inputs[replaced].tolist()) <= set(alphabet.drawn.tolist())
    assert inputs[0] == alphabet.cls
    assert inputs[-1] == alphabet.eos


def test_ambiguous_bases_are_neither_masked_nor_scored() -> None:
    tokens = DNA.with_ends(DNA.encode(b"NNNNRYAC"))
    targets = Masking(1, 1, 0, 0)(tokens, np.random.default_rng(1), DNA)[1]
    assert DNA.decode(targets[targets != IGNORE]) == "AC"


def test_the_next_byte_may_have_any_value() -> None:
    tokens = BYTES.with_ends(np.array([0, 255, 2], dtype=np.uint8))
    inputs, targets, scored = next_token(tokens, BYTES)
    assert inputs.tolist() == [256, 0, 255, 2]
    assert targets.tolist() == [0, 255, 2, 258]
    assert scored.tolist() == [True, True, True, False]


def test_documents_are_padded_with_a_token_that_is_no_byte(tmp_path) -> None:
    corpus = made(tmp_path, b"ab\n\x01\n", "bytes", layout="line")
    samples = ProteinBatches(corpus, "train", UNCHANGED, 8, 64, 1)
    (key,) = samples.plan(0)
    rows = sorted(samples[key].inputs.tolist())
    assert rows == [[256, 1, 258, 257], [256, 97, 98, 258]]


def blocks_of(samples: Batches) -> list[np.ndarray]:
    return [row for key in samples.plan(0) for row in samples[key].inputs.numpy()]


def test_blocks_of_bytes_are_the_documents_joined_by_eos(tmp_path) -> None:
    corpus = made(tmp_path, bytes(range(40)), "bytes")
    (block,) = blocks_of(BlockBatches(corpus, "train", UNCHANGED, 40, 64, 1))
    assert block.tolist() == list(range(40))


GENOME = np.random.default_rng(3).choice(np.frombuffer(b"ACGT", np.uint8), 400).tobytes()


@pytest.mark.parametrize("kind", [ProteinBatches, BlockBatches])
def test_about_half_of_the_sequences_are_the_opposite_strand(tmp_path, kind: type[Batches]) -> None:
    corpus = made(tmp_path, b">g\n" + GENOME, "dna", cut=20)
    both = kind(corpus, "train", UNCHANGED, 22, 220, 1, reverse_complement=True)
    forward = GENOME.decode()
    opposite = DNA.decode(DNA.reverse_complement(DNA.encode(GENOME)))
    strands = []
    for _ in range(2):  # the same again: strands depend on the keys alone
        strands.append([])
        for epoch in range(5):
            for key in both.plan(epoch):
                for row in both[key].inputs.numpy():
                    letters = [part for part in DNA.decode(row).replace("<cls>", "<eos>").split("<eos>") if part]
                    found = [all(part in strand for part in letters) for strand in (forward, opposite)]
                    assert sum(found) == 1
                    strands[-1].append(found[1])
    assert strands[0] == strands[1]
    assert 0.3 < np.mean(strands[0]) < 0.7
    assert not any(DNA.decode(row) in opposite for row in blocks_of(kind(corpus, "train", UNCHANGED, 22, 220, 1)))


@pytest.mark.parametrize("length", [5, 12, 22, 30])
def test_crops_of_the_opposite_strand_are_contiguous_and_may_have_either_end(tmp_path, length: int) -> None:
    corpus = made(tmp_path, b">g\nAACCGGTTAGCATCGATTAC\n", "dna")
    samples = ProteinBatches(corpus, "train", UNCHANGED, length, length, 1, reverse_complement=True)
    framed = DNA.decode(DNA.with_ends(corpus[0])), DNA.decode(DNA.with_ends(DNA.reverse_complement(corpus[0])))
    seen = set()
    for epoch in range(200):
        (key,) = samples.plan(epoch)
        row = samples[key].inputs[0].numpy()
        assert len(row) == min(length, 22)
        text = DNA.decode(row)
        assert any(text in whole for whole in framed)
        seen.add((text.startswith("<cls>"), text.endswith("<eos>")))
    assert seen >= ({(True, True)} if length >= 22 else {(True, False), (False, True), (False, False)})


def test_only_strands_can_be_complemented(tmp_path) -> None:
    corpus = made(tmp_path, b"text", "bytes")
    with pytest.raises(UserError, match="reverse_complement: bytes have no complements; expected dna or rna"):
        ProteinBatches(corpus, "train", UNCHANGED, 8, 8, 1, reverse_complement=True)
