import bz2
import gzip
import lzma
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence.alphabet import decode, encode
from protlm.sequence.fasta import FastaFile, Record, accession

COMPRESSIONS = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "zst without size": zstandard.ZstdCompressor(write_content_size=False).compress,
}
TEXT = b">sp|P1|A_B first one\nMKT\nLLI\n>b\nMKV\n>c  two  words \nGGG\n"
RECORDS = [Record("P1", "first one", "MKTLLI"), Record("b", "", "MKV"), Record("c", "two  words", "GGG")]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "some.fasta"
        path.write_bytes(content)
        return path

    return write


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        list(FastaFile(path, **options))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_compressed_or_not_the_records_are_the_same(written, compress) -> None:
    assert list(FastaFile(written(compress(TEXT)))) == RECORDS


@pytest.mark.parametrize("compress", [c for name, c in COMPRESSIONS.items() if name != "plain"])
def test_compressed_parts_one_behind_another_are_all_read(written, compress) -> None:
    first, second = TEXT[:30], TEXT[30:]
    assert list(FastaFile(written(compress(first) + compress(b"") + compress(second)))) == RECORDS


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"\n", b"\n\n"),
        b"\n \r\n\n" + TEXT,
        TEXT.rstrip(b"\n"),
        TEXT.replace(b"LI\n", b" L I \n"),
        b"\xef\xbb\xbf" + TEXT,
    ],
    ids=["CRLF", "blank lines", "leading blank lines", "no final newline", "spaces", "byte order mark"],
)
def test_layout_does_not_matter(written, text: bytes) -> None:
    assert list(FastaFile(written(text))) == RECORDS


def test_a_file_can_be_read_twice_and_counts_go_on(written) -> None:
    file = FastaFile(written(b">a\nmK-T*\n>empty\n>b\nMjJ\n"))
    assert [record.sequence for record in file] == ["MKT", "MXX"]
    assert file.changes == {
        "lower case made upper case": 2,
        "gap removed": 1,
        "final stop removed": 1,
        "J replaced by X": 2,
        "record without a sequence left out": 1,
    }
    assert set(file.changed_records.values()) == {1, 2}
    assert file.changed_records["lower case made upper case"] == 2
    assert file.position == file.size


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.fasta")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\n \t\r\n\n", gzip.compress(b"")], ids=["nothing", "blank", "gzip of nothing"]
)
def test_an_empty_file_is_refused(written, content: bytes) -> None:
    assert "is empty" in refusal(written(content))


def test_text_before_the_first_record_is_refused(written) -> None:
    assert "line 2: not FASTA" in refusal(written(b"\nsome words\n>a\nMKT\n"))


@pytest.mark.parametrize("compress", [c for name, c in COMPRESSIONS.items() if name != "plain"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95, 0.999])
def test_a_file_cut_short_is_refused_rather_than_read_in_part(written, sample: Path, compress, kept: float) -> None:
    content = compress(gzip.decompress(sample.read_bytes())[:60_000])
    assert "damaged or cut short" in refusal(written(content[: int(kept * len(content))]))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_damaged_file_is_refused(written, compress) -> None:
    content = compress(TEXT * 100)
    assert "damaged" in refusal(written(content[:-12] + bytes(12)))


def test_a_digit_is_reported_with_record_id_and_line(written) -> None:
    message = refusal(written(b"\n>a\nMKT\n\n>sp|P2|X_Y some\nMKT LLI\n\nMK-\n7I\n>c\n8\n"))
    assert "record 2 (P2), line 9: '7' at position 10 " in message


@pytest.mark.parametrize("header", [b">\n", b">   \n", b"> \t some\n"])
def test_a_header_needs_an_identifier(written, header: bytes) -> None:
    content = b">a\nMKT\n" + header + b"MKV\n"
    if b"some" in header:
        assert [record.id for record in FastaFile(written(content))] == ["a", "some"]
    else:
        assert "record 2: no identifier" in refusal(written(content))


@pytest.mark.parametrize("name", [b"A" * 1_001, b"P1\0X"])
def test_an_identifier_no_file_could_hold_is_refused(written, name: bytes) -> None:
    assert "record 1" in refusal(written(b">" + name + b"\nMKT\n"))


@pytest.mark.parametrize("length", [30, 25_000])
def test_nucleotides_are_refused_unless_allowed(written, length: int) -> None:
    path = written(b">dna\n" + (b"ACGTNacgtu" * length)[:length] + b"\n")
    assert "nucleotides" in refusal(path)
    assert [len(record.sequence) for record in FastaFile(path, allow_nucleotides=True)] == [length]


def test_nucleotides_are_refused_before_a_record_too_many_is_read(written) -> None:
    records = iter(FastaFile(written(b"".join(b">dna%d\n%b\n" % (i, b"ACGT" * 250) for i in range(1_000)))))
    with pytest.raises(UserError, match="nucleotides"):
        list(islice(records, 11))


def test_a_glycine_rich_peptide_is_a_protein(written) -> None:
    assert len(list(FastaFile(written(b">a\nGGAGGACGGAGGA\n")))) == 1


@pytest.mark.parametrize(
    ("header", "identifier"),
    [
        ("sp|P69905|HBA_HUMAN Hemoglobin subunit alpha", "P69905"),
        ("tr|A0A0A0|A0A0A0_X", "A0A0A0"),
        ("sp||HBA_HUMAN", "sp||HBA_HUMAN"),
        ("gi|1234|pdb|1A91|A", "gi|1234|pdb|1A91|A"),
        ("pdb|1A91|A", "pdb|1A91|A"),
        ("1ABC_A mol:protein", "1ABC_A"),
        ("a\tb", "a"),
        ("", ""),
    ],
)
def test_accession(header: str, identifier: str) -> None:
    assert accession(header) == identifier


fragments = st.sampled_from([b">", b"\n", b"\r", b"MKT", b"1", b"\0", b"\xed\xa0\x80", b"\xff", b" ", b"sp|a|b", b"*"])
starts = st.sampled_from([b"", b">a\nMKT\n", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\xff\xfe"])
contents = st.builds(bytes.__add__, starts, st.binary() | st.lists(fragments).map(b"".join))


@given(contents)
@example(gzip.compress(TEXT, mtime=0)[:-1] + b"\0")
@example(b">a\xe9\nMKT\n")
@example(b">a\nMK\xe9T\n")
def test_any_bytes_are_records_or_one_clear_error(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.fasta"
    path.write_bytes(content)
    with suppress(UserError):
        for record in FastaFile(path):
            assert record.id.split() == [record.id]
            assert decode(encode(record.sequence)) == record.sequence != ""
