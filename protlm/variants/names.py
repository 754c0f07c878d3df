"""Names of variants as Python objects hold them."""

from collections.abc import Iterable, Mapping

from protlm.errors import UserError
from protlm.tables import BLANKS


def variant_names(variants: Iterable[str], missing: bool = False) -> list[str]:
    """The names of variants in a list, tuple, generator, array or pandas Series; "" for None and NaN if `missing`.

    Raises:
        UserError: for any other object, or if an element is not a string.
    """
    if (
        isinstance(variants, str | bytes | Mapping)
        or hasattr(variants, "columns")
        or not isinstance(variants, Iterable)
    ):
        raise UserError(f"variants: expected a list of strings such as 'A42G', got {type(variants).__name__}")
    names = list(variants)
    if missing:
        names = ["" if str(name).casefold() in BLANKS else name for name in names]
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise UserError(f"variant {number}: expected a string such as 'A42G', got {name!r}")
    return names
