"""The model that is fine-tuned."""

from protlm.performer import Performer
from protlm.supervised.fit_api import base_model


def load_base(path: str) -> Performer:
    """A trained model, in float32: a folder or a checkpoint.

    Raises:
        UserError: for a path that is not a model.
    """
    return base_model(path)[0]
