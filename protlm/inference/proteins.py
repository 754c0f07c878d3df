"""Input proteins: a FASTA file, standard input, or a sequence given directly."""

import re
from pathlib import Path

from protlm.errors import UserError
from protlm.sequence.alphabet import LETTERS
from protlm.sequence.fasta import FastaFile, Record
from protlm.sequence.stream import STDIN


def open_proteins(source: str, allow_nucleotides: bool = False, masked: bool = False) -> FastaFile | list[Record]:
    """The proteins of a file or of standard input, or `source` itself as a sequence.

    Args:
        source: a FASTA file, "-" for standard input, or a sequence in one-letter code.
        allow_nucleotides: accept a file that looks like DNA or RNA.
        masked: accept `<mask>` in place of residues; a sequence is then given as typed.

    Raises:
        UserError: if `source` is neither a file nor a sequence.
    """
    try:
        exists = source == STDIN or bool(source and Path(source).exists())
    except OSError:  # longer than a file name can be
        exists = False
    if exists:
        return FastaFile(source, allow_nucleotides, masked=masked)
    if masked and ("<" in source or source.isalpha() or not source.strip()):
        return [Record("sequence", "", source)]
    if re.fullmatch(f"[{LETTERS}]+", source.upper()) and source.isascii():
        return [Record("sequence", "", source.upper())]
    shown = source if len(source) <= 60 else f"{source[:57]}..."
    example = ", such as MKT<mask>LLI" if masked else " of amino acids in one-letter code"
    raise UserError(f"{shown or repr(shown)}: neither an existing file nor a sequence{example}")
