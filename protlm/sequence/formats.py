"""Formats recognised by the first bytes of a file, so that messages can name what was given by mistake."""

import re
from pathlib import Path

from protlm.errors import UserError

LOOKED_AT = 1024
"""Number of bytes that suffice."""

FASTA = "a FASTA file"

_TAR = slice(257, 262)
_UNPACK = "unpack it first"
_SAVE = "save it as plain text (UTF-8)"
_CONVERT = "convert it to FASTA, as with Biopython: SeqIO.convert(FILE, {!r}, OUTPUT, 'fasta')"

_KINDS = (
    (rb"PK\x03\x04.{26}[^/]{1,99}/(data\.pkl|\.format_version|byteorder)", "a PyTorch checkpoint", ""),
    (rb"PK\x03\x04.{26}[^/]{1,99}\.npy", "a NumPy archive (.npz)", ""),
    (rb"PK\x03\x04.{26}(\[Content_Types\]\.xml|_rels/|docProps/|xl/)", "an Excel workbook", "save it as CSV"),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb"7z\xbc\xaf|Rar!", "a compressed archive", _UNPACK),
    (rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|\x1f\x9d", "compressed", _UNPACK),
    (rb"\xff\xfe|\xfe\xff|>\0|\0>", "UTF-16 text", "save it as UTF-8, as with: iconv -f UTF-16 -t UTF-8"),
    (rb"\x89HDF\r\n", "an HDF5 file, such as a corpus or embeddings", ""),
    (rb"[^\0]{1,3}\0{4,7}\{\"", "a file of weights (safetensors)", ""),
    (rb"\x93NUMPY", "a NumPy array (.npy)", ""),
    (rb"PAR1", "a Parquet file", ""),
    (rb"%PDF|\xd0\xcf\x11\xe0|\{\\rtf", "a document", _SAVE),
    (rb"version https://git-lfs", "a pointer of Git LFS instead of the file", "fetch it with: git lfs pull"),
    (rb"(?i)<(!doctype )?html", "a web page (HTML), as left by a failed download", "download the file again"),
    (rb">(P1|F1|D[LC]|R[LC]|N[13]|XX);", "PIR", _CONVERT.format("pir")),
    (rb"@\S[^\n]*\n[A-Za-z.*~-]+\r?\n\+", "FASTQ", _CONVERT.format("fastq")),
    (rb"LOCUS +\S", "GenBank", _CONVERT.format("genbank")),
    (rb"ID   \S+ +[^\n]*BP", "EMBL", _CONVERT.format("embl")),
    (rb"ID   \S", "UniProt's text format", _CONVERT.format("swiss")),
    (rb"# STOCKHOLM", "a Stockholm alignment", _CONVERT.format("stockholm")),
    (rb"CLUSTAL|MUSCLE", "a Clustal alignment", _CONVERT.format("clustal")),
    (rb"#NEXUS", "NEXUS", _CONVERT.format("nexus")),
    (rb"!!|PileUp|MSF:", "GCG", _CONVERT.format("msf")),
    (rb"\d+ +\d+\s*\n", "a PHYLIP alignment", _CONVERT.format("phylip-relaxed")),
    (rb"(HEADER|TITLE |REMARK|MODEL |ATOM  |SEQRES|CRYST1)", "a PDB file", _CONVERT.format("pdb-seqres")),
    (rb"data_\S+\s", "mmCIF", _CONVERT.format("cif-seqres")),
    (rb"##gff", "GFF", "give the FASTA file of the proteins"),
    (rb"<\?xml", "XML", _CONVERT.format("uniprot-xml") + " for that of UniProt"),
    (rb"[{\[]\s*[\"{\[\]]", "JSON", ""),
    (rb">", FASTA, ""),
)


def recognised(start: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do with it if FASTA is expected ("" if nothing); None for an unknown kind.

    Args:
        start: its first bytes, at least `LOOKED_AT` if it has as many.

    >>> recognised(b"LOCUS       NP_000508 142 aa")[0]
    'GenBank'
    """
    if start[_TAR] == b"ustar":
        return "a tar archive", _UNPACK
    start = start.lstrip()
    return next(((name, advice) for pattern, name, advice in _KINDS if re.match(pattern, start, re.DOTALL)), None)


def found_in(path: Path) -> str:
    """The end of a message about a file of another kind: what it is, if that is known.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            kind = recognised(file.read(LOOKED_AT))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return f" (found {kind[0]})" if kind else ""
