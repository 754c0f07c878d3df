from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence import long_records, masked_records
from protlm.sequence.alphabets import ALPHABETS
from protlm.sequence.masked_records import MaskedRecords

DNA, BYTES = ALPHABETS["dna"], ALPHABETS["bytes"]


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.fa"
    path.write_bytes(content)
    return path


@given(st.lists(st.sampled_from([*"ACGTN", "<mask>"])))
def test_masks_are_one_token_each(letters: list[str]) -> None:
    tokens = DNA.encode_masked("".join(letters).lower().encode())
    assert tokens.tolist() == [DNA.index[letter] for letter in letters]


def test_a_mask_of_bytes_is_none_of_the_256() -> None:
    tokens = BYTES.encode_masked(b"a<mask>\xff")
    assert tokens.tolist() == [97, BYTES.mask, 255]
    assert BYTES.mask > 255


def test_fasta_with_masks_as_users_have_it(tmp_path) -> None:
    records = MaskedRecords(written(tmp_path, b"\n>chr1 x\r\nACac\n<ma\nsk>n-T\r\nU\n>empty\n\n>two\n<mask>GG"), DNA)
    assert [(name, DNA.decode(tokens)) for name, tokens in records] == [
        ("chr1", "ACAC<mask>NTT"),
        ("two", "<mask>GG"),
    ]
    assert records.tally.describe("base") == [
        "1 record: lower case made upper case (3 bases)",
        "1 record: gap removed (1 base)",
        "1 record: U read as T (1 base)",
        "1 record: left out, without a base",
    ]


@pytest.mark.parametrize("block", [4, 1 << 16])
def test_an_odd_letter_is_located_whatever_the_blocks(tmp_path, monkeypatch, block: int) -> None:
    monkeypatch.setattr(long_records, "_BLOCK", block)
    records = MaskedRecords(written(tmp_path, b">a\nAC\n>b\nA-C<mask>\nGG\n<mask>\nLA\n"), DNA)
    expected = r"some.fa, record 2 \(b\), line 7: 'L' at position 7 is not a base: expected one of A.*, or <mask>$"
    with pytest.raises(UserError, match=expected):
        list(records)


def test_a_document_keeps_its_white_space(tmp_path) -> None:
    (found,) = MaskedRecords(written(tmp_path, b"a b\n<mask>-\n"), BYTES)
    assert found.name == "some.fa"
    assert np.array_equal(found.tokens, [*b"a b\n", BYTES.mask, *b"-\n"])


def test_what_is_too_long_for_one_pass_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(masked_records, "CUT", 10)
    with pytest.raises(UserError, match="longer than 10 characters; expected the bytes around the masks"):
        list(MaskedRecords(written(tmp_path, b"abc<mask>de"), BYTES))
