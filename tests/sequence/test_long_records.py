import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence import long_records
from protlm.sequence.alphabets import ALPHABETS
from protlm.sequence.long_records import LongRecords

DNA, BYTES = ALPHABETS["dna"], ALPHABETS["bytes"]


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "some.fa"
    path.write_bytes(content)
    return path


def read(records: LongRecords) -> dict[str, str]:
    """Name -> letters; also checks that tokens and letters agree."""
    found = {}
    for chunk in records.chunks():
        tokens = np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1])
        for name, letters, row in zip(chunk.names.decode().split("\n"), chunk.sequences, tokens, strict=True):
            assert records.alphabet.translate(letters).tolist() == row.tolist()
            found[name] = letters.decode("latin-1")
    return found


def test_fasta_as_users_have_it(tmp_path) -> None:
    records = LongRecords(written(tmp_path, b"\n>chr1 x\r\nACac\nnn-T\r\nU\n\n>empty\n>two\nGG"), DNA)
    assert read(records) == {"chr1": "ACACNNTT", "two": "GG"}
    assert records.tally.describe("base") == [
        "1 record: gap removed (1 base)",
        "1 record: lower case made upper case (4 bases)",
        "1 record: U read as T (1 base)",
        "1 record: left out, without a base",
    ]


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.text("ACGTN", max_size=9), max_size=20), cut=st.integers(1, 20), block=st.integers(2, 30))
def test_pieces_joined_are_the_record_whatever_the_blocks(tmp_path_factory, lines, cut, block) -> None:
    path = written(tmp_path_factory.mktemp("pieces"), ("\n".join([">a", *lines, ">b", "ACGT"])).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_records, "_BLOCK", block)
        found = read(LongRecords(path, DNA, cut=cut))
    whole = "".join(lines)
    pieces = {name: letters for name, letters in found.items() if name.startswith("a")}
    assert "".join(pieces.values()) == whole
    assert all(len(letters) <= cut for letters in found.values())
    for name, letters in pieces.items():
        if ":" in name:
            first, last = map(int, name.removeprefix("a:").split("-"))
            assert whole[first - 1 : last] == letters


def test_a_letter_that_is_none_is_named_with_its_record_and_line(tmp_path) -> None:
    path = written(tmp_path, b">a\nACGT\n>b\nACGT\n\nACLT\n")
    with pytest.raises(UserError, match=r"record 2 \(b\), line 6: 'L' at position 7 is not a base: expected one of"):
        read(LongRecords(path, DNA))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found nothing"),
        (b"ACGT\n", "found 'ACGT'"),
        (b"LOCUS       X\n", "found GenBank; convert it"),
        (b">\nACGT\n", "line 1: no identifier"),
        (gzip.compress(b">a\n" + b"ACGT" * 1000, mtime=0)[:-9], "damaged or cut short"),
    ],
)
def test_what_is_not_fasta_is_refused(tmp_path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(LongRecords(written(tmp_path, content), DNA))


def test_lines_and_whole_files(tmp_path) -> None:
    path = written(tmp_path, b"abc\r\n\nd\xff\nlast")
    lines = read(LongRecords(path, BYTES, "line"))
    assert lines == {"some.fa:1": "abc", "some.fa:3": "d\xff", "some.fa:4": "last"}
    assert read(LongRecords(path, BYTES)) == {"some.fa": "abc\r\n\nd\xff\nlast"}


def test_pictures_of_one_size_in_a_file_are_records(tmp_path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, 12), dtype=np.uint8)
    found = read(LongRecords(written(tmp_path, pictures.tobytes()), BYTES, cut=12))
    assert [letters.encode("latin-1") for letters in found.values()] == [row.tobytes() for row in pictures]


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "one line"])
def test_memory_does_not_grow_with_the_record(tmp_path, wrapped: bool) -> None:
    peaks = []
    for size in (1_000_000, 8_000_000):
        line = b"ACGTTGCAAC" * 6 + b"\n" * wrapped
        path = written(tmp_path, b">a\n" + line * (size // 60))
        tracemalloc.start()
        for _ in LongRecords(path, DNA, cut=100_000).chunks():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
