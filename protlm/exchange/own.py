"""Models that `protlm export --format hf` wrote, such as after training with transformers."""

import dataclasses
from dataclasses import dataclass

from protlm.errors import UserError
from protlm.exchange.architecture import Parts
from protlm.exchange.huggingface import PREFIX
from protlm.exchange.saved_model import SavedModel
from protlm.exchange.weight_names import WeightNames
from protlm.performer import PerformerConfig
from protlm.sequence.alphabets import alphabet_of

MODEL_TYPE = "protlm"
HEAD, CLASSIFIER = f"{PREFIX}head.", "classifier."


@dataclass(frozen=True)
class SameNames(WeightNames):
    """Names that are the same there, after a prefix."""

    def sources(self, name: str) -> list[str]:
        return [PREFIX + name]


NAMES = SameNames(outside={}, inside={}, block="", expected="a model of protlm export --format hf")


def own_parts(saved: SavedModel) -> Parts:
    """What a saved model of protlm consists of.

    Raises:
        UserError: for a configuration that is not of this version, or a vocabulary that has grown.
    """
    path, described = saved.config_path, saved.config.get("performer")
    if not isinstance(described, dict):
        raise UserError(f"{path}: expected 'performer', the configuration of the model")
    predicts = any(name.startswith(HEAD) for name in saved.weights)
    try:
        config = PerformerConfig.from_dict({**described, **({} if predicts else {"head": "none"})})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error
    if config.vocab_size != (size := alphabet_of(config.alphabet).size):
        raise UserError(f"{path}: vocab_size is {config.vocab_size}; expected the {size} tokens of its alphabet")
    left_out = ["classifier"] if any(name.startswith(CLASSIFIER) for name in saved.weights) else []
    weights = {name: weight for name, weight in saved.weights.items() if not name.startswith(CLASSIFIER)}
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return Parts(fields, weights, NAMES, left_out)
