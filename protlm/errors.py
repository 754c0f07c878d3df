"""Exceptions for user errors, and counts for messages."""


class UserError(ValueError):
    """A file, argument or value given by the user cannot be used.

    The message says what was expected, what was found and what to do. The `protlm` command prints it without a
    traceback and exits with code 2.
    """


class ProtlmWarning(UserWarning):
    """Results may be unreliable; the `protlm` command prints the message once."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, for messages.

    >>> counted(1, "protein"), counted(2_000, "protein")
    ('1 protein', '2,000 proteins')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
