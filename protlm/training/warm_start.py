"""What a model begins with: the weights of a trained one, whose kind of attention may be another."""

from pathlib import Path

from protlm.checkpoint import load
from protlm.errors import UserError
from protlm.performer import Performer

SHAPES = (
    "vocab_size",
    "pad_id",
    "layers",
    "heads",
    "width",
    "feed_forward",
    "positions",
    "norm_eps",
    "head",
    "zeroed_id",
    "rotary_dtype",
)
"""Fields of the configuration that say what the weights mean."""
KINDS = ("attention_name", "causal", "num_features", "directions", "norms", "local_heads", "local_window")
"""Those on which the weights and directions of attention itself depend."""
_INSIDE = ".attention.attention."


def begin_with(model: Performer, path: str | Path) -> None:
    """Gives a model the weights of a trained one, to train them on.

    Attention of another kind, or with another number of features, begins anew where it has weights or directions of
    its own; with the same, it goes on with those of the trained model.

    Args:
        model: changed in place.
        path: a model folder or a Lightning checkpoint.

    Raises:
        UserError: for a path that is no model, and for a model of other sizes.
    """
    trained = load(path)
    fields = (*SHAPES, "max_length") if model.config.learned_positions else SHAPES
    if odd := [name for name in fields if getattr(trained.config, name) != getattr(model.config, name)]:
        changes = ", ".join(
            f"model.{name} {getattr(trained.config, name)} is now {getattr(model.config, name)}" for name in odd
        )
        raise UserError(f"init {path}: {changes}; only attention, dropout and features may differ")
    weights = trained.state_dict()
    if any(getattr(trained.config, name) != getattr(model.config, name) for name in KINDS):
        own = {name: weight for name, weight in model.state_dict().items() if _INSIDE in name}
        weights = {name: weight for name, weight in weights.items() if _INSIDE not in name} | own
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"init {path}: weights that do not fit the configured model") from error
