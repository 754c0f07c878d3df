"""The one exception that stands for a mistake in what the user gave, and how messages count."""


def counted(number: int, noun: str) -> str:
    """A number of things, for messages.

    >>> counted(1, "protein"), counted(2_000, "protein")
    ('1 protein', '2,000 proteins')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


class UserError(ValueError):
    """A file, option or value from the user cannot be used.

    The message is one or two lines that say what was expected, what came and what to do; the commands print it without
    a stack trace and exit with code 2.
    """
