"""The model that is fine-tuned."""

from protlm.performer import Performer
from protlm.supervised.fit_api import base_model
from protlm.training.run import is_first


def load_base(path: str) -> Performer:
    """A trained model, in float32: a folder, a checkpoint, or "bundled".

    Raises:
        UserError: for a path that is not a model.
    """
    return base_model(path, announce=is_first())[0]
