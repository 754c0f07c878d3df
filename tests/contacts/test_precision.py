"""Precision of contact maps against structures with known contacts."""

from pathlib import Path

import numpy as np
import pytest

from protlm.contacts.contact_map import ContactMap
from protlm.contacts.precision import RANGES, precision, read_contacts
from protlm.errors import UserError
from tests.contacts.structures import write_structure

pytest.importorskip("biotite.structure", reason="biotite, an extra, is not installed")
SEQUENCE = "AKLGVMKAGLKVAMGLKAVGKLAMGVKLAKGVLMAGKLVA"
HAIRPIN = [(0.0, 5.0 * i, 0.0) for i in range(20)] + [(6.0, 5.0 * (19 - i), 0.0) for i in range(20)]
"""Two strands side by side: i and 39 - i are 6 angstroms apart, i and 38 - i and 40 - i 7.8."""


def touching() -> np.ndarray:
    """(L, L) bool."""
    i, j = np.indices((40, 40))
    return (abs(i + j - 39) <= 1) & (np.minimum(i, j) < 20) & (np.maximum(i, j) >= 20)


def test_contacts_are_between_beta_carbons_and_alpha_carbons_of_glycine(tmp_path: Path) -> None:
    found = read_contacts(write_structure(tmp_path / "x.pdb", SEQUENCE, HAIRPIN), SEQUENCE)
    assert (found.chain, found.resolved.all()) == ("A", True)
    far = abs(np.subtract.outer(np.arange(40), np.arange(40))) >= 6
    np.testing.assert_array_equal(found.touching[far], touching()[far])
    assert found.distances[3, 36] == pytest.approx(6)


def test_residues_that_are_not_resolved_have_no_contacts_and_no_precision(tmp_path: Path) -> None:
    path = write_structure(tmp_path / "x.pdb", SEQUENCE, HAIRPIN, left_out=(0, 1, 30))
    found = read_contacts(path, SEQUENCE)
    assert np.flatnonzero(~found.resolved).tolist() == [0, 1, 30]
    assert not found.touching[30].any()
    best = np.zeros((40, 40), dtype=np.float32)
    best[30], best[:, 30] = 9, 9  # would all be wrong
    scores = best + touching()
    for one in precision(ContactMap(SEQUENCE, scores, "jacobian"), found):
        assert one.values[5] == 1, one.separation


def test_precision_is_the_share_of_contacts_among_the_best(tmp_path: Path) -> None:
    found = read_contacts(write_structure(tmp_path / "x.pdb", SEQUENCE, HAIRPIN), SEQUENCE)
    results = {}
    for sign in (1, -1):
        scores = (sign * touching()).astype(np.float32)
        results[sign] = {one.separation: one for one in precision(ContactMap(SEQUENCE, scores, "jacobian"), found)}
    i, j = np.triu_indices(40, 6)
    for name, (least, most) in RANGES.items():
        contacts = int((touching()[i, j] & (j - i >= least) & (j - i < (most or 40))).sum())
        best, worst = results[1][name], results[-1][name]
        assert best.contacts == worst.contacts == contacts
        assert best.values == {1: min(1, contacts / 40), 2: min(1, contacts / 20), 5: 1}
        assert worst.values[5] == 0


def test_a_range_without_pairs_is_nan(tmp_path: Path) -> None:
    short = SEQUENCE[:10]
    found = read_contacts(write_structure(tmp_path / "x.pdb", short, HAIRPIN[:10]), short)
    values = {one.separation: one.values[1] for one in precision(ContactMap(short, np.eye(10), "head"), found)}
    assert np.isnan(values["medium"])
    assert not np.isnan(values["short"])


def test_the_structure_of_another_protein_is_refused(tmp_path: Path) -> None:
    path = write_structure(tmp_path / "x.pdb", SEQUENCE, HAIRPIN)
    with pytest.raises(UserError, match="no chain resembles the sequence"):
        read_contacts(path, "WWYYFFCCHHPPWWYYFF")
