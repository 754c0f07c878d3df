"""protlm: protein language models built on Performers, with attention that is linear in the length of the protein."""

from protlm.checkpoint import load
from protlm.errors import UserError

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "load"]
