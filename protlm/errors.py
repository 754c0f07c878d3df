"""The one exception that stands for a mistake in what the user gave."""


class UserError(ValueError):
    """A file, option or value from the user cannot be used.

    The message is one or two lines that say what was expected, what came and what to do; the commands print it without
    a stack trace and exit with code 2.
    """
