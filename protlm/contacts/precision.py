"""How many of the best pairs of a contact map touch in a structure.

Legend: L residues of a protein.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.contacts.contact_map import ContactMap
from protlm.structures import Chain, read_chain

TOUCHING = 8.0
"""Angstroms between the beta carbons of two residues in contact, at most."""
RANGES = {"short": (6, 12), "medium": (12, 24), "long": (24, None)}
"""Name -> separations of pairs along the sequence, from the first and below the second."""
PARTS = (1, 2, 5)
"""Divisors k of the numbers of pairs, L / k."""


@dataclass(frozen=True)
class Contacts:
    """The contacts of a structure.

    Attributes:
        chain: that was used.
        distances: (L, L) float32 between beta carbons, alpha carbons of glycine, in angstroms; NaN where the structure
            lacks one.
    """

    chain: str
    distances: np.ndarray

    @property
    def resolved(self) -> np.ndarray:
        """(L,) bool: which residues the structure has."""
        return ~np.isnan(np.diagonal(self.distances))

    @property
    def touching(self) -> np.ndarray:
        """(L, L) bool."""
        return self.distances < TOUCHING


@dataclass(frozen=True)
class Precision:
    """The precision of a contact map in one range of separations.

    Attributes:
        separation: a name of `RANGES`.
        contacts: number of contacts.
        values: of the best L / k pairs, by k of `PARTS`; L is the number of resolved residues. NaN without any pair.
    """

    separation: str
    contacts: int
    values: dict[int, float]


def read_contacts(path: str | Path, sequence: str) -> Contacts:
    """The contacts within the chain of a structure that resembles the protein; errors as in `read_chain`."""
    chain = read_chain(path, sequence)
    places = _places(chain, len(sequence))
    return Contacts(chain.name, np.linalg.norm(places[:, None] - places, axis=-1))


def precision(found: ContactMap, structure: Contacts) -> Iterator[Precision]:
    """The precision in each of `RANGES`, among pairs of resolved residues."""
    i, j, _ = found.pairs()
    known, touching = structure.resolved, structure.touching
    for name, (least, most) in RANGES.items():
        own = known[i] & known[j] & (j - i >= least) & (j - i < (most or len(known)))
        right = touching[i[own], j[own]]
        numbers = {part: max(1, int(known.sum()) // part) for part in PARTS}
        values = {part: float(right[:number].mean()) if len(right) else np.nan for part, number in numbers.items()}
        yield Precision(name, int(right.sum()), values)


def _places(chain: Chain, length: int) -> np.ndarray:
    """(L, 3) float32: the beta carbon of each residue, or its alpha carbon."""
    import biotite.structure as struc

    atoms = chain.atoms
    number = np.cumsum(np.isin(np.arange(len(atoms)), struc.get_residue_starts(atoms))) - 1
    own = np.full((len(chain.letters), 3), np.nan, dtype=np.float32)
    for name in ("CA", "CB"):
        chosen = atoms.atom_name == name
        own[number[chosen]] = atoms.coord[chosen]
    places = np.full((length, 3), np.nan, dtype=np.float32)
    places[chain.site] = own[chain.own]
    return places
