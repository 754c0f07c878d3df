"""Alignments of earlier searches."""

import os
import shutil
from pathlib import Path

import pytest

from protlm.errors import ProtlmWarning, UserError
from protlm.files import atomic_output
from protlm.homology import search as searching
from protlm.homology.alignment import Alignment
from protlm.homology.cache import AlignmentCache, default_folder
from protlm.homology.options import SearchOptions
from protlm.homology.search import find_homologs, search
from protlm.homology.targets import Targets
from tests.homology.families import QUERY, database

ONCE = SearchOptions(iterations=1)


@pytest.fixture
def fasta(write_fasta) -> Path:
    return write_fasta(database(5, 20))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of HMMs compared in each pass over the database."""
    calls: list[int] = []
    compare = searching._compare_all
    monkeypatch.setattr(
        searching, "_compare_all", lambda pairs, *rest: calls.append(len(pairs)) or compare(pairs, *rest)
    )
    return calls


def found(fasta: Path, cache: Path, options: SearchOptions = ONCE, query: str = QUERY) -> Alignment:
    return find_homologs(query, [fasta], options=options, cache=cache)


def test_a_repeated_search_gives_the_same_without_reading(fasta: Path, tmp_path: Path, passes: list[int]) -> None:
    first = found(fasta, tmp_path / "a" / "cache")
    assert len(first) > 1
    (path,) = (tmp_path / "a" / "cache").iterdir()
    content = path.read_bytes()
    assert found(fasta, tmp_path / "a" / "cache") == first
    assert passes == [1]
    assert path.read_bytes() == content
    assert found(fasta, tmp_path / "b") == first
    assert passes == [1, 1]
    (other,) = (tmp_path / "b").iterdir()
    assert (other.name, other.read_bytes()) == (path.name, content)


def test_other_queries_options_and_databases_are_searched(fasta: Path, tmp_path: Path, passes: list[int]) -> None:
    cache = tmp_path / "cache"
    found(fasta, cache)
    found(fasta, cache, query=QUERY[:-1])
    found(fasta, cache, SearchOptions(1, evalue=1e-4))
    with fasta.open("a") as file:
        file.write(f">more\n{QUERY}\n")
    assert found(fasta, cache).ids[1] == "more/1-90"
    assert passes == [1] * 4
    copy = tmp_path / "elsewhere.fasta"
    shutil.copy2(fasta, copy)
    found(copy, cache)
    assert passes == [1] * 4
    os.utime(copy, ns=(0, 0))
    found(copy, cache)
    assert passes == [1] * 5


def test_what_invalid_records_are_left_out_is_not_reused_where_they_are_errors(fasta: Path, tmp_path: Path) -> None:
    with fasta.open("a") as file:
        file.write(">bad\nMK5\n")
    skipping, strict = (Targets([fasta], invalid=invalid) for invalid in ("skip", "error"))
    kept = find_homologs(QUERY, skipping, options=ONCE, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="record 26 \\(bad\\)"):
        find_homologs(QUERY, strict, options=ONCE, cache=tmp_path / "cache")
    assert find_homologs(QUERY, skipping, options=ONCE, cache=tmp_path / "cache") == kept


def test_only_queries_that_are_not_kept_are_searched(fasta: Path, tmp_path: Path, passes: list[int]) -> None:
    found(fasta, tmp_path / "cache")
    queries = [QUERY[:50], QUERY, QUERY[20:], QUERY[:50]]
    whole = list(search(queries, Targets([fasta]), ONCE))
    assert list(search(queries, Targets([fasta]), ONCE, cache=tmp_path / "cache")) == whole
    assert passes == [1, 3, 2]


def test_a_damaged_file_is_replaced(fasta: Path, tmp_path: Path) -> None:
    first = found(fasta, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    for damaged in (b"", content[:50], b">query\nMKT\n"):
        path.write_bytes(damaged)
        assert found(fasta, tmp_path / "cache") == first
        assert path.read_bytes() == content


def test_a_process_that_stores_the_same_does_not_matter(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = AlignmentCache(tmp_path / "cache", [fasta], ONCE)
    with atomic_output(cache.path(QUERY)) as partial:
        alone = found(fasta, tmp_path / "cache")
        partial.write_text("x")
    assert len(alone) > 1


def test_a_folder_that_cannot_be_written_is_a_warning(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.warns(ProtlmWarning, match="alignments are not cached: "):
        assert len(found(fasta, tmp_path / "file")) > 1


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/protlm/homologs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "protlm" / "homologs"
