"""One change of a variant as it is written: `A42G`, `K23_V25del`, `Gly4dup`, `Trp24Ter`, in one- or three-letter code.

Source: the HGVS recommendations for proteins, https://hgvs-nomenclature.org (version 21).
"""

import re
from dataclasses import dataclass, field

from protlm.sequence.alphabet import STANDARD

_THREE = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"  # as in STANDARD
_ONE = {**dict(zip(_THREE.split(), STANDARD, strict=True)), "TER": "*", "SEC": "U", "PYL": "O", "XAA": "X"}
_ONE |= {"ASX": "B", "GLX": "Z", "XLE": "J", "STOP": "*"}
_CODE = "[A-Za-z]{3}|[A-Za-z*]"
_NUMBER = "-?[0-9]{1,9}"
_RESIDUES = rf"(?P<first>{_CODE})(?P<number>{_NUMBER})(?:_(?P<last>{_CODE})(?P<end>{_NUMBER}))?"
_REPLACED = re.compile(rf"(?P<first>{_CODE})(?P<number>{_NUMBER})(?P<new>stop|{_CODE}|[=-])", re.IGNORECASE)
_KIND = re.compile(rf"{_RESIDUES}(?P<kind>delins|del|ins|dup)(?P<rest>.*)", re.IGNORECASE)
_FRAMESHIFT = re.compile(rf"(?P<first>{_CODE})(?P<number>{_NUMBER})(?:{_CODE})?fs.*", re.IGNORECASE)
_EXTENSION = re.compile(rf"(?:{_CODE}){_NUMBER}(?:{_CODE})?ext.*", re.IGNORECASE)
_UNKNOWN = re.compile(r"\(?[0-9]+\)?|[Xx](?:aa)?\[[0-9]+\]|\?")  # residues inserted
_LETTERS = "ACDEFGHIKLMNPQRSTVWYBJOUXZ*"

FRAMESHIFT, EXTENSION, START_LOST = "frameshift", "extension beyond the wild type", "start lost"
UNKNOWN, NO_PROTEIN, UNKNOWN_RESIDUES = "effect on the protein unknown", "no protein", "inserted residues unknown"
STOP_OR_UNKNOWN = "stop gained or residue unknown (X)"
"""What X means in one-letter code: a stop in older publications, any residue elsewhere."""
WITHOUT_EFFECT = {"?": UNKNOWN, "0": NO_PROTEIN, "0?": NO_PROTEIN}


@dataclass(frozen=True)
class Change:
    """Residues `number` to `end`, as numbered in the variant, replaced by `inserted`.

    Attributes:
        number, end: of the first and last residue that is replaced; `end` is `number` - 1 for an insertion.
        inserted: letters; None if these residues stay, followed by a copy.
        stated: number -> letter that the wild type has according to the variant.
        reason: why this change cannot be scored, if so.
    """

    number: int
    end: int
    inserted: str | None
    stated: dict[int, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def substitutes(self) -> bool:
        """Is a substitution of one residue by another of the twenty."""
        return self.number == self.end and not self.reason and len(self.inserted or "") == 1


def read_change(text: str) -> Change:
    """Reads one change; raises a ValueError that says what is wrong.

    >>> read_change("Lys23_Val25del")
    Change(number=23, end=25, inserted='', stated={23: 'K', 25: 'V'}, reason='')
    >>> read_change("W24*").reason
    'stop gained at residue 24'
    """
    if not text.strip():
        raise ValueError("empty; expected a variant such as A42G")
    if text in WITHOUT_EFFECT:
        return Change(1, 0, "", {}, WITHOUT_EFFECT[text])
    if text.upper() in ("MET1?", "M1?"):
        return Change(1, 1, "", {1: "M"}, START_LOST)
    if match := _REPLACED.fullmatch(text):
        return _replaced(match, text)
    if match := _FRAMESHIFT.fullmatch(text):
        number = int(match["number"])
        return Change(number, number, "", {number: _letter(match["first"], text)}, FRAMESHIFT)
    if _EXTENSION.fullmatch(text):
        return Change(1, 0, "", {}, EXTENSION)
    if match := _KIND.fullmatch(text):
        return _edited(match, text)
    raise ValueError(f"{text!r} is not a variant; expected such as A42G, K23del, K2_G3insQS, or A42G:L50P for several")


def _replaced(match: re.Match[str], text: str) -> Change:
    number, first, new = int(match["number"]), _letter(match["first"], text), match["new"]
    if new == "=":
        new = first
    if new.upper() in ("DEL", "DUP", "-"):  # also three letters
        return Change(number, number, None if new.upper() == "DUP" else "", {number: first})
    letter = _letter(new, text)
    reason = f"{STOP_OR_UNKNOWN} at residue {number}" if new in ("X", "x") else _reason(letter, number)
    return Change(number, number, letter, {number: first}, reason or _reason(first, number))


def _edited(match: re.Match[str], text: str) -> Change:
    first, last = _letter(match["first"], text), _letter(match["last"] or match["first"], text)
    number, end = int(match["number"]), int(match["end"] or match["number"])
    kind, rest = match["kind"].lower(), match["rest"]
    stated = {number: first, end: last}
    if end < number or (end == number and first != last):
        raise ValueError(f"{text!r} ends before it begins; expected positions in ascending order")
    if kind == "dup":
        return Change(number, end, None, stated)
    if kind == "del":
        return Change(number, end, "", stated)  # rest: the deleted residues, which the positions name already
    if kind == "ins" and end != number + 1:
        raise ValueError(f"{text!r} is not between neighbours; expected an insertion such as K2_G3insQS")
    if _UNKNOWN.fullmatch(rest):
        return Change(number, end, "", stated, UNKNOWN_RESIDUES)
    inserted = _sequence(rest, text)
    start, end = (end, number) if kind == "ins" else (number, end)
    return Change(start, end, inserted, stated, _reason(inserted, start))


def _reason(letters: str, number: int) -> str:
    """Why these residues cannot be scored, or ""."""
    if "*" in letters:
        return f"stop gained at residue {number + letters.index('*')}"
    odd = next((letter for letter in letters if letter not in STANDARD), "")
    return f"{odd!r} is not one of the twenty amino acids" if odd else ""


def _letter(code: str, text: str) -> str:
    """The one-letter code of a residue in one- or three-letter code, in any case."""
    letter = _ONE.get(code.upper(), code.upper())
    if letter not in _LETTERS:
        raise ValueError(f"{code!r} in {text} is not an amino acid")
    return letter


def _sequence(text: str, whole: str) -> str:
    """The letters of inserted residues: in capitals one-letter code, otherwise three-letter code where possible."""
    triples = [text[i : i + 3] for i in range(0, len(text), 3)]
    if text != text.upper() and all(triple.upper() in _ONE or triple == "*" for triple in triples):
        return "".join(_letter(triple, whole) for triple in triples)
    if not text or set(text.upper()) - set(_LETTERS):
        raise ValueError(f"{whole!r}: expected the inserted residues, such as insGlnSer or insQS")
    return text.upper()
