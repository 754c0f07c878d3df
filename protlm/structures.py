"""Chains of protein structures: files of the Protein Data Bank or predictions, read with biotite.

Legend: L residues of the sequence, R of the chain, n pairs of residues.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.stream import Source

LEAST = 0.5
"""Fraction of the aligned residues of a chain that are those of the sequence, at least."""
SUFFIXES = (".cif", ".mmcif", ".bcif", ".pdb", ".ent")
_MODIFIED = {"MSE": "M", "SEC": "U", "PYL": "O", "SEP": "S", "TPO": "T", "PTR": "Y", "HYP": "P", "CSO": "C", "KCX": "K"}


@dataclass(frozen=True)
class Chain:
    """A chain, aligned with a sequence.

    Attributes:
        name: of the chain.
        atoms: biotite's `AtomArray` of its amino acids, without hydrogen.
        letters: R letters.
        own, site: (n,) int64, residues of the chain and the same of the sequence, both from 0.
    """

    name: str
    atoms: Any
    letters: str
    own: np.ndarray
    site: np.ndarray


def read_chain(path: str | Path, sequence: str, what: str = "the sequence") -> Chain:
    """Reads a PDB or mmCIF file, compressed or not, with biotite (Kunzmann et al. 2023).

    The chain is the one whose residues, aligned with the sequence, equal most of its residues.

    Args:
        path: of the file.
        sequence: of the protein, L residues.
        what: the sequence is, for messages.

    Raises:
        UserError: if biotite is not installed, the file cannot be read, or no chain resembles the sequence.
    """
    chains = read_chains(path)
    if not chains:
        raise UserError(f"{path}: no protein chain; expected a structure of {what}")
    letters = {name: found for name, (_, found) in chains.items()}
    pairs = {name: _aligned(letters[name], sequence) for name in chains}
    same = {name: _identical(letters[name], sequence, pairs[name]) for name in chains}
    best = max(same, key=lambda name: same[name])
    identity = same[best] / max(1, len(pairs[best]))
    if identity < LEAST:
        message = f"{path}: no chain resembles {what} (the best, {best}, is {identity:.0%} identical)"
        raise UserError(f"{message}; expected a structure of this protein")
    own, site = np.array(pairs[best]).T
    return Chain(best, chains[best][0], letters[best], own, site)


def read_chains(path: str | Path) -> dict[str, tuple[Any, str]]:
    """Name -> amino acids of each chain of a file, without hydrogen, and their letters; errors as in `read_chain`."""
    try:
        import biotite.structure as struc
    except ImportError as error:
        raise UserError(
            f"structure {path}: requires biotite: pip install -e '.[structure]' -c constraints.txt", "structure"
        ) from error
    atoms = _atoms(Path(path))
    atoms = atoms[struc.filter_amino_acids(atoms) & (atoms.element != "H")]
    chains = {name: atoms[atoms.chain_id == name] for name in dict.fromkeys(atoms.chain_id.tolist())}
    return {name: (chain, _sequence(chain)) for name, chain in chains.items()}


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


def _aligned(own: str, sequence: str) -> list[tuple[int, int]]:
    """Pairs of residues of a chain and of the sequence, in their best global alignment without end gaps."""
    from biotite.sequence import ProteinSequence, align

    usual = str.maketrans("UOJ", "CKL")
    one, other = (ProteinSequence(text.translate(usual)) for text in (own, sequence))
    tools: Any = align  # its compiled functions have no types
    matrix = align.SubstitutionMatrix.std_protein_matrix()
    trace = tools.align_optimal(one, other, matrix, (-11, -1), terminal_penalty=False, max_number=1)[0].trace
    return [(int(i), int(j)) for i, j in trace if i >= 0 and j >= 0]


def _identical(own: str, sequence: str, pairs: list[tuple[int, int]]) -> int:
    return sum(own[i] == sequence[j] for i, j in pairs)
