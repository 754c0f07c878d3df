from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.batching import permutation as module
from protlm.batching.permutation import Permutation, mix, permutation

LISTED = module._LISTED
LARGE = [LISTED + 1, 1 << 17, (1 << 17) + 1, 1_000_000]


def network(size: int, *key: int) -> Permutation:
    """A permutation of any size by the Feistel network."""
    with patch.object(module, "_LISTED", 0):
        return Permutation(size, key)


def deviations(counts: np.ndarray, expected: float) -> float:
    """Deviation of the chi-square statistic of counts from its mean, in standard deviations."""
    freedom = counts.size - 1
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@given(st.integers(0, 3000), st.integers(0, 1 << 40), st.sampled_from([0, LISTED]))
def test_every_number_occurs_once_at_any_size(size: int, key: int, listed: int) -> None:
    with patch.object(module, "_LISTED", listed):
        order = Permutation(size, (key, 1, 2))(np.arange(size))
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", [LISTED - 1, LISTED, *LARGE])
def test_every_number_occurs_once_around_the_smallest_feistel_network(size: int) -> None:
    assert (np.bincount(Permutation(size, (3, 1, 0))(np.arange(size)), minlength=size) == 1).all()


@given(st.integers(1, 1 << 40), st.integers(0, 99), st.data())
def test_any_position_can_be_computed_alone(size: int, key: int, data: st.DataObject) -> None:
    """Even if the whole order would not fit into memory."""
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    with patch.object(module, "_LISTED", 1000):
        order = Permutation(size, (key,))
        together = order(np.array(places))
        assert [order(np.array([place]))[0] for place in places] == together.tolist()
    assert together.min() >= 0
    assert together.max() < size
    assert len(set(together.tolist())) == len(set(places))


def test_positions_are_not_changed_in_place() -> None:
    for size in (10, 100_000):
        places = np.arange(10)
        Permutation(size, (0,))(places)[:] = 0
        assert places.tolist() == list(range(10))
        assert permutation(size, (0,))(places).tolist() == Permutation(size, (0,))(places).tolist()


@pytest.mark.parametrize("size", [1000, 100_000])
def test_the_order_depends_on_the_key_only(size: int) -> None:
    keys = [(0, 1, 0), (0, 1, 1), (1, 1, 0), (0, 4, 0, 0), (0, 4, 1, 0), (0, 4, 0, 1), (1 << 40, 1, 0)]
    orders = [Permutation(size, key)(np.arange(size)) for key in keys]
    for number, (key, order) in enumerate(zip(keys, orders, strict=True)):
        assert np.array_equal(Permutation(size, key)(np.arange(size)), order)
        for other in orders[:number]:
            assert (order == other).sum() < 12  # chance has 1; more than 11 in one of 10^9 cases


@pytest.mark.parametrize("size", LARGE)
def test_fixed_points_are_as_rare_as_by_chance(size: int) -> None:
    places = np.arange(size)
    staying = sum(int((Permutation(size, (key, 1, 0))(places) == places).sum()) for key in range(8))
    assert staying < 30  # Poisson of mean 8


@pytest.mark.parametrize("size", [LISTED, *LARGE])
def test_numbers_are_spread_evenly_over_positions(size: int) -> None:
    """Each range of numbers has its share of every range of positions."""
    places = np.arange(size)
    for key in range(3):
        order = Permutation(size, (key, 1, 0))(places)
        table = np.histogram2d(places, order, bins=32, range=[[0, size], [0, size]])[0]
        assert abs(deviations(table, size / 1024)) < 5
        remainders = np.histogram2d(places % 7, order % 9, bins=[7, 9])[0]
        assert abs(deviations(remainders, size / 63)) < 6


@pytest.mark.parametrize("size", [LISTED, *LARGE])
@pytest.mark.parametrize("lag", [1, 2, 256])
def test_numbers_at_neighbouring_positions_are_independent(size: int, lag: int) -> None:
    for key in range(3):
        order = Permutation(size, (key, 1, 0))(np.arange(size))
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 5 / np.sqrt(size)
        steps = np.histogram((order[lag:] - order[:-lag]) % size, bins=64, range=(0, size))[0]
        assert abs(deviations(steps, (size - lag) / 64)) < 5


@pytest.mark.parametrize("size", [257, 1000, 1024])
def test_each_position_gets_every_number_equally_often_over_keys(size: int) -> None:
    keys = 4096
    places = np.array([0, 1, size // 2, size - 1])
    numbers = np.array([network(size, 5, 1, key)(places) for key in range(keys)])
    for column in numbers.T:
        counts = np.bincount(column * 64 // size, minlength=64)
        shares = np.bincount(np.arange(size) * 64 // size, minlength=64) / size
        assert abs(((counts - keys * shares) ** 2 / (keys * shares)).sum() - 63) < 5 * np.sqrt(2 * 63)
    together = np.histogram2d(numbers[:, 0], numbers[:, 1], bins=8, range=[[0, size], [0, size]])[0]
    assert abs(deviations(together, keys / 64)) < 6


def test_hashes_of_neighbours_differ_in_half_of_their_bits() -> None:
    numbers = np.arange(1, 20_000, dtype=np.uint64)
    for bit in (0, 1, 31, 63):
        changed = mix(numbers) ^ mix(numbers ^ np.uint64(1 << bit))
        each = np.array([(changed >> np.uint64(i) & np.uint64(1)).mean() for i in range(64)])
        assert np.abs(each - 0.5).max() < 0.05
    assert len(np.unique(mix(numbers))) == len(numbers)
