"""protlm: protein language models built on Performers, whose attention is linear in sequence length."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protlm.embedder import Embedder
from protlm.errors import UserError

if TYPE_CHECKING:
    from protlm.annotation.annotate import annotate
    from protlm.distillation.run import linearise
    from protlm.supervised.estimator import Probe
    from protlm.supervised.fit_api import fit
    from protlm.variant_api import score

__version__ = "0.1.0"

__all__ = ["Embedder", "Probe", "UserError", "__version__", "annotate", "fit", "linearise", "load", "score"]

_LAZY = {
    "Probe": "protlm.supervised.estimator",
    "annotate": "protlm.annotation.annotate",
    "fit": "protlm.supervised.fit_api",
    "linearise": "protlm.distillation.run",
    "score": "protlm.variant_api",
}


def load(
    path: "str | Path",
    device: str = "cpu",
    attention: str | None = None,
    num_features: int | None = None,
    attention_backend: str = "auto",
    packed_batches: bool | None = None,
    any_alphabet: bool = False,
) -> Any:
    """Loads a trained model; see `protlm.model_api.load`.

    A folder of `protlm fit` is loaded as a `protlm.supervised.predictor.Predictor`.
    """
    from protlm import model_api  # imports torch, which takes seconds that `protlm --help` should not

    options = (device, attention, num_features, attention_backend, packed_batches)
    if _is_fitted(path):
        from protlm.supervised.predictor_folder import load_predictor

        return load_predictor(path, lambda base: model_api.load(base, *options))
    return model_api.load(path, *options, any_alphabet=any_alphabet)


def _is_fitted(path: Any) -> bool:
    from protlm.supervised.predictor_folder import is_predictor

    return is_predictor(path)


def __getattr__(name: str) -> Any:
    """What needs PyTorch or scikit-learn is imported when it is used: that takes seconds."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
