"""Exceptions for user errors, also that of a missing model, and counts for messages."""

import re
from collections.abc import Callable
from numbers import Integral


class UserError(ValueError):
    """A file, argument or value given by the user cannot be used.

    The message says what was expected, what was found and what to do. The `protlm` command prints it without a
    traceback and exits with code 2.

    Args:
        message: in the library's words.
        arguments: names of arguments in the message, for which command lines put their options.

    >>> str(UserError("top_p 2: expected a number above 0, at most 1", "top_p"))
    'top_p 2: expected a number above 0, at most 1'
    """

    def __init__(self, message: str = "", *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments

    def renamed(self, option: Callable[[str], str]) -> str:
        """The message with `option(argument)` in place of each argument, also of an error that caused this one.

        >>> UserError("top_p 2: expected a number above 0, at most 1", "top_p").renamed("--{}".format)
        '--top_p 2: expected a number above 0, at most 1'
        """
        message, error = str(self), self
        while isinstance(error, UserError):
            for argument in error.arguments:
                found = [match.span() for match in re.finditer(rf"\b{re.escape(argument)}\b", message)]
                if found:  # at the start, else the last, since a path comes first
                    start, stop = found[0 if message.startswith((f"{argument} ", f"{argument}:")) else -1]
                    message = message[:start] + option(argument) + message[stop:]
            error = error.__cause__
        return message


class OtherAlphabetError(UserError):
    """A model of another alphabet than that of proteins, where only these can be used.

    Args:
        found: the model and its alphabet, to which a command may add its own reason and advice.
    """

    advice = (
        "this is for models of proteins; with other models use embed, fill, generate, evaluate, check, export or "
        "score --pseudo-perplexity"
    )

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; {self.advice} (from Python, load with any_alphabet=True)")
        self.found = found


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raises a `UserError` for an argument that is not an integer, also one of numpy, of at least `minimum`."""
    if not isinstance(value, Integral) or value < minimum:
        raise UserError(f"{name} {value!r}: expected an integer of at least {minimum}", name)


class ProtlmWarning(UserWarning):
    """Results may be unreliable; the `protlm` command prints the message once."""


def no_model(expected: str) -> UserError:
    """The error of a call without a model, which says how to get one.

    >>> str(no_model("model, the path of one")).partition(". ")[0]
    'no model given; expected model, the path of one'
    """
    return UserError(
        f"no model given; expected {expected}. To get one, import ESM-2: protlm import facebook/esm2_t6_8M_UR50D "
        "esm2-8m (30 MB to download), or train one on your proteins: python -m protlm.train data.fasta=proteins.fasta"
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, for messages.

    >>> counted(1, "protein"), counted(2_000, "protein")
    ('1 protein', '2,000 proteins')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
