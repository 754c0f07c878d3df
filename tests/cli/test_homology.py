"""The command `protlm homologs`."""

import gzip
from pathlib import Path

import pytest

from protlm.homology.alignment import read_alignment
from protlm.homology.alignment_output import FORMATS
from protlm.homology.search import find_homologs
from protlm.homology.targets import Targets
from tests.command import assert_refused
from tests.homology.families import QUERY, database


@pytest.fixture
def swissprot(write_fasta) -> Path:
    return write_fasta(database(), "swissprot.fasta")


@pytest.fixture
def query(write_fasta) -> Path:
    return write_fasta([("sp|P1|A_B", QUERY)], "query.fasta")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "protlm" / "homologs"


def test_homologs_are_written_and_counted(protlm, query: Path, swissprot: Path, tmp_path: Path, cache: Path) -> None:
    output, picture = tmp_path / "family.a3m", tmp_path / "coverage.png"
    found = protlm("homologs", query, swissprot, "-o", output, "--coverage", picture, "--threads", 1)
    assert (found.code, found.out) == (0, "")
    first, second = found.err.splitlines()
    alignment = read_alignment(output, QUERY)
    assert alignment.rows == find_homologs(QUERY, [swissprot]).rows
    assert alignment.ids[0] == "P1"
    assert first.startswith(f"{output}: {len(alignment)} sequences with the query, ")
    assert second.startswith("effective sequences by position: ")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(cache.iterdir())) == 1

    swissprot_content = output.read_bytes()
    again = protlm("homologs", query, swissprot, "-o", output)
    assert again.err == found.err
    assert output.read_bytes() == swissprot_content


@pytest.mark.parametrize("suffix", ["a2m", "afa", "sto", "aln"])
def test_the_suffix_chooses_the_format(protlm, query: Path, swissprot: Path, tmp_path: Path, suffix: str) -> None:
    assert protlm("homologs", query, swissprot, "-o", tmp_path / f"family.{suffix}", "--iterations", 1).code == 0
    printed = protlm("homologs", QUERY, swissprot, "--iterations", 1)
    (tmp_path / "printed").write_text(printed.out)
    assert read_alignment(tmp_path / f"family.{suffix}").rows == read_alignment(tmp_path / "printed").rows
    assert printed.err.startswith("sequence: ")


def test_several_proteins_have_a_file_each(protlm, write_fasta, swissprot: Path, tmp_path: Path, cache: Path) -> None:
    queries = write_fasta([("a/b", QUERY), ("..", QUERY[::-1]), ("a/b", QUERY[20:])], "queries.fasta")
    folder = tmp_path / "families"
    found = protlm("homologs", queries, swissprot, "-o", folder, "--no-cache", "--iterations", 1)
    assert found.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["_..a3m", "a_b.a3m", "a_b_2.a3m"]
    assert [len(read_alignment(folder / name)) > 1 for name in ("a_b.a3m", "_..a3m", "a_b_2.a3m")] == [
        True,
        False,
        True,
    ]
    assert "warning: ..: no homologs found; the alignment is the protein alone" in found.err
    assert len(found.err.splitlines()) == 3
    assert not cache.exists()
    assert_refused(protlm("homologs", queries, swissprot), "3 proteins: expected --output with a folder")
    assert_refused(protlm("homologs", queries, swissprot, "-o", folder, "--coverage", "x.png"), "draws one protein")
    for suffix in (".h5", *FORMATS):
        assert_refused(protlm("homologs", queries, swissprot, "-o", tmp_path / f"x{suffix}"), "looks like a file")


def test_what_is_left_out_of_the_database_is_reported(protlm, query: Path, tmp_path: Path) -> None:
    path = tmp_path / "database.fasta"
    path.write_text(f">a\nMK5\n>b\n{QUERY}\n>c\n{QUERY.lower()}*\n")
    assert_refused(protlm("homologs", query, path), f"{path}, record 1 (a), line 2: '5' at position 3")
    found = protlm("homologs", query, path, "--invalid", "skip")
    assert found.code == 0
    assert found.out.startswith(f">P1\n{QUERY}\n>b/1-90\n{QUERY}\n>c/1-90\n{QUERY}\n")
    assert f"skipped: {path}, record 1 (a), line 2" in found.err
    assert "1 record: final stop removed (1 residue)" in found.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected FASTA"),
        (b">a\n" + b"ACGT" * 100, "looks like nucleotides, not proteins"),
        (gzip.compress(b">a\n" + b"MKTW" * 9000, mtime=0)[:-20], "damaged or cut short"),
        (None, "no such file"),
    ],
)
def test_an_unusable_database_is_one_line(
    protlm, query: Path, tmp_path: Path, cache: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "database"
    if content is not None:
        path.write_bytes(content)
    assert_refused(protlm("homologs", query, path, "-o", tmp_path / "x.a3m"), path, words)
    assert not (tmp_path / "x.a3m").exists()
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DNA", "DB"], "looks like nucleotides"),
        (["ACGTACGTAC" * 10, "DB"], "looks like nucleotides"),
        (["EMPTY", "DB"], "no record has a sequence"),
        (["MK5", "DB"], "neither an existing file nor a sequence"),
        (["M" * 100_001, "DB"], "query of 100,001 residues: HMMER accepts at most 100,000"),
        ([QUERY, "-"], "a database is read several times; write it to a file first"),
        ([QUERY, "DB", "DB"], "is given twice"),
        ([QUERY, "DB", "-o", "x.txt"], "a file name that ends in .a3m"),
        ([QUERY, "DB", "-o", "DB"], "--output"),
        ([QUERY, "DB", "--iterations", "0"], "--iterations 0: expected at least 1"),
        ([QUERY, "DB", "--evalue", "-1"], "--evalue -1: expected a number above 0"),
        ([QUERY, "DB", "--bits-per-residue", "nan"], "--bits-per-residue nan: expected a number above 0"),
        ([QUERY, "DB", "--max-sequences", "0"], "--max-sequences 0: expected at least 1"),
        ([QUERY, "DB", "--cache", "x", "--no-cache"], "--cache and --no-cache exclude each other"),
        ([QUERY, "DB", "--evalue", "1e-3", "--bits-per-residue", "0.5"], "--evalue and --bits-per-residue exclude"),
    ],
)
def test_unusable_arguments_are_one_line(
    protlm, write_fasta, swissprot: Path, arguments: list[str], words: str
) -> None:
    given: list[object] = [swissprot if argument == "DB" else argument for argument in arguments]
    if given[0] == "EMPTY":
        given[0] = write_fasta([("a", "")], "empty.fasta")
    if given[0] == "DNA":
        given[0] = write_fasta([("dna", "ACGTACGTAC" * 10)], "dna.fasta")
    assert_refused(protlm("homologs", *given), words)


def test_an_interrupt_leaves_nothing(
    protlm, query: Path, swissprot: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Targets.blocks

    def interrupted(targets: Targets):
        yield next(blocks(targets))
        raise KeyboardInterrupt

    monkeypatch.setattr(Targets, "blocks", interrupted)
    stopped = protlm("homologs", query, swissprot, "-o", tmp_path / "x.a3m")
    assert (stopped.code, stopped.err) == (130, "interrupted; no partial output was left\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["query.fasta", "swissprot.fasta"]
    assert not cache.exists()
