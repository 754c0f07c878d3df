"""Accessibility and secondary structure of structures made of alpha carbons."""

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.variants.assessment import assess
from protlm.variants.knowledge import Knowledge
from protlm.variants.notation import all_singles, parse
from protlm.variants.sources import Sources
from protlm.variants.structure import read_structure
from protlm.variants.tracks import tracks_of

struc = pytest.importorskip("biotite.structure", reason="biotite, an extra, is not installed")
NAMES = dict(zip("AGKLMV", ("ALA", "GLY", "LYS", "LEU", "MET", "VAL"), strict=True))
HELIX = "AKLAVGKLMAAKLVGALMKAVLGA"


def turn(number: int) -> tuple[float, float, float]:
    """The alpha carbon of a residue of an ideal helix, in angstroms."""
    angle = np.radians(100 * number)
    return 2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * number


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes chains, name -> (sequence, coordinates), as a PDB or mmCIF file."""

    def write(chains: dict[str, tuple[str, list]], name: str = "x.pdb") -> Path:
        from biotite.structure.io import pdb, pdbx

        atoms = [
            struc.Atom(place, chain_id=chain, res_id=i + 1, res_name=NAMES[letter], atom_name="CA", element="C")
            for chain, (sequence, places) in chains.items()
            for i, (letter, place) in enumerate(zip(sequence, places, strict=True))
        ]
        path = tmp_path / name
        file = pdb.PDBFile() if ".pdb" in name else pdbx.CIFFile()
        if ".pdb" in name:
            file.set_structure(struc.array(atoms))
        else:
            pdbx.set_structure(file, struc.array(atoms), data_block="made")
        file.write(path)
        return path

    return write


def ball(count: int) -> list[tuple[float, float, float]]:
    """Places on a grid, the one in the middle first, then by distance from it."""
    axis = np.arange(-2, 3) * 3.0
    places = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    return [tuple(place) for place in places[np.argsort((places**2).sum(1), kind="stable")][:count].tolist()]


@pytest.mark.parametrize("name", ["x.pdb", "x.cif"])
def test_residues_inside_are_buried(write, name: str) -> None:
    sequence = "AKLGV" * 20
    structure = read_structure(write({"A": (sequence, ball(100))}, name), sequence)
    assert (structure.chain, structure.resolved, len(structure.secondary)) == ("A", 100, 100)
    assert structure.buried[0] == 1
    assert structure.buried[0] > structure.buried[-20:].mean()
    assert ((structure.buried >= 0) & (structure.buried <= 1)).all()


def test_a_helix_is_a_helix(write) -> None:
    structure = read_structure(write({"A": (HELIX, list(map(turn, range(len(HELIX)))))}), HELIX)
    assert structure.secondary.count("H") > len(HELIX) / 2


def test_the_chain_is_chosen_by_its_sequence_and_placed_by_alignment(write) -> None:
    other = "GGGGGGGGGGGGGGG"
    places = [(x + 100, y, z) for x, y, z in map(turn, range(len(HELIX)))]
    path = write({"A": (other, list(map(turn, range(len(other))))), "B": (HELIX, places)})
    whole = "MMVVK" + HELIX[:10] + HELIX[12:] + "KK"  # two residues of the chain are not in the wild type
    structure = read_structure(path, whole)
    assert (structure.chain, structure.resolved) == ("B", len(HELIX) - 2)
    missing = np.r_[structure.buried[:5], structure.buried[-2:]]
    np.testing.assert_allclose(missing, structure.buried[5:-2].mean())
    packed = path.with_suffix(".pdb.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_structure(packed, whole).buried, structure.buried)


def test_structures_that_cannot_be_used_are_refused(write, tmp_path: Path) -> None:
    path = write({"A": (HELIX, list(map(turn, range(len(HELIX)))))})
    with pytest.raises(UserError, match="no chain resembles the wild type"):
        read_structure(path, "WWYYFFCCHHPPWWYYFF")
    with pytest.raises(UserError, match="no such file"):
        read_structure(tmp_path / "no.cif", HELIX)
    with pytest.raises(UserError, match=r"expected a structure, with a name that ends in \.cif"):
        read_structure(tmp_path / "x.txt", HELIX)
    (tmp_path / "bad.cif").write_text("not a structure")
    with pytest.raises(UserError, match=r"bad\.cif: cannot be read as a structure"):
        read_structure(tmp_path / "bad.cif", HELIX)


def test_a_structure_weighs_the_profile(write) -> None:
    sequence = "AKLGV" * 20
    path = write({"A": (sequence, ball(100))})
    alignment = Alignment(sequence, ["query", "a"], [sequence, sequence.replace("L", "V")])
    plain = assess(all_singles(sequence), Knowledge(alignment).of(sequence))
    weighed = assess(all_singles(sequence), Knowledge(alignment, structure=path).of(sequence))
    buried = read_structure(path, sequence).buried
    expected = plain.values * (buried / buried.mean())[weighed.variants.position]
    np.testing.assert_allclose(weighed.values, expected)
    assert "burial in chain A of the structure (100 of 100 residues)" in weighed.summary()
    alone = assess(all_singles(sequence), Knowledge(structure=path).of(sequence))
    assert "the structure is not used" in alone.summary()
    assert [track.name for track in tracks_of(weighed)] == ["coverage", "conservation", "structure", "buried"]
    assert [track.name for track in tracks_of(plain)] == ["coverage", "conservation"]


def test_deletions_keep_their_place_among_substitutions_in_an_evenly_buried_protein(write) -> None:
    sequence = "AKLGV" * 20
    alignment = Alignment(sequence, ["query", "a"], [sequence, sequence.replace("L", "V")])
    structure = read_structure(write({"A": (sequence, ball(100))}), sequence)
    deletions = parse(sequence, ["K2del", "L13_G14del"])
    plain = assess(deletions, Sources(alignment))
    for buried in (0.2, 0.0):
        even = dataclasses.replace(structure, buried=np.full(len(sequence), buried))
        weighed = assess(deletions, Sources(alignment, structure=even))
        np.testing.assert_allclose(weighed.percentile, plain.percentile)
