"""Identifiers in the headers of FASTA records."""

IDENTIFIERS = ("accession", "word", "header")
"""What identifies a protein: the UniProt accession if the header has one, its first word, or the whole header."""

_MAX_ID = 1_000  # characters
_PRINTABLE = bytes(range(ord(" "), 127)) + b"\n"
_NO_BARS = bytes({*range(256)} - {*b"|\n"})


class HeaderError(ValueError):
    """A header line without a usable identifier."""


def accession(word: str) -> str:
    """The accession in the first word of a UniProt header (`db|ACCESSION|NAME`); any other word is returned unchanged.

    UniRef (`UniRef50_P69905`), UniParc (`UPI0000000001`) and plain accessions are whole words.

    >>> accession("sp|P69905|HBA_HUMAN")
    'P69905'
    >>> accession("UniRef50_P69905")
    'UniRef50_P69905'
    """
    parts = word.split("|")
    return parts[1] if len(parts) == 3 and parts[0] in ("sp", "tr") and parts[1] else word


def identifier_of(header: str, kind: str) -> str:
    """The identifier in a header without '>', of one of the kinds in `IDENTIFIERS`.

    Raises:
        HeaderError: if there is none, or it cannot be used.
    """
    words = header.split(None, 1)
    if not words:
        raise HeaderError("no identifier after '>'; give every record a name")
    name = header.strip() if kind == "header" else words[0]
    if kind == "accession":
        name = accession(name)
    if "\0" in name:
        raise HeaderError("NUL character in the identifier; expected a text file")
    if len(name) > _MAX_ID:
        raise HeaderError(
            f"identifier of {len(name)} characters; expected a header line of one identifier (at most {_MAX_ID}), "
            "a space and a description"
        )
    return name


def plain_identifiers(headers: list[bytes], kind: str) -> bytes | None:
    """As `identifier_of`, of many headers with '>', joined by newlines; None if one of them has to be checked there."""
    words = [b">" + header[1:].strip() if kind == "header" else header.split(None, 1)[0] for header in headers]
    names = b"\n".join(words)[1:].replace(b"\n>", b"\n")
    if b">" in words or max(map(len, words)) > _MAX_ID or names.translate(None, _PRINTABLE):
        return None
    if kind != "accession" or b"|" not in names:
        return names
    columns = names.replace(b"\n", b"|").split(b"|")
    bars = (b"||\n" * len(words))[:-1]
    if names.translate(None, _NO_BARS) == bars and {*columns[::3]} <= {b"sp", b"tr"} and all(columns[1::3]):
        return b"\n".join(columns[1::3])  # every header is UniProt's, the common case, in half the time
    return "\n".join(map(accession, names.decode().split("\n"))).encode()
