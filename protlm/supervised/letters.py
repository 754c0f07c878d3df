"""FASTA-like files with a letter per residue, such as labels or masks: `>1es5-A SET=train VALIDATION=False`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from protlm.errors import UserError
from protlm.sequence.stream import DAMAGED, Source

_FIELD = re.compile(r"\b(SET|VALIDATION)=(\S+)")


class Letters(NamedTuple):
    """One protein: its identifier, its part ("train", "valid", "test" or "" if not given), and its letters."""

    id: str
    part: str
    letters: str


def is_letters(path: str | Path) -> bool:
    """Whether a file starts with `>`; a UserError if it cannot be read."""
    try:
        with Source(path) as source, source.content() as content:
            return content.peek(100).lstrip()[:1] == b">"
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or compress it again") from error


def read_letters(path: str | Path) -> list[Letters]:
    """All records of a file, plain or compressed; letters may be wrapped.

    Raises:
        UserError: for a file that is not text, or an identifier that occurs twice.
    """
    try:
        with Source(path) as source, source.content() as content:
            text = content.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; expected FASTA with a letter per residue") from error
    records: dict[str, Letters] = {}
    for number, record in enumerate(text.split("\n>"), 1):
        header, *lines = record.removeprefix(">").splitlines() or [""]
        name = next(iter(header.split()), "")
        if not name or name in records:
            what = f"duplicate identifier {name!r}" if name else "no identifier after '>'"
            raise UserError(f"{path}, record {number}: {what}")
        fields = dict(_FIELD.findall(header))
        part = fields.get("SET", "").casefold()
        if part and part not in ("train", "test", "valid", "val"):
            raise UserError(f"{path}, record {number}: SET={fields['SET']}; expected train or test")
        part = {"val": "valid"}.get(part, part)
        if part == "train" and fields.get("VALIDATION", "").casefold() == "true":
            part = "valid"
        records[name] = Letters(name, part, "".join(line.strip() for line in lines))
    return list(records.values())


def merged(records: Sequence[Letters], classes: Mapping[str, str], source: str = "labels") -> list[Letters]:
    """Records in which some letters are replaced by that of their class.

    Args:
        records: any.
        classes: letter of a class -> letters that count as it.
        source: of the records, for messages.

    Raises:
        UserError: for a class that is no letter, a letter of two classes, or one that does not occur.

    >>> merged([Letters("P1", "train", "0041")], {"b": "14"})[0].letters
    '00bb'
    """
    found = set().union(*(record.letters for record in records)) if classes else set()
    of: dict[str, str] = {}
    for name, letters in classes.items():
        if len(name) != 1 or not letters:
            raise UserError(
                f"classes {name}={letters}: expected a letter and those it replaces, such as b=123", "classes"
            )
        for letter in letters:
            if letter in of:
                raise UserError(f"classes: {letter!r} is in {of[letter]!r} and {name!r}; expected one class", "classes")
            of[letter] = name
    if of and not found & of.keys():
        raise UserError(
            f"classes: {source} has none of {''.join(of)}; its letters are {''.join(sorted(found))}", "classes"
        )
    table = str.maketrans(of)
    return [record._replace(letters=record.letters.translate(table)) for record in records]
