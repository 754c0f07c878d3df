"""Proteins as Python code holds them: strings, lists, dictionaries, and the objects of Biopython and pandas.

Neither package is imported to recognise its objects.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import ResidueError, clean
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.letters import Alphabet

SEQUENCE, ID = "sequence", "id"
"""Columns of a data frame."""

_PACKED = "gz|bz2|xz|zst"
_FILE = re.compile(rf"[^.]*\.((fa|faa|fas|fasta|pep|seq|txt|csv|tsv|h5)(\.({_PACKED}))?|{_PACKED})", re.IGNORECASE)


@dataclass(frozen=True)
class Container:
    """n proteins, and how results for them are returned.

    Attributes:
        sequences: normalised; strings, but bytes for other alphabets than that of proteins.
        kind: "one" for a single protein, "many", "dict", or "pandas".
        keys: of a dictionary, or the index of a pandas object.
        ids: for messages; None for other containers than these.
    """

    sequences: list[Any]
    kind: str = "many"
    keys: Any = None
    ids: list[Any] | None = None

    def name(self, index: int) -> str:
        """Of a protein, for messages."""
        if self.kind == "one":
            return "the sequence"
        return f"sequence {index + 1}{f' ({self.ids[index]})' if self.ids else ''}"

    def arranged(self, results: Iterable[Any]) -> Any:
        """The results (n,): of one protein its own; of a dictionary by id; of a pandas object a Series; or a list."""
        results = list(results)
        if self.kind == "one":
            return results[0]
        if self.kind == "dict":
            return dict(zip(self.keys, results, strict=True))
        if self.kind == "pandas":
            import pandas

            values = np.empty(len(results), dtype=object)
            for index, result in enumerate(results):
                values[index] = result
            return pandas.Series(values, index=self.keys).infer_objects()
        return results

    def stacked(self, rows: np.ndarray, axes: Mapping[str, Iterable[int]]) -> Any:
        """As `arranged`, for rows (n, ...); an array instead of a list, and for a pandas object a DataFrame.

        The axes after the first, of which names and labels are given, are its columns.
        """
        if self.kind == "pandas":
            import pandas

            columns = pandas.MultiIndex.from_product(list(axes.values()), names=list(axes))
            if len(axes) == 1:
                columns = columns.get_level_values(0)
            return pandas.DataFrame(rows.reshape(len(rows), len(columns)), index=self.keys, columns=columns)
        return rows if self.kind == "many" else self.arranged(rows)


def proteins_of(given: Any, masked: bool = False, gaps: bool = True) -> Container:
    """Reads proteins from any of the objects in which Python code holds them.

    Args:
        given: one protein, which is a string, a Bio.Seq, a SeqRecord or a record of `FastaFile`; or several, as a list,
            tuple, generator, array, {id: protein}, pandas Series, or DataFrame with a column "sequence" and perhaps one
            with "id".
        masked, gaps: see `clean`.

    Raises:
        UserError: for any other object, a sequence that is empty, or a character that is not a residue.

    >>> proteins_of({"a": "mkt*", "b": "MK-L"}).arranged([1, 2])
    {'a': 1, 'b': 2}
    """
    return _contained(given, lambda item, name: _sequence(item, name, masked, gaps), _text(given) is not None)


def _contained(given: Any, read: Callable[[Any, str], Any], one: bool, record: str = "protein") -> Container:
    """The sequences of any object, each read by a function of it and its name; `one` if it is a single one."""
    expected = f"expected one {record} or a list of them"
    if one:
        container = Container([], "one")
        return replace(container, sequences=[read(given, container.name(0))])
    keys, ids, kind, items = None, None, "many", given
    if isinstance(given, Mapping):
        kind, keys, items = "dict", list(given), list(given.values())
        ids = keys
    elif "pandas" in _packages(given) and hasattr(given, "index"):
        frame = getattr(given, "columns", None) is not None
        kind, keys = "pandas", given.index
        items, ids = (_column(given, SEQUENCE), _ids(given)) if frame else (given, list(given.index))
    elif isinstance(given, bytes | bytearray | os.PathLike | Set) or not isinstance(given, Iterable):
        raise UserError(f"{expected}, got {_described(given)}")
    elif isinstance(given, np.ndarray) and given.ndim != 1:
        raise UserError(f"{expected}, got an array of {given.ndim} dimensions")
    container = Container([], kind, keys, ids)
    for index, item in enumerate(items):
        container.sequences.append(read(item, container.name(index)))
    return container


def sequences_of(given: Any, alphabet: Alphabet) -> Container:
    """As `proteins_of`; sequences of another alphabet may also be bytes, and are bytes in the container.

    Raises:
        UserError: for another object, or a character that is no letter.

    >>> from protlm.sequence.alphabets import alphabet_of
    >>> sequences_of(["acg", b"GG-T"], alphabet_of("dna")).sequences
    [b'ACG', b'GGT']
    """
    if alphabet == PROTEIN:
        return proteins_of(given)
    container = tokens_of(given, alphabet)
    return replace(container, sequences=[alphabet.letters_of(tokens) for tokens in container.sequences])


def tokens_of(given: Any, alphabet: Alphabet, masked: bool = False) -> Container:
    """As `sequences_of`, with tokens (L,) without special ones at the ends; `masked` accepts `<mask>`.

    >>> from protlm.sequence.alphabets import alphabet_of
    >>> tokens_of("ac <mask>", alphabet_of("dna"), masked=True).sequences[0].tolist()
    [4, 5, 19]
    """
    encode = alphabet.encode_masked if masked else alphabet.encode
    if alphabet == PROTEIN:
        container = proteins_of(given, masked)
        return replace(container, sequences=[encode(text.encode()) for text in container.sequences])

    def read(item: Any, name: str) -> np.ndarray:
        text = item if isinstance(item, bytes) else _text(item)
        if text is None:
            raise UserError(f"{name}: expected a string, bytes, Bio.Seq or SeqRecord, got {_described(item)}")
        try:
            tokens = encode(alphabet.typed(text))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if not len(tokens):
            raise UserError(f"{name} is empty; expected at least one {alphabet.unit}")
        return tokens

    return _contained(given, read, isinstance(given, bytes) or _text(given) is not None, alphabet.record)


def protein_of(given: Any, masked: bool = False, gaps: bool = True, name: str = "the sequence") -> str:
    """The sequence of one protein; as `proteins_of`, which accepts several. `name` is for messages."""
    if _text(given) is None:
        got = type(given).__name__ if isinstance(given, list | tuple) else _described(given)
        raise UserError(f"{name}: expected one protein as a string, Bio.Seq or SeqRecord, got {got}")
    return _sequence(given, name, masked, gaps)


def _sequence(item: Any, name: str, masked: bool, gaps: bool) -> str:
    text = _text(item)
    if text is None:
        raise UserError(f"{name}: expected a string, Bio.Seq or SeqRecord, got {_described(item)}")
    if "." in text and _FILE.fullmatch(text):
        raise UserError(f"{name}: {text!r} is the name of a file; read its sequences first, as with Bio.SeqIO.parse")
    try:
        sequence = clean(text, masked, gaps)
    except ResidueError as error:
        raise UserError(f"{name}: {error}", name) from error
    if not sequence:
        raise UserError(f"{name} is empty; expected amino acids in one-letter code")
    return sequence


def _text(item: Any) -> str | None:
    """The letters of one protein; None for another object."""
    if hasattr(item, "id") and (hasattr(item, "seq") or hasattr(item, "sequence")):  # a record of Biopython or protlm
        item = item.seq if hasattr(item, "seq") else item.sequence
    if isinstance(item, str):
        return item
    if "Bio" not in _packages(item) or isinstance(item, Mapping) or not hasattr(item, "translate"):
        return None
    try:
        return str(item)
    except ValueError as error:  # UndefinedSequenceError
        raise UserError(f"a Bio.Seq without content ({error})") from error


def _packages(item: Any) -> set[str]:
    """The packages in which the class of an object and its bases are defined."""
    return {cls.__module__.partition(".")[0] for cls in type(item).__mro__}


def _column(frame: Any, name: str) -> list[Any]:
    """A column of a data frame, by a name of any case."""
    columns = list(frame.columns)
    found = [name] if name in columns else [one for one in columns if isinstance(one, str) and one.lower() == name]
    if len(found) != 1 or columns.count(found[0]) > 1:
        shown = ", ".join(map(repr, columns[:10]))
        raise UserError(f"a data frame with the columns {shown}: expected one column {name!r}; or pass frame[COLUMN]")
    return list(frame[found[0]])


def _ids(frame: Any) -> list[Any]:
    """For messages: the column of ids, or the index."""
    return list(frame[ID]) if list(frame.columns).count(ID) == 1 else list(frame.index)


def _described(item: Any) -> str:
    if item is None or isinstance(item, float):
        return f"{item} (a missing value)" if item is None or item != item else repr(item)
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return f"a {type(item).__name__} of two strings; for identifiers, use a dictionary {{id: sequence}}"
    if isinstance(item, os.PathLike):
        return f"the path {os.fspath(item)}; read its sequences first, as with Bio.SeqIO.parse"
    return f"{type(item).__name__}"
