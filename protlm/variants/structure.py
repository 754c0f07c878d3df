"""Solvent accessibility and secondary structure of a protein, from a file of the Protein Data Bank or a prediction.

Legend: L residues of the wild type.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.structures import read_chain

LARGEST = {
    "A": 129.0, "R": 274.0, "N": 195.0, "D": 193.0, "C": 167.0, "Q": 225.0, "E": 223.0, "G": 104.0, "H": 224.0,
    "I": 197.0, "L": 201.0, "K": 236.0, "M": 224.0, "F": 240.0, "P": 159.0, "S": 155.0, "T": 172.0, "W": 285.0,
    "Y": 263.0, "V": 174.0,
}  # fmt: skip
"""Solvent-accessible surface of the residue X in Gly-X-Gly, in square angstroms (Tien et al. 2013, theoretical)."""
_ELEMENTS = {"a": "H", "b": "E"}  # of biotite


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
    """Reads the chain of a PDB or mmCIF file that resembles the wild type most; errors as in `read_chain`.

    Accessibility is that of this chain alone, with a probe of 1.4 angstroms (Shrake and Rupley 1973); the secondary
    structure is by P-SEA (Labesse et al. 1997).
    """
    chain = read_chain(path, wild_type, "the wild type")
    import biotite.structure as struc

    atoms, letters = chain.atoms, list(chain.letters)
    tools: Any = struc  # its compiled functions have no types
    surface = struc.apply_residue_wise(atoms, tools.sasa(atoms, vdw_radii="ProtOr"), np.nansum)
    largest = np.array([LARGEST.get(letter, np.nan) for letter in letters])
    relative = np.clip(surface / largest, 0, 1)
    elements = struc.annotate_sse(atoms)
    buried, secondary = np.full(len(wild_type), np.nan), np.full(len(wild_type), "-")
    buried[chain.site] = 1 - relative[chain.own]
    secondary[chain.site] = [_ELEMENTS.get(element, "-") for element in elements[chain.own]]
    buried[np.isnan(buried)] = np.nanmean(buried)
    return Structure(chain.name, buried, "".join(secondary), len(chain.site))
