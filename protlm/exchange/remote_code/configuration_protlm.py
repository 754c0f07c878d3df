"""The configuration of an exported model."""

from typing import Any

from transformers import PretrainedConfig

from protlm.performer.config import PerformerConfig


class ProtlmConfig(PretrainedConfig):
    """The content of config.json.

    Args:
        performer: `PerformerConfig.to_dict()`; None for the defaults with ESM's 33 tokens.
        label_head: arguments of `LabelHead` but the numbers of outputs and features, for classification; None for a
            linear function of the mean, or of each row, of the last layer.
        more: arguments of `PretrainedConfig`.
    """

    model_type = "protlm"

    def __init__(
        self, performer: dict[str, Any] | None = None, label_head: dict[str, Any] | None = None, **more: Any
    ) -> None:
        self.performer = PerformerConfig(33, 1).to_dict() if performer is None else performer
        self.label_head = label_head
        more.setdefault("pad_token_id", self.performer["pad_id"])
        more["tie_word_embeddings"] = False  # the model ties its weights itself
        super().__init__(**more)

    @property
    def vocab_size(self) -> int:
        """V; transformers sets it when it resizes the embedding."""
        return self.performer["vocab_size"]

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.performer = {**self.performer, "vocab_size": size}

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.performer["width"]

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return self.performer["layers"]

    @property
    def num_attention_heads(self) -> int:
        """Number of heads of a block."""
        return self.performer["heads"]
