"""protlm: protein language models built on Performers, with attention that is linear in the length of the protein."""

from pathlib import Path
from typing import TYPE_CHECKING

from protlm.errors import UserError

if TYPE_CHECKING:
    from protlm.model_api import ProteinModel

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "load"]


def load(
    path: "str | Path | None" = None, device: str = "cpu", attention: str | None = None, num_features: int | None = None
) -> "ProteinModel":
    """A trained model to embed, predict, score and generate with; see `protlm.model_api.load`.

    Without a path it is the small one that comes with protlm, which one line on standard error says.
    """
    from protlm import model_api  # torch takes seconds to import, which `protlm --help` need not wait for

    return model_api.load(path, device, attention, num_features)
