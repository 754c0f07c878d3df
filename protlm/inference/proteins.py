"""Input proteins: a FASTA file, standard input, or a sequence given directly."""

from pathlib import Path

from protlm.errors import UserError
from protlm.sequence.alphabet import ResidueError, clean
from protlm.sequence.fasta import FastaFile, Record
from protlm.sequence.nucleotides import FEWEST, nucleotides_in, refuse_nucleotides
from protlm.sequence.stream import STDIN


def open_proteins(
    source: str, allow_nucleotides: bool = False, masked: bool = False, gaps: bool = True, invalid: str = "error"
) -> FastaFile | list[Record]:
    """The proteins of a file or of standard input, or `source` itself as a sequence.

    Args:
        source: a FASTA file, "-" for standard input, or a sequence in one-letter code.
        allow_nucleotides, masked, gaps, invalid: see `FastaFile`.

    Raises:
        UserError: if `source` is neither a file nor a sequence, or looks like nucleotides.
    """
    if exists(source):
        file = FastaFile(source, allow_nucleotides, masked=masked, gaps=gaps, invalid=invalid)
        file.check_start()  # before a model is loaded
        return file
    shown = shortened(source)
    typed = masked and "<" in source
    try:
        # a file that does not exist must not become a sequence with gaps
        if (typed or not {*source} & {*".-"}) and (sequence := clean(source, masked, gaps)):
            if not allow_nucleotides and len(sequence) >= FEWEST:
                refuse_nucleotides(shown, len(sequence), nucleotides_in(sequence.encode()))
            return [Record("sequence", "", sequence)]
    except ResidueError as error:
        if typed:
            raise UserError(f"{shown}: {error}") from error
    example = ", such as MKT<mask>LLI" if masked else " of amino acids in one-letter code"
    raise UserError(f"{shown}: neither an existing file nor a sequence{example}")


def exists(source: str) -> bool:
    """Whether it is a file or standard input."""
    try:
        return source == STDIN or bool(source and Path(source).exists())
    except (OSError, ValueError):  # longer than a file name can be, or with a null byte
        return False


def shortened(source: str) -> str:
    """A sequence for messages."""
    return (source if len(source) <= 60 else f"{source[:57]}...") or repr(source)
