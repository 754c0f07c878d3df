"""Random access to a corpus: the proteins of FASTA files as tokens in one memory-mapped HDF5 file.

docs/formats.md describes the layout; `prepare` writes it. Memory maps share the page cache between processes.
"""

import json
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from protlm.corpus.layout import FORMAT, VERSION
from protlm.corpus.splits import SPLITS, TRAIN
from protlm.corpus.unigram import Unigram
from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN, Alphabet, alphabet_of, name_of
from protlm.sequence.formats import FASTA, found_in
from protlm.sequence.stream import STDIN, check_readable
from protlm.strict_json import dumps

_CHANGED = "has changed since it was opened; do not overwrite a corpus in use, but write another with 'protlm prepare'"
_MAPPED = ("tokens", "offsets", "split", "members", "member_offsets", "clusters", "groups", "group_offsets")


class Corpus:
    """A corpus opened for reading; can be pickled or forked, since each process maps the file itself.

    Args:
        path: a file written by `prepare_corpus`.

    Attributes:
        offsets: (proteins + 1,) int64, where each protein begins in the tokens.
        split: (proteins,) uint8, indices into `SPLITS`.
        clusters: (proteins,) int64, cluster number of each protein; None without clusters.
        alphabet: of the sequences, which are called proteins here, and their letters residues, whatever they are.
        residue_counts: (4, V) int64, how often each token occurs in each split.
        attributes: sources, changes and options recorded by `prepare`.

    Raises:
        UserError: for a file that is missing, not a corpus, or made with a different alphabet.
    """

    offsets: np.ndarray
    split: np.ndarray
    clusters: np.ndarray | None
    alphabet: Alphabet
    residue_counts: np.ndarray
    attributes: dict[str, Any]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"{path}: no such corpus; make one with: protlm prepare FASTA -o {path}")
        if not self.path.is_file():
            what = "a model folder" if (self.path / "model.safetensors").is_file() else "a folder"
            raise UserError(f"{path}: not a corpus but {what}; make a corpus with: protlm prepare FASTA -o CORPUS.h5")
        try:
            self._map()
        except UserError:
            raise
        except (OSError, KeyError, ValueError, TypeError) as error:
            found = found_in(self.path)
            if found == f" (found {FASTA})":
                raise UserError(
                    f"{path}: not a corpus but FASTA; make one with: protlm prepare {path} -o CORPUS.h5"
                ) from error
            raise UserError(f"{path}: not a corpus, or damaged{found}; prepare it again from the FASTA file") from error

    def _map(self) -> None:
        with h5py.File(self.path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise UserError(f"{self.path}: HDF5, not a corpus; make one with: protlm prepare FASTA -o CORPUS.h5")
            if file.attrs["version"] != VERSION:
                raise UserError(
                    f"{self.path}: corpus format version {file.attrs['version']}, expected {VERSION}; prepare it again"
                )
            described = file.attrs.get("alphabet_name")
            self.alphabet = PROTEIN if described is None else alphabet_of(json.loads(str(described)))
            if list(np.asarray(file.attrs["alphabet"])) != list(self.alphabet.tokens):
                raise UserError(f"{self.path}: made with a different alphabet; prepare it again from the FASTA")
            self.attributes = {name: json.loads(str(file.attrs[name])) for name in ("sources", "changes", "options")}
            self.residue_counts = _dataset(file, "residue_counts")[:]
            places = {}
            for name in _MAPPED:
                if name in file:
                    dataset = _dataset(file, name)
                    places[name] = (dataset.dtype, dataset.size, dataset.id.get_offset() if dataset.size else 0)
        with self.path.open("rb") as raw:
            self._state = _state(os.fstat(raw.fileno()))
            memory = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {name: np.frombuffer(memory, dtype, size, start) for name, (dtype, size, start) in places.items()}
        self._tokens, self.offsets, self.split = arrays["tokens"], arrays["offsets"], arrays["split"]
        self._members, self._member_offsets = arrays["members"], arrays["member_offsets"]
        self.clusters, self._groups = arrays.get("clusters"), arrays.get("groups")
        self._group_offsets = arrays.get("group_offsets")

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        """Tokens (length,) uint8 of one protein, without special tokens; a read-only view of the memory map."""
        if not 0 <= index < len(self.split):
            raise IndexError(f"protein {index} of {len(self)}")
        start, stop = self.offsets[index : index + 2].tolist()
        return self._tokens[start:stop]

    def __reduce__(self) -> tuple[Callable[..., "Corpus"], tuple[Path, str]]:
        return _reopened, (self.path, self.fingerprint)

    def check_unchanged(self) -> None:
        """Checks that the file was not overwritten in place, before its memory map is read; takes microseconds.

        A file that was replaced as a whole, as `prepare` does, or deleted, remains available until it is closed. One
        whose time was changed without its content, such as by `touch`, passes.

        Raises:
            UserError: if it was overwritten; reading it further could end the process.
        """
        try:
            state = _state(self.path.stat())
        except OSError:
            return
        if state == self._state or state[:2] != self._state[:2]:
            return
        if state[2] != self._state[2] or _fingerprint(self.path) != self.fingerprint:
            raise UserError(f"{self.path}: {_CHANGED}")
        self._state = state

    @property
    def lengths(self) -> np.ndarray:
        """(proteins,) int64, in residues; computed at each call."""
        return np.diff(self.offsets)

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """(n,) int64, in residues, of the proteins `indices` (n,)."""
        return self.offsets[indices + 1] - self.offsets[indices]

    @property
    def fingerprint(self) -> str:
        """Identifies the content: 32 hexadecimal digits from the checksums of the sources and the options."""
        sources = [(source["bytes"], source["xxh3_128"]) for source in self.attributes["sources"]]
        content = [len(self), int(self.offsets[-1]), sources, self.attributes["options"]]
        return xxhash.xxh3_128_hexdigest(dumps(content, sort_keys=True).encode())

    def check_sources(self, fastas: Sequence[str | Path]) -> None:
        """Checks by name and size that the corpus was made from these files; an empty list passes.

        Raises:
            UserError: if it was made from other files.
        """
        for path in fastas:
            check_readable(path)
        given = [(Path(path).name, Path(path).stat().st_size) for path in fastas if str(path) != STDIN]
        made = [(source["name"], source["bytes"]) for source in self.attributes["sources"]]
        if given and given != made:
            text = ", ".join(f"{name} ({size:,} bytes)" for name, size in made)
            raise UserError(f"{self.path}: was made from {text}, not from the given FASTA files; choose another corpus")

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Identifiers of proteins `start` to `stop` (exclusive), in order; all by default."""
        with h5py.File(self.path, "r") as file:
            return [name.decode() for name in _dataset(file, "ids")[start:stop]]

    def merged(self) -> dict[str, int]:
        """Identifier of each merged record -> index of the protein with the same sequence."""
        with h5py.File(self.path, "r") as file:
            if "merged_ids" not in file:
                return {}
            names, proteins = _dataset(file, "merged_ids")[:], _dataset(file, "merged_into")[:]
            return {name.decode(): int(protein) for name, protein in zip(names, proteins, strict=True)}

    def members(self, split: str) -> np.ndarray:
        """Indices (n,) int64 of the proteins of a split; ascending, or sorted by cluster if there are clusters."""
        code = SPLITS.index(split)
        return self._members[self._member_offsets[code] : self._member_offsets[code + 1]]

    def groups(self, split: str) -> np.ndarray:
        """Where the clusters of a split begin in `members`: (clusters + 1,) int64, ending with its length.

        Raises:
            UserError: if the corpus was prepared without clusters.
        """
        if self._groups is None or self._group_offsets is None:
            raise UserError(f"{self.path}: has no clusters; prepare it again with a cluster table")
        code = SPLITS.index(split)
        start, stop = self._group_offsets[code : code + 2]
        return self._groups[start : stop + 1] - self._member_offsets[code]

    def unigram(self) -> Unigram:
        """The unigram baseline of the training split."""
        return Unigram(self.residue_counts[TRAIN], self.alphabet)


class Corpora:
    """Concatenation of corpora: the proteins of the first, then those of the second, and so on.

    Attributes:
        starts: (corpora + 1,) int64, where each begins.
        alphabet: of all of them.

    Raises:
        UserError: for corpora of different alphabets.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self.corpora = list(corpora)
        self.alphabet = corpora[0].alphabet if corpora else PROTEIN
        for corpus in corpora:
            if corpus.alphabet != self.alphabet:
                names = f"{name_of(corpus.alphabet)}, and {corpora[0].path} of {name_of(self.alphabet)}"
                raise UserError(f"{corpus.path} is of {names}; use corpora of one alphabet")
        self.starts = np.concatenate(([0], np.cumsum([len(corpus) for corpus in corpora]))).astype(np.int64)
        self._starts = self.starts.tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """Tokens (length,) uint8 of one protein, without special tokens."""
        if not 0 <= index < len(self):
            raise IndexError(f"protein {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self.corpora[shard][index - self._starts[shard]]

    def __str__(self) -> str:
        return ", ".join(str(corpus.path) for corpus in self.corpora)

    def check_unchanged(self) -> None:
        """See `Corpus.check_unchanged`."""
        for corpus in self.corpora:
            corpus.check_unchanged()

    def id(self, index: int) -> str:
        """The identifier of one protein."""
        shard = bisect_right(self._starts, index) - 1
        local = index - self._starts[shard]
        return self.corpora[shard].ids(local, local + 1)[0]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """(n,) int64, in residues, of the proteins `indices` (n,)."""
        if len(self.corpora) == 1:
            return self.corpora[0].lengths_of(indices)
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        lengths = np.empty(len(indices), dtype=np.int64)
        for shard in np.unique(shards):
            rows = shards == shard
            lengths[rows] = self.corpora[shard].lengths_of(indices[rows] - self.starts[shard])
        return lengths

    def count(self, split: str) -> tuple[int, int]:
        """Number of proteins and of residues in a split."""
        code = SPLITS.index(split)
        residues = sum(int(corpus.residue_counts[code].sum()) for corpus in self.corpora)
        return sum(len(corpus.members(split)) for corpus in self.corpora), residues

    def unigram(self) -> Unigram:
        """The unigram baseline of the training splits."""
        counts = np.sum([corpus.residue_counts[TRAIN] for corpus in self.corpora], axis=0)
        return Unigram(counts, self.alphabet)


def _state(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _fingerprint(path: Path) -> str | None:
    try:
        return Corpus(path).fingerprint
    except UserError:
        return None


def _reopened(path: Path, fingerprint: str) -> Corpus:
    """The corpus in another process."""
    corpus = Corpus(path)
    if corpus.fingerprint != fingerprint:
        raise UserError(f"{path}: {_CHANGED}")
    return corpus


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"{name} is not a dataset")
    return dataset
