"""protlm: protein language models built on Performers, whose attention is linear in sequence length."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protlm.embedder import Embedder
from protlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pandas import DataFrame

    from protlm.homology.alignment import Alignment
    from protlm.supervised.estimator import Probe
    from protlm.supervised.predictor import Predictor

__version__ = "0.1.0"

__all__ = ["Embedder", "Probe", "UserError", "__version__", "fit", "load", "score"]


def load(
    path: "str | Path | None" = None,
    device: str = "cpu",
    attention: str | None = None,
    num_features: int | None = None,
    attention_backend: str = "auto",
    packed_batches: bool | None = None,
) -> Any:
    """Loads a trained model; see `protlm.model_api.load`.

    Without a path, loads the bundled model and says so on standard error. A folder of `protlm fit` is loaded as a
    `protlm.supervised.predictor.Predictor`.
    """
    from protlm import model_api  # imports torch, which takes seconds that `protlm --help` should not

    options = (device, attention, num_features, attention_backend, packed_batches)
    if path is not None and _is_fitted(path):
        from protlm.supervised.predictor_folder import load_predictor

        return load_predictor(path, lambda base: model_api.load(base, *options))
    return model_api.load(path, *options)


def _is_fitted(path: Any) -> bool:
    from protlm.supervised.predictor_folder import is_predictor

    return is_predictor(path)


def fit(labels: Any, output: "str | Path | None" = None, model: Any = None, **options: Any) -> "Predictor":
    """Learns to predict labels from embeddings, and evaluates it; see `protlm.supervised.fit_api.fit`."""
    from protlm.supervised import fit_api

    return fit_api.fit(labels, output, model, **options)


def __getattr__(name: str) -> Any:
    """`Probe` is imported when it is used, since scikit-learn takes a second."""
    if name == "Probe":
        from protlm.supervised.estimator import Probe

        return Probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
