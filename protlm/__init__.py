"""protlm: protein language models built on Performers, with attention that is linear in the length of the protein."""

from pathlib import Path
from typing import TYPE_CHECKING

from protlm.errors import UserError

if TYPE_CHECKING:
    from protlm.performer import Performer

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "load"]


def load(path: "str | Path") -> "Performer":
    """The model of a model folder or a training checkpoint; see `protlm.checkpoint.load`."""
    from protlm import checkpoint  # torch takes seconds to import, which `protlm --help` need not wait for

    return checkpoint.load(path)
