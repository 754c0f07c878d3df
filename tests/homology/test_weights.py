import numpy as np
import pytest

from protlm.homology.alignment import GAP
from protlm.homology.weights import sequence_weights


def family(count: int, length: int, changed: float, gaps: float = 0.1) -> np.ndarray:
    """Codes (count, length) of sequences that differ from a common ancestor."""
    generator = np.random.default_rng(count + length)
    ancestor = generator.integers(0, GAP, length)
    substituted = generator.random((count, length)) < changed
    codes = np.where(substituted, generator.integers(0, GAP, (count, length)), ancestor).astype(np.uint8)
    codes[generator.random((count, length)) < gaps] = GAP
    return codes


def counted_one_by_one(codes: np.ndarray, identity: float) -> list[float]:
    weights = []
    for row in codes:
        residue = row < GAP
        equal = ((codes == row) & residue).sum(1)
        weights.append(1 / np.count_nonzero(equal >= identity * residue.sum()))
    return weights


@pytest.mark.parametrize("changed", [0.02, 0.12, 0.5])
@pytest.mark.parametrize(("count", "length"), [(1, 5), (40, 7), (70, 64), (33, 129), (300, 200)])
def test_weights_equal_those_counted_one_by_one(
    monkeypatch: pytest.MonkeyPatch, count: int, length: int, changed: float
) -> None:
    monkeypatch.setattr("protlm.homology.weights._COLUMNS", 128)  # several blocks
    codes = family(count, length, changed)
    for identity in (0.8, 0.62):
        assert sequence_weights(codes, identity).tolist() == counted_one_by_one(codes, identity)


def test_identity_is_a_fraction_of_the_residues_of_each_sequence() -> None:
    whole = np.arange(10, dtype=np.uint8)
    part = np.where(whole < 5, whole, GAP).astype(np.uint8)
    # the part shares all its residues with the whole, which shares half
    assert sequence_weights(np.stack([whole, part])).tolist() == [1, 1 / 2]


def test_equal_gaps_are_no_likeness() -> None:
    codes = np.full((2, 100), GAP, dtype=np.uint8)
    codes[0, :10], codes[1, :10] = 1, 2
    assert sequence_weights(codes).tolist() == [1, 1]
