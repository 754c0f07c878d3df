"""Input sequences of a model's alphabet as tokens: a file, standard input, or a sequence given directly."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from protlm.errors import UserError
from protlm.inference.proteins import exists, open_proteins, shortened
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.fasta import FastaFile, Record
from protlm.sequence.letters import MASK, Alphabet
from protlm.sequence.long_records import LongRecords, check_options
from protlm.sequence.masked_records import MaskedRecords, TokenRecord


class InputSequences:
    """The sequences of a file, in constant memory, or of a list.

    Attributes:
        source: the file, for messages; empty for a list.
        size: bytes of the file, 0 if unknown.
        tally: what was changed or left out, None for a list.
    """

    def __init__(self, given: FastaFile | LongRecords | Sequence[TokenRecord | Record]) -> None:
        self._given = given
        file = given if isinstance(given, FastaFile | LongRecords) else None
        self.source = str(file.path) if file else ""
        self.size, self.tally = (file.size, file.tally) if file else (0, None)

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._given.position if isinstance(self._given, FastaFile | LongRecords) else 0

    def __iter__(self) -> Iterator[TokenRecord]:
        if isinstance(self._given, LongRecords) and not isinstance(self._given, MaskedRecords):
            for chunk in self._given.chunks():
                rows = np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1])
                yield from map(TokenRecord, chunk.names.decode().split("\n"), rows)
            return
        for record in self._given:
            if isinstance(record, Record):
                record = TokenRecord(record.id, PROTEIN.encode_masked(record.sequence.encode()))
            yield record

    def only(self, what: str, record: str) -> "InputSequences":
        """The only sequence, read; a UserError if there are none or several."""
        first = list(islice(self, 2))
        if len(first) != 1:
            number = "several" if first else "no"
            raise UserError(f"{self.source}{': ' * bool(self.source)}{number} {record}s; {what} exactly one")
        return InputSequences(first)

    def tokens(self) -> int:
        """Length of all sequences of a list; 0 for a file, where it is unknown."""
        return 0 if self.source else sum(len(record.tokens) for record in self)

    def lines(self, unit: str) -> list[str]:
        """What was changed or left out, for messages."""
        return self.tally.lines(unit) if self.tally else []


def open_sequences(
    source: str,
    alphabet: Alphabet = PROTEIN,
    masked: bool = False,
    allow_nucleotides: bool = False,
    gaps: bool = True,
    invalid: str = "error",
) -> InputSequences:
    """The sequences of a file or of standard input, or `source` itself as a sequence.

    Args:
        source: a file as `LongRecords` reads it, "-" for standard input, or a sequence; of an alphabet such as that of
            bytes, in which any name of a file is a sequence, one with `<mask>`.
        alphabet: of the sequences; those of proteins are opened by `open_proteins`.
        masked: accept `<mask>`.
        allow_nucleotides, gaps, invalid: of proteins only, see `FastaFile`.

    Raises:
        UserError: if `source` is neither a file nor a sequence, or begins with an invalid record.
    """
    if alphabet == PROTEIN:
        return InputSequences(open_proteins(source, allow_nucleotides, masked, gaps, invalid))
    check_options(alphabet, allow_nucleotides, invalid)
    if exists(source):
        file = MaskedRecords(source, alphabet) if masked else LongRecords(source, alphabet)
        file.check_start()  # before anything is computed
        return InputSequences(file)
    typed = masked and MASK in source
    everything = alphabet.first_invalid(bytes(range(256))) is None
    expected = f"a {alphabet.record} of {alphabet.unit}s{f', with {MASK} in place of some' * masked}"
    if typed or not (everything or {*source} & {*alphabet.removed}):
        try:
            tokens = (alphabet.encode_masked if masked else alphabet.encode)(alphabet.typed(source))
        except UserError as error:
            if typed:
                raise UserError(f"{shortened(source)}: {error}") from error
            tokens = np.empty(0)
        if len(tokens):
            return InputSequences([TokenRecord(alphabet.record, tokens)])
    advice = "; give text in a file, or through standard input (-)" if everything else ""
    raise UserError(f"{shortened(source)}: neither an existing file nor {expected}{advice}")
