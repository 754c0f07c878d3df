from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protlm.corpus.external_sort import Column
from protlm.corpus.ingest import START, Part, Selection, read_part
from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD, decode, normalise
from protlm.sequence.fasta import FastaFile
from protlm.sequence.tally import Tally


def columns_of(part: Part) -> tuple[list[str], list[str], np.ndarray]:
    """The ids, the sequences and the digests (n, 2) of a part."""
    ids = (part.folder / "ids").read_text().split("\n")[:-1]
    with Column(part.folder / "lengths", "i4") as lengths, Column(part.folder / "digests", "u8") as hashes:
        ends = np.cumsum([0, *(length for block in lengths.blocks() for length in block.tolist())])
        digests = np.array([value for block in hashes.blocks() for value in block.tolist()], dtype=np.uint64)
    letters = decode(np.frombuffer((part.folder / "tokens").read_bytes()[START:], np.uint8))
    sequences = [letters[start:stop] for start, stop in pairwise(ends)]
    assert sum(map(len, sequences)) == len(letters)
    return ids, sequences, digests.reshape(-1, 2)


def read(paths: list[Path], folder: Path, selection: Selection) -> Part:
    files = [FastaFile(path, selection.allow_nucleotides, selection.identifier) for path in paths]
    return read_part(files, folder / "part", selection, lambda done: None)


def reason_against(header: str, sequence: str, selection: Selection) -> str:
    """The first reason to leave a record out, or nothing."""
    if not sequence:
        return "left out, no sequence"
    if not selection.fragments and ("(Fragment)" in header or "(Fragments)" in header):
        return "left out, fragment"
    if len(sequence) < selection.min_length:
        return f"left out, shorter than {selection.min_length} residues"
    if selection.max_length is not None and len(sequence) > selection.max_length:
        return f"left out, longer than {selection.max_length} residues"
    if selection.nonstandard == "drop" and set(sequence) - set(STANDARD):
        return "left out, residues that are none of the twenty"
    return ""


headers = st.sampled_from(
    ["some protein", "some protein (Fragment) OS=X", "(Fragments)", "", "Fragment", "(fragment)", "é (Fragment)"]
)
letters = st.text("MKTWBJOUXZm*-", max_size=12)
selections = st.builds(
    lambda shortest, span, fragments, nonstandard: Selection(
        shortest, None if span is None else shortest + span, fragments, nonstandard, allow_nucleotides=True
    ),
    st.integers(1, 6),
    st.none() | st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["keep", "drop"]),
)


@given(st.lists(st.tuples(headers, letters), min_size=1, max_size=15), selections, st.sampled_from([1, 30, 1 << 17]))
def test_a_selection_equals_that_of_single_records(
    fresh: Callable[[], Path], records: list[tuple[str, str]], selection: Selection, block: int
) -> None:
    folder = fresh()
    path = folder / "a.fasta"
    path.write_text("".join(f">p{i} {header}\n{found}\n" for i, (header, found) in enumerate(records)))
    taken, left_out = [], Tally()
    for i, (header, found) in enumerate(records):
        sequence, changes = normalise(found)
        for reason, count in changes.items():
            left_out.add(reason, count)
        if reason := reason_against(header, sequence, selection):
            left_out.add(reason, len(sequence))
        else:
            taken.append((f"p{i}", sequence))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protlm.sequence.fasta._BLOCK", block)
        part = read([path], folder, selection)
    ids, sequences, digests = columns_of(part)
    assert list(zip(ids, sequences, strict=True)) == taken
    assert part.tally.to_dict() == left_out.to_dict()
    assert (part.records, part.residues) == (len(taken), sum(map(len, sequences)))
    assert part.longest_id == max((len(name) for name in ids), default=0)
    assert [f"{high:016x}{low:016x}" for high, low in digests.tolist()] == [
        xxhash.xxh3_128_hexdigest(sequence.encode()) for sequence in sequences
    ]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, "abcd"),
        ({"min_length": 3}, "bcd"),
        ({"min_length": 4}, "cd"),
        ({"max_length": 3}, "ab"),
        ({"max_length": 4}, "abc"),
        ({"min_length": 3, "max_length": 3}, "b"),
        ({"fragments": False}, "ad"),
        ({"nonstandard": "drop"}, "abc"),
    ],
)
def test_bounds_are_inclusive(tmp_path: Path, options: dict[str, Any], taken: str) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(">a\nMK\n>b x (Fragment)\nMKT\n>c (Fragments)\nMKTW\n>d\nMKTWU\n")
    assert "".join(columns_of(read([path], tmp_path, Selection(**options)))[0]) == taken


@pytest.mark.parametrize("letter", "BJOUXZ")
def test_every_nonstandard_letter_counts(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "a.fasta"
    sequences = [f"{letter}KT", "MKT", f"{letter}KT", f"MK{letter}", f"M{letter}T", STANDARD]
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in zip("abcdef", sequences, strict=True)))
    part = read([path], tmp_path, Selection(nonstandard="drop"))
    assert columns_of(part)[0] == ["b", "f"]
    assert part.tally.records["left out, residues that are none of the twenty"] == 4
    assert part.tally.residues["left out, residues that are none of the twenty"] == 12


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nonstandard": "maybe"}, "nonstandard 'maybe': expected one of keep, drop"),
        ({"min_length": 0}, "min_length 0, max_length None"),
        ({"min_length": -5}, "min_length -5"),
        ({"min_length": 5, "max_length": 4}, "min_length 5, max_length 4"),
        ({"max_length": 0}, "min_length 1, max_length 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Selection(**options)


@pytest.mark.parametrize("buffer", [1, 2, 7, 64])
def test_tokens_are_written_and_counted_with_any_buffer(tmp_path: Path, sample: Path, monkeypatch, buffer) -> None:
    path = tmp_path / "some.fasta"
    records = [record for record, _ in zip(FastaFile(sample), range(20), strict=False)]
    path.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in records))
    monkeypatch.setattr("protlm.corpus.ingest._BUFFER", buffer)
    part = read([path], tmp_path, Selection())
    _, sequences, _ = columns_of(part)
    assert sequences == [record.sequence for record in records]
    tokens = (part.folder / "tokens").read_bytes()[START:]
    assert part.counts.tolist() == np.bincount(np.frombuffer(tokens, np.uint8), minlength=33).tolist()


def test_several_files_are_read_into_one_part_in_order(tmp_path: Path, write_fasta) -> None:
    first, second = write_fasta([("a", "MK"), ("b", "mK")], "first"), write_fasta([("c", "m")], "second")
    part = read([first, second, first], tmp_path, Selection())
    assert columns_of(part)[0] == ["a", "b", "c", "a", "b"]
    assert [source["name"] for source in part.sources] == ["first", "second", "first"]
    assert part.tally.to_dict() == {"lower case made upper case": {"records": 3, "residues": 3}}


def test_progress_covers_all_files_and_ends_with_their_bytes(tmp_path: Path, write_fasta) -> None:
    files = [write_fasta([("a", "MKT" * (n + 1))], f"{n}.fasta") for n in range(3)]
    steps: list[int] = []
    read_part([FastaFile(path) for path in files], tmp_path / "part", Selection(), steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == sum(path.stat().st_size for path in files)


@given(st.lists(st.text("MKTW", max_size=9), min_size=1, max_size=9))
def test_counts_are_those_of_the_selected_records(fresh: Callable[[], Path], sequences: list[str]) -> None:
    folder = fresh()
    (folder / "a").write_text("".join(f">p\n{sequence}\n" for sequence in sequences))
    part = read([folder / "a"], folder, Selection(min_length=3))
    expected = Counter("".join(sequence for sequence in sequences if len(sequence) >= 3))
    assert {letter: int(part.counts[code]) for letter, code in zip("MKTW", (20, 15, 11, 22), strict=True)} == {
        letter: expected[letter] for letter in "MKTW"
    }
    assert part.counts.sum() == expected.total()
