"""The search for homologs, against HMMER as pyhmmer runs it over the whole database."""

import gzip
from pathlib import Path

import pyhmmer
import pytest
import zstandard
from pyhmmer.easel import TextSequence

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.hmmer import AMINO
from protlm.homology.options import SearchOptions
from protlm.homology.search import find_homologs, search
from protlm.homology.targets import Targets
from tests.homology.families import QUERY, database

ONCE = SearchOptions(iterations=1)


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    return database()


@pytest.fixture(scope="module")
def fasta(records: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "proteins.fasta"
    path.write_text("".join(f">{name} text\n{sequence[:60]}\n{sequence[60:]}\n" for name, sequence in records))
    return path


@pytest.fixture(scope="module")
def family(fasta: Path) -> Alignment:
    return find_homologs(QUERY, [fasta], threads=1)


def included(hits: pyhmmer.plan7.TopHits) -> list[str]:
    """Names as this project gives them, in HMMER's order."""
    return [
        f"{hit.name}/{domain.alignment.target_from}-{domain.alignment.target_to}"
        for hit in hits.included
        for domain in hit.domains.included
    ]


def test_one_iteration_finds_what_phmmer_finds(fasta: Path, records: list[tuple[str, str]]) -> None:
    whole = [TextSequence(name=name, sequence=sequence).digitize(AMINO) for name, sequence in records]
    query = TextSequence(name="query", sequence=QUERY).digitize(AMINO)
    for evalue in (1e-3, 1e-8):
        options = {"cpus": 1, "incE": evalue, "incdomE": evalue}
        (hits,) = pyhmmer.hmmer.phmmer([query], whole, **options)
        found = find_homologs(QUERY, [fasta], options=SearchOptions(1, evalue))
        assert found.ids[1:] == included(hits)
        (best, *_) = hits
        aligned = best.best_domain.alignment
        row = "-" * (aligned.hmm_from - 1) + aligned.target_sequence + "-" * (len(QUERY) - aligned.hmm_to)
        assert found.rows[1] == row
    assert 5 < len(found) < len(find_homologs(QUERY, [fasta], options=ONCE)) <= 31


def test_several_iterations_find_and_align_what_jackhmmer_does(
    family: Alignment, fasta: Path, records: list[tuple[str, str]]
) -> None:
    whole = [TextSequence(name=name, sequence=sequence).digitize(AMINO) for name, sequence in records]
    query = TextSequence(name="query", sequence=QUERY).digitize(AMINO)
    jackhmmer = pyhmmer.plan7.Pipeline(AMINO, incE=1e-3, incdomE=1e-3)
    search_on = jackhmmer.iterate_seq(query, pyhmmer.easel.DigitalSequenceBlock(AMINO, whole))
    for iterations in (1, 2, 3):
        found = find_homologs(QUERY, [fasta], options=SearchOptions(iterations))
        alignment = next(search_on).msa.textize()
        names = [name.rsplit("|")[-1] for name in alignment.names]
        own = alignment.alignment[names.index("query")]
        rows = {
            name: "".join(
                letter if letter.isupper() else "-" for letter, q in zip(row, own, strict=True) if q.isalpha()
            )
            for name, row in zip(names, alignment.alignment, strict=True)
        }
        assert {
            name: "".join(letter for letter in row if not letter.islower())
            for name, row in zip(found.ids, found.rows, strict=True)
        } == rows
    assert found == family


def test_more_iterations_find_more_distant_homologs(family: Alignment, fasta: Path) -> None:
    first = find_homologs(QUERY, [fasta], options=ONCE)
    assert {name.split("/")[0] for name in first.ids} < {name.split("/")[0] for name in family.ids}
    assert all(name.startswith("h") for name in family.ids[1:])


def test_columns_are_the_residues_of_the_query(family: Alignment, records: list[tuple[str, str]]) -> None:
    sequences = dict(records)
    assert family.rows[0] == family.query == QUERY
    for name, row in zip(family.ids[1:], family.rows[1:], strict=True):
        protein, _, span = name.partition("/")
        start, stop = map(int, span.split("-"))
        assert row.replace("-", "").upper() == sequences[protein][start - 1 : stop]


@pytest.mark.parametrize("block", [1, 500, 10**9])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_do_not_change_the_alignment(
    family: Alignment, fasta: Path, block: int, threads: int
) -> None:
    assert find_homologs(QUERY, Targets([fasta], block=block), threads=threads) == family


def test_files_are_one_database(family: Alignment, fasta: Path, tmp_path: Path) -> None:
    text = fasta.read_text()
    cut = text.index(">", len(text) // 2)
    (tmp_path / "a.fasta.gz").write_bytes(gzip.compress(text[:cut].encode()))
    (tmp_path / "b.fasta.zst").write_bytes(zstandard.compress(text[cut:].encode()))
    assert find_homologs(QUERY, [tmp_path / "a.fasta.gz", tmp_path / "b.fasta.zst"]) == family


def test_queries_of_one_search_do_not_influence_each_other(family: Alignment, fasta: Path) -> None:
    other = QUERY[::-1]
    first, second, third, again = search([QUERY, other, QUERY[10:60].lower(), QUERY], Targets([fasta]), SearchOptions())
    assert first == family
    assert (second.query, second.ids) == (other, ["query"])
    assert third == find_homologs(QUERY[10:60], [fasta])
    assert again == family


def test_queries_are_searched_in_groups(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [QUERY[start : start + 40] for start in range(0, 50, 10)]
    whole = list(search(queries, Targets([fasta]), ONCE))
    monkeypatch.setattr("protlm.homology.search.TOGETHER", 2)
    calls: list[tuple[int, int]] = []
    found = list(search(queries, Targets([fasta]), ONCE, progress=lambda done, total: calls.append((done, total))))
    assert found == whole
    assert [alignment.query for alignment in found] == queries
    assert calls[-1] == (3 * fasta.stat().st_size, 3 * fasta.stat().st_size)


def test_a_score_per_residue_replaces_the_evalue(fasta: Path) -> None:
    sizes = [len(find_homologs(QUERY, [fasta], options=SearchOptions(1, bits_per_residue=b))) for b in (0.1, 0.5, 1.5)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2] > 1
    doubled = find_homologs(QUERY, [fasta], options=SearchOptions(1, evalue=1e-300, bits_per_residue=0.5))
    assert len(doubled) == sizes[1]


def test_only_the_best_are_kept(family: Alignment, fasta: Path) -> None:
    few = find_homologs(QUERY, Targets([fasta], block=500), options=SearchOptions(iterations=1, most=3), threads=2)
    assert few.ids == find_homologs(QUERY, [fasta], options=ONCE).ids[:4]


def test_progress_reaches_the_bytes_of_all_iterations(fasta: Path) -> None:
    calls: list[tuple[int, int]] = []
    find_homologs(QUERY, [fasta], progress=lambda done, total: calls.append((done, total)))
    total = 3 * fasta.stat().st_size
    assert {call[1] for call in calls} == {total}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == total


@pytest.mark.parametrize("query", ["M", "MK", "XXXX", "MKUOBZJ", "W" * 300])
def test_odd_queries_have_no_homologs(fasta: Path, query: str) -> None:
    assert len(find_homologs(query, [fasta], options=ONCE)) == 1


def test_proteins_longer_than_hmmer_accepts_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "long.fasta").write_text(f">long\n{'ACDEFGHIKL' * 10_001}\n>q\n{QUERY}\n")
    targets = Targets([tmp_path / "long.fasta"])
    assert len(find_homologs(QUERY, targets, options=ONCE)) == 2
    assert targets.tally.describe() == ["1 record: left out, longer than HMMER's 100,000 residues"]
    with pytest.raises(UserError, match="query of 100,001 residues: HMMER accepts at most 100,000"):
        find_homologs("M" * 100_001, [tmp_path / "long.fasta"])


def test_targets_that_would_take_too_much_memory_are_left_out(
    family: Alignment, fasta: Path, records: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protlm.homology.search.CELLS", 200 * len(QUERY))
    targets = Targets([fasta], block=500)
    found = find_homologs(QUERY, targets, options=ONCE)
    first = find_homologs(QUERY, [fasta], options=ONCE)
    long = [name for name, sequence in records if len(sequence) > 200]
    assert found == first.select([name.split("/")[0] not in long for name in first.ids])
    (line,) = targets.tally.describe()
    assert line == f"{len(long)} records: left out, longer than 200 residues, too long to compare with a query of 90"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected FASTA"),
        (b">a\n\n>b\n\n", "no record has a sequence"),
        (b">a\n" + b"ACGT" * 100 + b"\n", "looks like nucleotides"),
        (gzip.compress(b">a\n" + b"MKTW" * 5000 + b"\n", mtime=0)[:-9], "damaged or cut short"),
        (b">a\nMK5T\n", "'5' at position 3 is not a residue"),
        (b"# STOCKHOLM 1.0\n", "expected FASTA, found a Stockholm alignment"),
    ],
)
def test_an_unusable_database_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_homologs(QUERY, [tmp_path / "db"])


@pytest.mark.parametrize("options", [{"iterations": 0}, {"evalue": 0}, {"bits_per_residue": -1}, {"most": 0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        SearchOptions(**options)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty"),
        ("*", "the query is empty"),
        ("MK-T", "'-' at position 3"),
        ("MK1T", "'1' at position 3"),
    ],
)
def test_a_query_that_is_no_protein_is_refused(fasta: Path, query: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_homologs(query, [fasta])


def test_one_database_needs_no_list(fasta: Path) -> None:
    query = "MKTAYIAKQRQISFVKSHFSRQ"
    assert find_homologs(query.lower(), str(fasta)) == find_homologs(query, [fasta])
