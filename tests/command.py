"""The outcome of a command."""

import re
from typing import NamedTuple


class Outcome(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def assert_refused(outcome: Outcome, *words: object) -> None:
    """Exit code 2, nothing on standard output, and one line with the error."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", outcome.err)
    for word in words:
        assert str(word) in outcome.err
