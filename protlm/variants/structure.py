"""Solvent accessibility and secondary structure of a protein, from a file of the Protein Data Bank or a prediction.

Legend: L residues of the wild type.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.stream import Source

LARGEST = {
    "A": 129.0, "R": 274.0, "N": 195.0, "D": 193.0, "C": 167.0, "Q": 225.0, "E": 223.0, "G": 104.0, "H": 224.0,
    "I": 197.0, "L": 201.0, "K": 236.0, "M": 224.0, "F": 240.0, "P": 159.0, "S": 155.0, "T": 172.0, "W": 285.0,
    "Y": 263.0, "V": 174.0,
}  # fmt: skip
"""Solvent-accessible surface of the residue X in Gly-X-Gly, in square angstroms (Tien et al. 2013, theoretical)."""
LEAST = 0.5
"""Fraction of the aligned residues of a chain that are those of the wild type, at least."""
_MODIFIED = {"MSE": "M", "SEC": "U", "PYL": "O", "SEP": "S", "TPO": "T", "PTR": "Y", "HYP": "P", "CSO": "C", "KCX": "K"}
_ELEMENTS = {"a": "H", "b": "E"}  # of biotite
SUFFIXES = (".cif", ".mmcif", ".bcif", ".pdb", ".ent")


@dataclass(frozen=True)
class Structure:
    """What a structure says about the residues of a wild type.

    Attributes:
        chain: that was used.
        buried: (L,) float64, 1 - relative solvent accessibility, from 0 to 1; the mean where the structure has no
            residue.
        secondary: L letters, H (helix), E (strand) or -.
        resolved: number of residues of the wild type that the structure has.
    """

    chain: str
    buried: np.ndarray
    secondary: str
    resolved: int

    @property
    def weights(self) -> np.ndarray:
        """(L,) `buried` with mean 1, so that scores keep their scale beside those of insertions and deletions."""
        mean = self.buried.mean()
        return self.buried / mean if mean else np.ones_like(self.buried)


def read_structure(path: str | Path, wild_type: str) -> Structure:
    """Reads a PDB or mmCIF file, compressed or not, with biotite (Kunzmann et al. 2023).

    The chain is the one whose sequence, aligned with the wild type, has most of its residues. Accessibility is that of
    this chain alone, with a probe of 1.4 angstroms (Shrake and Rupley 1973); the secondary structure is by P-SEA
    (Labesse et al. 1997).

    Raises:
        UserError: if biotite is not installed, the file cannot be read, or no chain resembles the wild type.
    """
    try:
        import biotite.structure as struc
    except ImportError as error:
        raise UserError(f"structure {path}: requires biotite: pip install 'protlm[structure]'", "structure") from error
    atoms = _atoms(Path(path))
    atoms = atoms[struc.filter_amino_acids(atoms) & (atoms.element != "H")]
    chains = {name: atoms[atoms.chain_id == name] for name in dict.fromkeys(atoms.chain_id.tolist())}
    if not chains:
        raise UserError(f"{path}: no protein chain; expected a structure of the wild type")
    pairs = {name: _aligned(_sequence(chain), wild_type) for name, chain in chains.items()}
    same = {name: _identical(_sequence(chains[name]), wild_type, pairs[name]) for name in chains}
    best = max(same, key=lambda name: same[name])
    identity = same[best] / max(1, len(pairs[best]))
    if identity < LEAST:
        message = f"{path}: no chain resembles the wild type (the best, {best}, is {identity:.0%} identical)"
        raise UserError(f"{message}; expected a structure of this protein")
    chain, (own, site) = chains[best], np.array(pairs[best]).T
    letters = np.array(list(_sequence(chain)))
    tools: Any = struc  # its compiled functions have no types
    surface = struc.apply_residue_wise(chain, tools.sasa(chain, vdw_radii="ProtOr"), np.nansum)
    largest = np.array([LARGEST.get(letter, np.nan) for letter in letters])
    relative = np.clip(surface / largest, 0, 1)
    elements = struc.annotate_sse(chain)
    buried, secondary = np.full(len(wild_type), np.nan), np.full(len(wild_type), "-")
    buried[site] = 1 - relative[own]
    secondary[site] = [_ELEMENTS.get(element, "-") for element in elements[own]]
    buried[np.isnan(buried)] = np.nanmean(buried)
    return Structure(best, buried, "".join(secondary), len(site))


def _atoms(path: Path) -> Any:
    """The atoms of the first model."""
    from biotite.structure.io import pdb, pdbx

    suffix = Path(path.stem if path.suffix in (".gz", ".zst") else path.name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a structure, with a name that ends in {', '.join(SUFFIXES)}, or .gz")
    try:
        with Source(path) as source, source.content() as stream:
            content = stream.read()
        if suffix == ".bcif":
            return pdbx.get_structure(pdbx.BinaryCIFFile.read(io.BytesIO(content)), model=1)
        text = io.StringIO(content.decode("utf-8", "replace"))
        if suffix in (".pdb", ".ent"):
            return pdb.PDBFile.read(text).get_structure(model=1)
        return pdbx.get_structure(pdbx.CIFFile.read(text), model=1)
    except UserError:
        raise
    except Exception as error:  # biotite's own, of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as a structure ({reason})") from error


def _sequence(chain: Any) -> str:
    """The residues of a chain in one-letter code; X for those that are none."""
    import biotite.structure as struc
    from biotite.sequence import ProteinSequence

    def letter(name: str) -> str:
        try:
            return _MODIFIED.get(name) or ProteinSequence.convert_letter_3to1(name)
        except KeyError:
            return "X"

    return "".join(letter(name) for name in struc.get_residues(chain)[1].tolist())


def _aligned(sequence: str, wild_type: str) -> list[tuple[int, int]]:
    """Pairs of residues of a chain and of the wild type, in their best global alignment without end gaps."""
    from biotite.sequence import ProteinSequence, align

    usual = str.maketrans("UOJ", "CKL")
    one, other = (ProteinSequence(text.translate(usual)) for text in (sequence, wild_type))
    tools: Any = align  # its compiled functions have no types
    matrix = align.SubstitutionMatrix.std_protein_matrix()
    trace = tools.align_optimal(one, other, matrix, (-11, -1), terminal_penalty=False, max_number=1)[0].trace
    return [(int(i), int(j)) for i, j in trace if i >= 0 and j >= 0]


def _identical(sequence: str, wild_type: str, pairs: list[tuple[int, int]]) -> int:
    return sum(sequence[i] == wild_type[j] for i, j in pairs)
