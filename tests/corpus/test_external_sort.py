from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.corpus.external_sort import Column, Partitions, groups, parts_for

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)), st.integers(1, 7), st.data())
def test_a_column_returns_the_appended_values(
    fresh: Callable[[], Path], pieces: list[list[int]], rows: int, data: st.DataObject
) -> None:
    with Column(fresh() / "some", "i8") as column:
        for piece in pieces:
            column.append(np.array(piece, dtype=np.int64))
        values = list(chain.from_iterable(pieces))
        assert len(column) == len(values)
        assert [value for block in column.blocks(rows) for value in block.tolist()] == values
        assert all(len(block) <= rows for block in column.blocks(rows))
        stop = data.draw(st.integers(0, len(values)))
        start = data.draw(st.integers(0, stop))
        if values:
            assert column.read(start, stop).tolist() == values[start:stop]


def test_a_column_can_be_read_between_appends_and_reopened(tmp_path: Path) -> None:
    with Column(tmp_path / "some", "u1") as column:
        column.append(np.array([1, 2]))
        assert column.read(0, 2).tolist() == [1, 2]
        column.append(np.array([3]))
    assert [block.tolist() for block in Column(tmp_path / "some", "u1").blocks()] == [[1, 2, 3]]


@given(
    st.lists(st.lists(st.tuples(numbers, st.integers(0, 3), numbers), max_size=20), max_size=4),
    st.integers(1, 9),
)
def test_sorted_partitions_make_up_the_sorted_table(
    fresh: Callable[[], Path], blocks: list[list[tuple[int, int, int]]], count: int
) -> None:
    parts = Partitions(fresh() / "table", 3, count)
    for block in blocks:
        rows = np.array(block, dtype=np.uint64).reshape(-1, 3)
        parts.add(parts.by_hash(rows[:, 0]), *rows.T)
    found = [tuple(map(int, row)) for columns in parts.sorted([0, 1]) for row in zip(*columns, strict=True)]
    # rows with equal keys keep their order
    assert found == sorted(chain.from_iterable(blocks), key=lambda row: row[:2])


@given(st.integers(1, 2_000), st.integers(1, 500))
def test_indices_go_to_ascending_partitions_of_similar_size(fresh: Callable[[], Path], size: int, count: int) -> None:
    parts = Partitions(fresh() / "table", 1, count)
    found = parts.by_index(np.arange(size), size)
    assert (np.diff(found.astype(np.int64)) >= 0).all()
    assert found.max() < count
    assert np.bincount(found.astype(np.int64)).max() <= size // count + 1


@given(st.lists(numbers, min_size=1), st.integers(1, 500))
def test_hashes_go_to_ascending_partitions(fresh: Callable[[], Path], hashes: list[int], count: int) -> None:
    parts = Partitions(fresh() / "table", 1, count)
    found = parts.by_hash(np.array(hashes, dtype=np.uint64)).tolist()
    assert found == [(value >> 32) * count >> 32 for value in hashes]
    assert max(found) < count


def test_sorted_partitions_leave_no_file(tmp_path: Path) -> None:
    parts = Partitions(tmp_path / "table", 1, 3)
    parts.add(np.array([0, 2, 2]), np.array([5, 6, 4]))
    assert [columns[0].tolist() for columns in parts.sorted([0])] == [[5], [], [4, 6]]
    assert not list((tmp_path / "table").iterdir())


@pytest.mark.parametrize(("rows", "parts"), [(0, 1), (4, 1), (5, 2), (24, 5), (499, 100)])
def test_a_partition_fits_in_memory(monkeypatch, rows: int, parts: int) -> None:
    monkeypatch.setattr("protlm.corpus.external_sort._ROWS", 5)
    assert parts_for(rows) == parts


def test_the_number_of_partitions_is_bounded() -> None:
    assert parts_for(10**9) <= parts_for(10**15) == parts_for(10**18) <= 1_000


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))).map(sorted))
def test_groups_start_where_a_row_differs_from_the_previous_one(rows: list[tuple[int, int]]) -> None:
    columns = np.array(rows, dtype=np.uint64).reshape(-1, 2).T
    expected = [i == 0 or rows[i] != rows[i - 1] for i in range(len(rows))]
    assert groups(*columns).tolist() == expected
