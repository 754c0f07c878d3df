"""The data files of protlm's own experiments, such as the demo's sample: not those of a run on other data."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from protlm.errors import UserError

_FILES = ("fasta", "clusters", "held_out")


def resolve_data(options: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Options of the data that have to change because the user names other data than an experiment of protlm's.

    Args:
        options: of the data.
        given: names of the options that the user has set.

    Raises:
        UserError: for a file of such an experiment that does not exist, as without a checkout.

    >>> resolve_data({"corpus": "my.h5", "fasta": "data/sample.fasta", "clusters": None}, ["data.corpus"])
    {'fasta': None}
    """
    own = [name for name in _FILES if options.get(name) and f"data.{name}" not in given]
    if {"data.corpus", "data.fasta"} & set(given):
        return dict.fromkeys(own)
    for name in own:
        if not Path(options[name]).exists():
            raise UserError(
                f"{options[name]}: no such file; the demo's sample is in a checkout of protlm, in which to start this "
                "command; to train on your own proteins, set data.fasta=FILE"
            )
    return {}
