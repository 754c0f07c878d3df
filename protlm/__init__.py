"""protlm: protein language models built on Performers, whose attention is linear in sequence length."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protlm.embedder import Embedder
from protlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pandas import DataFrame

    from protlm.homology.alignment import Alignment
    from protlm.model_api import ProteinModel

__version__ = "0.1.0"

__all__ = ["Embedder", "UserError", "__version__", "load", "score"]


def load(
    path: "str | Path | None" = None,
    device: str = "cpu",
    attention: str | None = None,
    num_features: int | None = None,
    attention_backend: str = "auto",
    packed_batches: bool | None = None,
) -> "ProteinModel":
    """Loads a trained model; see `protlm.model_api.load`.

    Without a path, loads the bundled model and says so on standard error.
    """
    from protlm import model_api  # imports torch, which takes seconds that `protlm --help` should not

    return model_api.load(path, device, attention, num_features, attention_backend, packed_batches)


def score(
    wild_type: Any,
    variants: "Iterable[str] | None" = None,
    alignment: "str | Path | Alignment | None" = None,
    database: "str | Path | Sequence[str | Path]" = (),
    model: Any = None,
    structure: "str | Path | None" = None,
    scorer: str = "auto",
    method: str | None = None,
    offset: int = 0,
    invalid: str = "error",
    cache: bool = True,
) -> "DataFrame":
    """Scores variants of a protein by its homologs, a model, or both; see `protlm.variant_api.score`."""
    from protlm import variant_api

    return variant_api.score(
        wild_type, variants, alignment, database, model, structure, scorer, method, offset, invalid, cache
    )
