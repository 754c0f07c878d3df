"""Alignments relative to a query, read from and written to the formats of common programs."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from protlm.errors import UserError
from protlm.homology.alignment import Alignment, read_alignment, write_alignment

QUERY = "MKTAYIAKQRMK"
ROWS = [QUERY, "aaMKT-YI--QRMKxx", "-KgaTA-IAWQRM-", "--TAYccIAKQ---"]
FORMATS = ["a3m", "a2m", "fasta", "sto", "aln"]


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str, name: str = "family.txt") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


@pytest.fixture
def family() -> Alignment:
    return Alignment(QUERY, ["q", "b", "b", "c/3-9"], ROWS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_is_read_again(family: Alignment, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"family.{suffix}"
    write_alignment(path, family)
    again = read_alignment(path)
    assert (again.query, again.rows) == (family.query, family.rows)
    distinct = ["q", "b", "b_2", "c/3-9"] if suffix in ("sto", "aln") else family.ids
    assert again.ids == distinct


@pytest.mark.parametrize("suffix", ["a2m", "fasta", "sto", "aln"])
def test_rows_have_equal_length_except_in_a3m(family: Alignment, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"family.{suffix}"
    write_alignment(path, family)
    other = (">", "# ", "//", "CLUSTAL")
    rows = [line.split()[-1] for line in path.read_text().splitlines() if line and not line.startswith(other)]
    assert len(rows) == (5 if suffix == "sto" else 4)
    assert {len(row) for row in rows} == {20}


def test_the_query_can_be_any_row_or_a_part(family: Alignment, tmp_path: Path) -> None:
    expected = {
        QUERY: ROWS,
        "AAMKTYIQRMKXX": ["AAMKTYIQRMKXX", "--MKTaYIakQRMK--", "---KgaTa-IawQRM---", "----TaYccIakQ-----"],
        "TAYIA": ["TAYIA", "T-YI-", "TA-IA", "TAYccIA"],
        f"AAW{QUERY}C": [f"AAW{QUERY}C", "---aaMKT-YI--QRMKxx-", "----KgaTA-IAWQRM--", "-----TAYccIAKQ----"],
    }
    for suffix in FORMATS:
        path = tmp_path / f"family.{suffix}"
        write_alignment(path, family)
        for query, rows in expected.items():
            assert read_alignment(path, query.lower()).rows == rows


def test_a_part_of_one_row_is_cut_out_of_all(write) -> None:
    path = write(">a\nWWMKTAYW\n>b\nCCM-TWYC\n", "family.fasta")
    assert read_alignment(path, "MKTAY").rows == ["MKTAY", "M-TWY"]
    assert read_alignment(path, "CMTWYC").rows == ["CMTWYC", "WMkTAYW"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (">q\nTA-yI\n>b\nTAAYI\n>c\n.GCy-\n", ["TAYI", "TAaYI", "-GcY-"]),  # EVcouplings: low occupancy in lower case
        (">q\nTAYI\n>b\nTAaYI\n>c\n-GcY-\n", ["TAYI", "TAaYI", "-GcY-"]),
        (">q\nTA.YI\n>b\nTAaYI\n>c\n-G.Y-\n", ["TAYI", "TAaYI", "-GY-"]),
        (">q\ntayi\n>b\ntgy-\n", ["TAYI", "TGY-"]),  # soft-masked
        (">q\nTAYI*\n>b\nT~Y_*\n", ["TAYI", "T-Y-"]),
        (">q\nTXZI\n>b\nTUBJ\n", ["TXZI", "TUBJ"]),
        ("#4\t1\n>q\nTAYI\n>b\nTAcYI\n\0", ["TAYI", "TAcYI"]),  # ColabFold
        (">ss_pred\nCHHC\n>ss_conf\n9876\n>q\nTAYI\n>q_consensus\nTAYx\n>b\nTA-I\n", ["TAYI", "TA-I"]),  # HHsuite
        (">q\nTA YI\n>b\r\nTAY\nI\r\n", ["TAYI", "TAYI"]),
        (
            "# STOCKHOLM 1.0\n#=GF ID x\n\nq TA\nb T-\nb G.\n#=GC RF xx\n\nq YI\nb yI\nb -L\n//\n",
            ["TAYI", "T-YI", "G--L"],
        ),
        (
            "CLUSTAL O(1.2.4) multiple sequence alignment\n\n\nq TAY 3\nb T-Y 2\n  * *\n\nq I 4\nb L 3\n",
            ["TAYI", "T-YL"],
        ),
        ("\nCLUSTAL W\n\nq TAYI\nb T-YL\n", ["TAYI", "T-YL"]),
        ("MUSCLE (3.8) multiple sequence alignment\n\nq TAYI\nb T-YL\n  * *\n", ["TAYI", "T-YL"]),
    ],
)
def test_files_as_programs_write_them(write, text: str, rows: list[str]) -> None:
    alignment = read_alignment(write(text))
    assert alignment.rows == rows
    assert alignment.query == rows[0]


def test_a3m_is_recognised_without_unequal_lengths(write) -> None:
    path = write(">a\nTAcYI\n>q\nTgAYI\n")
    assert read_alignment(path, "TGAYI").rows == ["TGAYI", "T-AcYI"]
    assert read_alignment(write(">a\nTAcYI\n>q\nTAgYI\n"), "TAGYI").rows == ["TAGYI", "TACYI"]


def test_compressed_files_are_read(write, tmp_path: Path) -> None:
    (tmp_path / "family.a3m.gz").write_bytes(gzip.compress(b">q\nTAYI\n>b\nTAcYI\n"))
    assert len(read_alignment(tmp_path / "family.a3m.gz")) == 2
    (tmp_path / "cut.gz").write_bytes(
        gzip.compress(b">q\n" + bytes(np.random.default_rng(0).integers(65, 90, 9999)))[:-99]
    )
    with pytest.raises(UserError, match="cut.gz: damaged or cut short"):
        read_alignment(tmp_path / "cut.gz")


def test_codes_and_coverage_count_the_twenty(family: Alignment) -> None:
    alignment = Alignment("MKX", ["q", "b"], ["MKX", "-Ua-"])
    assert alignment.codes.tolist() == [[10, 8, 20], [20, 20, 20]]
    assert alignment.coverage.tolist() == [1, 1, 0]
    assert family.coverage.tolist() == [2, 3, 4, 3, 3, 4, 3, 3, 4, 3, 3, 2]
    assert family.select([False, True, False, True]).rows == [ROWS[0], ROWS[1], ROWS[3]]


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("", None, "empty; expected an alignment in A2M, A3M, aligned FASTA, Stockholm or Clustal format"),
        ("TAYI\n", None, "its first line does not start with '>'; expected an alignment"),
        ("LOCUS       NP_000508 142 aa\n", None, "found GenBank; expected an alignment"),
        (">a\n\n", None, "the first record has no residues"),
        (">a\nTAYI\n>b\nTAY\n", None, r"record 2 \(b\): 3 columns; expected 4 .* do not seem to be aligned"),
        (">a\nTAYI\n>b\nTAaY\n>c\nTAcYI\n", None, r"record 2 \(b\): 3 columns; expected 4"),
        (">a\nTAYI\n>b\nT4YI\n", None, r"record 2 \(b\): '4' is neither a residue nor a gap"),
        (">a\nTAYI\n>b\nTGYI\n", "TWYW", r"none of its 2 sequences .* has 4 residues and differs at 2 positions"),
        (">a\nTAYI\n>b\nTGYI\n", "WWWWWWTAYIWWWW", "none of its 2 sequences is the protein of 14 residues"),
        ("# STOCKHOLM 1.0\n\nq TA\n", None, "cut short; expected '//'"),
        ("# STOCKHOLM 1.0\n\nq TA YI\n//", None, "line 3: expected a name and a row"),
        ("# STOCKHOLM 1.0\n//\n", None, "no sequences"),
    ],
)
def test_other_files_are_refused(write, text: str, query: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_alignment(write(text), query)


def test_an_unknown_suffix_is_refused(family: Alignment, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"family\.doc: expected an alignment, a file name that ends in \.a3m"):
        write_alignment(tmp_path / "family.doc", family)
    write_alignment(tmp_path / "family.doc", family, "a3m")
    assert read_alignment(tmp_path / "family.doc").rows == family.rows
    with pytest.raises(UserError, match="format 'pdf': expected one of a3m"):
        write_alignment(tmp_path / "family.a3m", family, "pdf")


@pytest.mark.parametrize("rows", [["MKA"], ["MKT", "MK"], ["MKT", "MK--"]])
def test_rows_of_other_widths_are_refused(rows: list[str]) -> None:
    with pytest.raises(ValueError, match="alignment"):
        Alignment("MKT", ["q", "b"][: len(rows)], rows)
