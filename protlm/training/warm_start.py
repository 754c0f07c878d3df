"""Initial weights from a trained model, which may have another kind of attention."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protlm.checkpoint import load
from protlm.errors import UserError
from protlm.performer import Performer

INIT = "init"
"""Key of a checkpoint: what its run started from, None for random weights."""
SIZES = ("alphabet", "vocab_size", "pad_id", "layers", "heads", "width", "feed_forward")
SHAPES = (*SIZES, "positions", "norm_eps", "head", "zeroed_id", "rotary_dtype", "activation", "qk_norm")
"""Fields of the configuration that have to be equal: they define the shape and the meaning of the weights."""
KINDS = ("attention_name", "causal", "num_features", "directions", "norms", "local_heads", "local_window")
"""Fields that define the weights and random directions of attention itself."""
_ATTENTION = ".attention.attention."
_CONTACTS = "contact_head."  # fitted to the attention of the trained model


def checked_init(checkpoint: Mapping[str, Any], given: str | None) -> str | None:
    """What the run of a checkpoint started from; a `UserError` if something else is given for the resumed run.

    Args:
        checkpoint: its content.
        given: `init` of the resumed run, which would not be used; None if it was left out.
    """
    stored = checkpoint.get(INIT, given)  # older checkpoints do not tell
    if given is None or stored == given or (stored and Path(stored).resolve() == Path(given).resolve()):
        return stored
    started = f"the run to resume (ckpt_path) started from {stored or 'random weights'}"
    raise UserError(f"init {given}: {started}; leave out init, or ckpt_path to start a new run")


def load_initial_weights(model: Performer, path: str | Path) -> None:
    """Copies the weights of a trained model, a folder or a Lightning checkpoint, into a new one of the same size.

    If both have the same kind of attention, its own weights and random directions are copied too; otherwise they keep
    their fresh initialisation.
    """
    trained = load(path, any_alphabet=True)
    fields = (*SHAPES, "max_length") if model.config.learned_positions else SHAPES
    if odd := [name for name in fields if getattr(trained.config, name) != getattr(model.config, name)]:
        changes = ", ".join(
            f"model.{name} {getattr(trained.config, name)} is now {getattr(model.config, name)}" for name in odd
        )
        raise UserError(f"init {path}: {changes}; only attention, dropout and features may differ")
    weights = {name: weight for name, weight in trained.state_dict().items() if not name.startswith(_CONTACTS)}
    weights |= {name: weight for name, weight in model.state_dict().items() if name.startswith(_CONTACTS)}
    if any(getattr(trained.config, name) != getattr(model.config, name) for name in KINDS):
        own = {name: weight for name, weight in model.state_dict().items() if _ATTENTION in name}
        weights = {name: weight for name, weight in weights.items() if _ATTENTION not in name} | own
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"init {path}: its weights do not fit the configured model") from error
