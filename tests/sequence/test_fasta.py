import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence.alphabet import LETTERS, ResidueError, decode, encode, normalise
from protlm.sequence.fasta import FastaFile, Record, none_left
from protlm.sequence.headers import accession
from protlm.sequence.tally import Tally

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
BLOCKS = (1, 2, 7, 64, 1 << 17)
MARK = b"\xef\xbb\xbf"


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
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def by_biopython(content: bytes) -> list[Record] | None:
    """The records of any layout as read by Biopython; None where they have to be refused."""
    text = io.StringIO(content.removeprefix(MARK).decode("utf-8", "replace"), newline=None).read()
    before, found, _ = f"\n{text}".partition("\n>")
    if not found or before.strip(" \t\n\v\f"):
        return None
    records = []
    for header, letters in SimpleFastaParser(io.StringIO(text)):
        words = header.split(None, 1)
        if not words or "\0" in accession(words[0]) or len(accession(words[0])) > 1_000:
            return None
        try:
            sequence, _ = normalise(letters)
        except ResidueError:
            return None
        if sequence:
            records.append(Record(accession(words[0]), words[1] if len(words) > 1 else "", sequence))
    return records


def by_fasta_file(path: Path, block: int, **options: bool) -> list[Record] | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protlm.sequence.fasta._BLOCK", block)
        try:
            return list(FastaFile(path, allow_nucleotides=True, **options))
        except UserError:
            return None


def assert_equals_biopython(folder: Path, content: bytes) -> None:
    path = folder / "any.fasta"
    path.write_bytes(content)
    expected = by_biopython(content)
    for block in BLOCKS:
        assert by_fasta_file(path, block) == expected, block


GOOD = [
    b">a\nMKT\n",
    b">sp|P1|A_B first one\nGAVLIM\n",
    b">b\tsome > more\nMBZUOX\n",
    b">tr|Q|Z\nW\r\n",
    b">c \xe9\nM\r",
]
HEADERS = [
    *(b">a", b">", b">  ", b"> x y", b">sp|P2|A_B \x00", b">\x00", b">a\x00b", b">a\x1cb", b">\x1c", b">>", b">a>b"),
    *(b">\xc3\xa9", b">\xe9", b"> \xc2\xa0x", b"  >s", b"\t>t t", b">a\x85", b">a\x7f", b">a\x1b[1m", b">sp||N", b">|"),
    *(b">UPI0000000001", b">UniRef50_P1 n=2", b">a\x0bb", b">a\x0cb", b">" + b"i" * 1_000, b">" + b"i" * 1_001),
    *(b">sp|" + b"i" * 990 + b"|NAME_OF_IT", b">\xe2\x80\xa8q", b">\xef\xbb\xbfm"),
]
LINES = [
    *(b"MKT", b"MKTAYIAKQR" * 7, b"mkt", b"MKT*", b"*", b"-", b"M-K.", b"M1", b"", b" ", b"  ", b"\t", b"M K", b"MKT "),
    *(b" MKT", b"M>K", b"MJ", b"\x1c", b"M\x1c", b"M\x1cK", b"\x00", b"M\x00", b"M\xe9", b"\xc3\x89", b"\xed\xa0\x80"),
    *(b"\x0b", b"\x0c", b"M\x0b", b";M", b"\xef\xbb\xbf", b"\xc2\xa0", b"M\xc2\x85", b"M\xe2\x80\xa8K", b"\x85"),
]
ENDS = [b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\n\r", b"\r\r\n", b""]
pieces = st.builds(bytes.__add__, st.sampled_from(HEADERS + LINES), st.sampled_from(ENDS))
odd_records = st.builds(
    lambda *parts: b"".join(parts), st.sampled_from(HEADERS), st.sampled_from(ENDS), pieces, st.sampled_from(LINES)
)


@settings(max_examples=250)
@given(st.lists(st.sampled_from(GOOD) | pieces, max_size=10).map(b"".join))
@example(b">a\nMKT\n >b\nMKV\n")
@example(b">a\nMKT\n\t>b\nMKV\n")
@example(b">a\nMKT\n  \nMKV\n")
@example(b">a\nMKT\n\x0b\nMKV\n")
@example(b" >a\nMKT\n")
@example(b"\n \n>a\nMKT\n")
@example(b">a\nMKT\nMKV\n>b\n>c\nMKV\n")
@example(b">a\nMKT\n>b\n\n>c\nMKV\n\n")
@example(MARK + b">a\nMKT\n")
def test_any_fragments_are_read_as_by_biopython_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    assert_equals_biopython(tmp_path_factory.getbasetemp(), content)


@settings(max_examples=250)
@given(st.lists(st.sampled_from(GOOD), min_size=1, max_size=6), odd_records | pieces, st.integers(0, 6))
def test_an_odd_record_does_not_affect_the_others(
    tmp_path_factory: pytest.TempPathFactory, good: list[bytes], odd: bytes, place: int
) -> None:
    assert_equals_biopython(tmp_path_factory.getbasetemp(), b"".join([*good[:place], odd, *good[place:]]))


@given(
    st.lists(st.tuples(st.text("MKTLjx*-. \t", max_size=30), st.integers(1, 9)), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)
def test_wrapping_and_newlines_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, int]], end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "wrapped.fasta"
    lines = []
    for number, (letters, width) in enumerate(records):
        letters = letters.replace(" ", "").replace("\t", "")
        lines += [f">p{number} some", *(letters[start : start + width] for start in range(0, len(letters), width))]
    path.write_bytes(end.join(lines).encode())
    sequences = [(f"p{number}", normalise("".join(letters.split()))[0]) for number, (letters, _) in enumerate(records)]
    for block in BLOCKS:
        found = by_fasta_file(path, block)
        assert found == [Record(name, "some", sequence) for name, sequence in sequences if sequence]


@given(st.lists(st.text(LETTERS, min_size=1), min_size=1), st.integers(1, 80), st.sampled_from(["\n", "\r\n"]))
def test_plain_records_need_no_biopython_however_they_are_wrapped(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[str], width: int, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.fasta"
    lines = []
    for i, sequence in enumerate(sequences):
        lines += [f">sp|p{i}|X text", *(sequence[at : at + width] for at in range(0, len(sequence), width))]
    path.write_bytes("".join(line + end for line in lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("Bio.SeqIO.FastaIO.SimpleFastaParser")
        records = list(FastaFile(path, allow_nucleotides=True))
    assert records == [Record(f"p{i}", "text", sequence) for i, sequence in enumerate(sequences)]


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_records_do_not_depend_on_compression(written, compress) -> None:
    assert list(FastaFile(written(compress(TEXT)))) == RECORDS


@pytest.mark.parametrize("compress", [c for name, c in COMPRESSIONS.items() if name != "plain"])
def test_concatenated_compressed_members_are_all_read(written, compress) -> None:
    first, second = TEXT[:30], TEXT[30:]
    assert list(FastaFile(written(compress(first) + compress(b"") + compress(second)))) == RECORDS


def test_a_file_compressed_twice_is_not_fasta(written) -> None:
    assert "expected FASTA, found compressed; unpack it first" in refusal(written(gzip.compress(gzip.compress(TEXT))))


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"\n", b"\r"),
        TEXT.replace(b"\n", b"\n\n"),
        b"\n \r\n\n" + TEXT,
        TEXT.rstrip(b"\n"),
        TEXT.replace(b"LI\n", b" L I \n"),
        MARK + TEXT,
        TEXT.replace(b"MKTLLI", b"mktlli"),
    ],
    ids=["CRLF", "CR", "blank lines", "leading blank lines", "no final newline", "spaces", "mark", "lower case"],
)
@pytest.mark.parametrize("block", BLOCKS)
def test_layout_does_not_matter(written, text: bytes, block: int) -> None:
    assert by_fasta_file(written(text), block) == RECORDS


def test_a_file_can_be_read_twice_and_counts_accumulate(written) -> None:
    file = FastaFile(written(b">a\nmK-T*\n>empty\n>b\nMjJ\n"))
    changes = {
        "lower case made upper case": {"records": 2, "residues": 2},
        "gap removed": {"records": 1, "residues": 1},
        "final stop removed": {"records": 1, "residues": 1},
        "J replaced by X": {"records": 1, "residues": 2},
        "left out, no sequence": {"records": 1, "residues": 0},
    }
    for times in (1, 2):
        assert [record.sequence for record in file] == ["MKT", "MXX"]
        assert file.tally.to_dict() == {
            reason: {name: times * count for name, count in counts.items()} for reason, counts in changes.items()
        }
        assert file.position == file.size


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 3))), st.integers(0, 9))
def test_tallies_add_up_and_round_trip_through_json(notes: list[tuple[str, int, int]], cut: int) -> None:
    whole, first, second = Tally(), Tally(), Tally()
    for number, (reason, residues, records) in enumerate(notes):
        whole.add(reason, residues, records)
        (first if number < cut else second).add(reason, residues, records)
    first.update(second)
    assert first.to_dict() == whole.to_dict() == Tally(whole.to_dict()).to_dict()
    counted = {reason for reason, _, records in notes if records}
    assert set(whole.to_dict()) == counted
    assert len(whole.describe()) == len(counted)


def test_a_tally_uses_the_singular_for_one() -> None:
    tally = Tally()
    tally.add("gap removed", 1)
    tally.add("left out, no sequence", 0, 1_234)
    assert tally.describe() == ["1 record: gap removed (1 residue)", "1,234 records: left out, no sequence"]


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_a_source_is_described_by_name_size_and_checksum(written, compress) -> None:
    file = FastaFile(written(compress(TEXT)))
    assert (file.size, file.position) == (len(compress(TEXT)), 0)
    list(file)
    packed = Path(file.path).read_bytes()
    checksum = xxhash.xxh3_128_hexdigest(packed)
    assert file.describe() == {"name": "some.fasta", "bytes": len(packed), "xxh3_128": checksum}


def test_chunks_hold_the_tokens_and_lengths_of_their_sequences(written, monkeypatch) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", 16)
    chunks = list(FastaFile(written(TEXT + b">d\nMK*\n>e\n\n>f\nM\n")).chunks())
    assert len(chunks) > 2
    assert [name for chunk in chunks if chunk.sequences for name in chunk.names.decode().split("\n")] == [
        *("P1", "b", "c", "d", "f"),
    ]
    for chunk in chunks:
        assert chunk.lengths.tolist() == [len(sequence) for sequence in chunk.sequences]
        assert decode(chunk.tokens) == b"".join(chunk.sequences).decode()
        assert len(chunk.headers) == len(chunk.sequences)


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_selecting_from_a_chunk_selects_from_its_columns(keep: list[bool]) -> None:
    path = Path(__file__).parents[2] / "data" / "families.fasta.gz"
    whole = next(FastaFile(path).chunks())
    first = whole.select(np.arange(len(whole.sequences)) < 4)
    some = first.select(np.array(keep))
    assert some.sequences == [sequence for sequence, kept in zip(first.sequences, keep, strict=True) if kept]
    assert some.headers == [header for header, kept in zip(first.headers, keep, strict=True) if kept]
    assert decode(some.tokens) == b"".join(some.sequences).decode()
    assert some.lengths.tolist() == list(map(len, some.sequences))
    names = first.names.split(b"\n")
    assert some.names == b"\n".join(name for name, kept in zip(names, keep, strict=True) if kept)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.fasta")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\n \t\r\n\n", MARK, gzip.compress(b"")], ids=["nothing", "blank", "mark", "gzip of nothing"]
)
def test_an_empty_file_is_refused(written, content: bytes) -> None:
    assert "is empty" in refusal(written(content))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"\nsome words\n>a\nMKT\n", 2, "some words"),
        (b"some words", 1, "some words"),
        (b"\r\n\r\n \r\nsome words\r\n", 4, "some words"),
        (b"\n\n\n\n; a comment as Pearson allowed\n>a\nMKT\n", 5, "; a comment as Pearson allowed"),
        (b"\r\r\rIDP1\r", 4, "IDP1"),
        (MARK + b"\nMKT", 2, "MKT"),
        (b" >a\nMKT\n", 1, ">a"),
    ],
)
def test_text_before_the_first_record_is_refused(
    written, monkeypatch, content: bytes, line: int, found: str, block: int
) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", block)
    message = refusal(written(content))
    assert f"line {line}: not FASTA" in message
    if block > len(content):
        assert f"found {found!r}" in message


def test_endless_blank_lines_need_no_memory(written) -> None:
    path = written(b"\n" * 4_000_000 + TEXT)
    tracemalloc.start()
    try:
        assert list(FastaFile(path)) == RECORDS
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_comments_among_the_records_are_refused_with_their_line(written) -> None:
    message = refusal(written(b">a\n; as Pearson allowed\nMKT\n"))
    assert "record 1 (a), line 2: ';' at position 1 " in message


@pytest.mark.parametrize("compress", [c for name, c in COMPRESSIONS.items() if name != "plain"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95, 0.999])
def test_a_file_cut_short_is_refused_rather_than_read_in_part(written, sample: Path, compress, kept: float) -> None:
    content = compress(gzip.decompress(sample.read_bytes())[:60_000])
    assert "damaged or cut short" in refusal(written(content[: int(kept * len(content))]))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_damaged_file_is_refused(written, compress) -> None:
    content = compress(TEXT * 100)
    assert "damaged" in refusal(written(content[:-12] + bytes(12)))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", MARK, b"\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_digit_is_reported_with_record_id_and_line(written, compress, start: bytes, end: bytes) -> None:
    text = b">a\nMKT\n\n>sp|P2|X_Y some\nMKT LLI\n\nMK-\n7I\n>c\n8\n".replace(b"\n", end)
    message = refusal(written(compress(start + text)))
    line = 8 + start.count(b"\n")
    assert f"record 2 (P2), line {line}: '7' at position 10 " in message


@pytest.mark.parametrize("odd", ["1", "\0", "\x1c", "é", "\ufffd", ">", "?", "\x7f"])
@pytest.mark.parametrize("block", BLOCKS)
def test_invalid_residues_are_refused_in_one_line_records_too(written, monkeypatch, odd: str, block: int) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", block)
    message = refusal(written(f">a\nMKT\n>b\nMK{odd}T\n>c\nMKT\n".encode()))
    assert f"record 2 (b), line 4: {odd!r} at position 3 " in message


@pytest.mark.parametrize("header", [b">\n", b">   \n", b">\r\n", b">\x1c\n", b"> \t some\n"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_header_needs_an_identifier(written, monkeypatch, header: bytes, block: int) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", block)
    content = b">a\nMKT\n" + header + b"MKV\n"
    if b"some" in header:
        assert [record.id for record in FastaFile(written(content))] == ["a", "some"]
    else:
        assert "record 2, line 3: no identifier" in refusal(written(content))


@pytest.mark.parametrize("name", [b"A" * 1_001, b"P1\0X", b"sp|P\0|X_Y"])
def test_an_identifier_too_long_for_any_file_is_refused(written, name: bytes) -> None:
    assert "record 1" in refusal(written(b">" + name + b"\nMKT\n"))


def test_a_nul_character_in_a_description_is_harmless(written) -> None:
    assert list(FastaFile(written(b">a b\0c\nMKT\n"))) == [Record("a", "b\0c", "MKT")]


def test_the_longest_known_protein_is_read(written) -> None:
    letters = random.Random(0).choices("ACDEFGHIKLMNPQRSTVWY", k=35_213)
    titin = "".join(letters)
    wrapped = "\n".join(titin[start : start + 60] for start in range(0, len(titin), 60))
    records = list(FastaFile(written(f">a\nMKT\n>one\n{titin}\n>wrapped\n{wrapped}\n>b\nMKT\n".encode())))
    assert [record.sequence for record in records] == ["MKT", titin, titin, "MKT"]


def test_a_chromosome_looks_like_nucleotides_whatever_its_length(written) -> None:
    path = written(b">chr1\n" + b"ACGT" * 300_000)
    assert "looks like nucleotides, not proteins (100% of the letters" in refusal(path)
    with pytest.raises(UserError, match="record 1: longer than 1,000,000 characters"):
        list(FastaFile(path, allow_nucleotides=True))


@pytest.mark.parametrize("before", [0, 1, 20_000, 60_000, 100_000, 131_000])
@pytest.mark.parametrize("after", [b"", b">c\nMKT\n"])
def test_a_record_of_more_than_a_million_characters_is_refused_with_its_number(
    written, before: int, after: bytes
) -> None:
    start = b">z\n" + b"M" * before + b"\n>a\nMKT\n" if before else b""
    for length, refused in ((990_000, False), (1_010_000, True), (1_100_000, True)):
        path = written(start + b">b\n" + b"M" * length + b"\n" + after)
        if refused:
            number = 3 if before else 1
            assert f"record {number}: longer than 1,000,000 characters" in refusal(path)
        else:
            assert max(len(record.sequence) for record in FastaFile(path)) == length


@pytest.mark.parametrize("block", BLOCKS[:3])
def test_the_limit_for_records_does_not_depend_on_blocks(written, monkeypatch, block: int) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", block)
    monkeypatch.setattr("protlm.sequence.fasta._MAX_RECORD", 40)
    assert len(list(FastaFile(written(b">a\nMKT\n>b\n" + b"M" * 30 + b"\n>c\nMKT\n")))) == 3
    assert "record 2: longer" in refusal(written(b">a\nMKT\n>b\n" + b"M" * 50 + b"\n>c\nMKT\n"))


def test_an_endless_header_is_refused(written) -> None:
    assert "record 2: longer" in refusal(written(b">a\nMKT\n>" + b"word " * 300_000))


@pytest.mark.parametrize("length", [30, 25_000])
def test_nucleotides_are_refused_unless_allowed(written, length: int) -> None:
    path = written(b">dna\n" + (b"ACGTNacgtu" * length)[:length] + b"\n")
    assert "nucleotides" in refusal(path)
    assert [len(record.sequence) for record in FastaFile(path, allow_nucleotides=True)] == [length]


def test_nucleotides_are_refused_early(written) -> None:
    records = iter(FastaFile(written(b"".join(b">dna%d\n%b\n" % (i, b"ACGT" * 250) for i in range(1_000)))))
    with pytest.raises(UserError, match="nucleotides"):
        list(islice(records, 11))


@pytest.mark.parametrize(("proteins", "refused"), [(4, True), (6, False)])
def test_ninety_five_percent_of_nucleotides_are_too_many(written, proteins: int, refused: bool) -> None:
    path = written(b">a\n" + b"ACGT" * 24 + b"W" * proteins + b"ACGT"[: 4 - proteins])
    assert ("nucleotides" in refusal(path)) if refused else len(list(FastaFile(path))) == 1


def test_a_glycine_rich_peptide_is_a_protein(written) -> None:
    assert len(list(FastaFile(written(b">a\nGGAGGACGGAGGA\n")))) == 1


@pytest.mark.parametrize(
    ("word", "identifier"),
    [
        ("sp|P69905|HBA_HUMAN", "P69905"),
        ("tr|A0A0A0|A0A0A0_X", "A0A0A0"),
        ("sp||HBA_HUMAN", "sp||HBA_HUMAN"),
        ("gi|1234|pdb|1A91|A", "gi|1234|pdb|1A91|A"),
        ("pdb|1A91|A", "pdb|1A91|A"),
        ("1ABC_A", "1ABC_A"),
        ("UniRef50_P69905", "UniRef50_P69905"),
        ("UPI0000000001", "UPI0000000001"),
        ("P69905", "P69905"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("sequence", ["MKT", "mkt"])
def test_accession(written, word: str, identifier: str, sequence: str) -> None:
    assert accession(word) == identifier
    if word:
        path = written(f">{word} Some protein\n{sequence}\n>x|y\n{sequence}\n".encode())
        assert [record.id for record in FastaFile(path)] == [identifier, "x|y"]
        assert [record.id for record in FastaFile(path, identifier="word")] == [word, "x|y"]


def test_an_unknown_kind_of_identifier_is_refused(written) -> None:
    with pytest.raises(UserError, match="identifier 'name': expected one of accession, word"):
        FastaFile(written(TEXT), identifier="name")


@pytest.mark.parametrize("sequence", ["MKT", "MKt"])  # read by the fast path, and by Biopython
def test_a_whole_header_names_a_protein_on_request(written, sequence: str) -> None:
    path = written(f">sp|P1|A_B  Some protein OS=x \n{sequence}\n>none\n\n>c\n{sequence}\n".encode())
    assert [record.id for record in FastaFile(path, identifier="header")] == ["sp|P1|A_B  Some protein OS=x", "c"]
    assert [number for chunk in FastaFile(path).chunks() for number in chunk.numbers.tolist()] == [1, 3]
    assert [record.id for record in FastaFile(path, identifier="header").again()][1] == "c"


def test_a_header_unfit_as_identifier_is_refused(written) -> None:
    for content in (b">a " + b"b" * 1_000 + b"\nMKT\n", b">a b\0c\nMKT\n"):
        with pytest.raises(UserError, match="record 1"):
            list(FastaFile(written(content), identifier="header"))
        assert [record.id for record in FastaFile(written(content))] == ["a"]


def test_duplicate_identifiers_are_accepted(written) -> None:
    assert [record.id for record in FastaFile(written(b">a\nMKT\n>a\nMKV\n"))] == ["a", "a"]


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_masks_are_accepted_on_request(written, name: str) -> None:
    path = written(COMPRESSIONS[name](b">a first\nMK<ma\nsk>\nt*\n>b\nMKT\n>c\n<mask>"))
    file = FastaFile(path, masked=True)
    assert [(record.id, record.sequence) for record in file] == [("a", "MK<mask>T"), ("b", "MKT"), ("c", "<mask>")]
    assert file.tally.records["final stop removed"] == 1
    assert [record.id for record in file.again()] == ["a", "b", "c"]
    assert "record 1 (a), line 2: '<mask>' at position 3" in refusal(path)


@pytest.mark.parametrize("odd", [b"1", b"<cls>", b"<MASK>", b"<"])
def test_anything_else_in_a_masked_record_is_refused_with_its_line(written, odd: bytes) -> None:
    path = written(b">a\nMKT\n>b\nM<mask>\nK<mask>" + odd + b"T\nMKT\n")
    shown = odd.decode() if odd == b"<cls>" else chr(odd[0])
    with pytest.raises(UserError, match=f"record 2 \\(b\\), line 5: '{shown}' at position 5"):
        list(FastaFile(path, masked=True))


fragments = st.sampled_from([b">", b"\n", b"\r", b"MKT", b"1", b"\0", b"\xed\xa0\x80", b"\xff", b" ", b"sp|a|b", b"*"])
starts = st.sampled_from([b"", b">a\nMKT\n", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\xff\xfe"])
contents = st.builds(bytes.__add__, starts, st.binary() | st.lists(fragments).map(b"".join))


@settings(max_examples=200)
@given(contents)
@example(gzip.compress(TEXT, mtime=0)[:-1] + b"\0")
@example(b">a\xe9\nMKT\n")
@example(b">a\nMK\xe9T\n")
def test_any_bytes_give_records_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.fasta"
    path.write_bytes(content)
    with suppress(UserError):
        for record in FastaFile(path):
            assert record.id.split() == [record.id]
            assert decode(encode(record.sequence)) == record.sequence != ""


NUCLEIC = b">100d_A mol:na length:10  DNA/RNA (5'-R)\nCCGGCGCCGGACGTACGTACGTACGTACGTACGT\n"


def test_nucleic_acids_of_the_pdb_are_left_out(written) -> None:
    protein = b">101m_A mol:protein length:3  MYOGLOBIN\nMVL\nSEG\n"
    file = FastaFile(written(NUCLEIC + protein + NUCLEIC.replace(b"100d", b"1abc")))
    assert [(record.id, record.sequence) for record in file] == [("101m_A", "MVLSEG")]
    assert file.tally.describe() == ["2 records: left out, nucleic acid (mol:na)"]
    only = FastaFile(written(NUCLEIC))
    assert list(only) == []
    assert "no record has a sequence (1 record: left out, nucleic acid (mol:na))" in str(none_left("some", only.tally))


INVALID = b">a\nMKT\n>b some\nMK\nM1T\n>\nMK\n>c\nmk-t*\n>d\n\xc3\xa9\n>e\n"
SKIPPED = [
    "record 2 (b), line 5: '1' at position 4 is not a residue: ",
    "record 3, line 6: no identifier after '>'",
    "record 5 (d), line 11: '\xe9' at position 1 is not a residue: ",
]


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_invalid_records_are_skipped_and_listed(written, monkeypatch, block: int, name: str) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", block)
    path = written(COMPRESSIONS[name](INVALID))
    file = FastaFile(path, invalid="skip")
    for opened in (file, file.again()):
        chunks = list(opened.chunks())
        assert b"\n".join(chunk.names for chunk in chunks if chunk.sequences).split() == [b"a", b"c"]
        assert np.concatenate([chunk.numbers for chunk in chunks]).tolist() == [1, 4]
        assert opened.tally.records["skipped, invalid"] == 3
        for line, expected in zip(opened.tally.skipped, SKIPPED, strict=True):
            assert line.startswith(f"skipped: {path}, {expected}")
    message = refusal(path)
    assert f"{path}, {SKIPPED[0]}" in message
    assert message.endswith("; 2 other records are invalid; correct or remove the record, or set invalid to 'skip'")


def test_a_long_file_is_not_read_to_its_end_to_count_invalid_records(written, monkeypatch) -> None:
    monkeypatch.setattr("protlm.sequence.fasta._BLOCK", 64)
    monkeypatch.setattr("protlm.sequence.stream._BUFFER", 64)
    monkeypatch.setattr("protlm.sequence.fasta._COUNTED_AFTER", 500)
    path = written(b"".join(b">p%d\nM1\n" % i for i in range(500)))
    file = FastaFile(path)
    with pytest.raises(UserError, match="record 1 .*; at least [0-9]+ other records are invalid"):
        list(file)
    assert file.position < 1_000 < file.size


def test_stops_at_the_end_are_removed(written) -> None:
    file = FastaFile(written(b">a\nMKT**\n>b\nMKT*\n>c\nM*T\n"))
    assert [record.sequence for record in file] == ["MKT", "MKT", "MXT"]
    assert "2 records: final stop removed (3 residues)" in file.tally.describe()


def test_gaps_can_be_refused(written) -> None:
    path = written(b">a\nMKT\n>b\nMK\n-T\n")
    with pytest.raises(UserError, match=r"record 2 \(b\), line 5: '-' at position 3 .* no gaps, which would shift"):
        list(FastaFile(path, gaps=False))
    assert [record.id for record in FastaFile(path, gaps=False, invalid="skip")] == ["a"]
