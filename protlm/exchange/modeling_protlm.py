"""The Performer with the interface of Hugging Face's transformers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, MaskedLMOutput

from protlm.performer.config import PerformerConfig
from protlm.performer.model import Performer


class ProtlmConfig(PretrainedConfig):
    """The content of config.json.

    Args:
        performer: `PerformerConfig.to_dict()`; None for the defaults with ESM's 33 tokens.
        more: arguments of `PretrainedConfig`.
    """

    model_type = "protlm"

    def __init__(self, performer: dict[str, Any] | None = None, **more: Any) -> None:
        self.performer = PerformerConfig(33, 1).to_dict() if performer is None else performer
        more.setdefault("pad_token_id", self.performer["pad_id"])
        more["tie_word_embeddings"] = False  # the model ties its weights itself
        super().__init__(**more)

    @property
    def vocab_size(self) -> int:
        return self.performer["vocab_size"]

    @property
    def hidden_size(self) -> int:
        return self.performer["width"]

    @property
    def num_hidden_layers(self) -> int:
        return self.performer["layers"]

    @property
    def num_attention_heads(self) -> int:
        return self.performer["heads"]


class ProtlmPreTrainedModel(PreTrainedModel):
    """Base class of the models."""

    config_class = ProtlmConfig
    base_model_prefix = "protlm"
    main_input_name = "input_ids"

    def __init__(self, config: ProtlmConfig) -> None:
        super().__init__(config)
        self.performer = Performer(PerformerConfig.from_dict(config.performer))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, Performer):
            module.reset_parameters()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.performer.embedding

    def _representations(
        self, input_ids: Tensor, attention_mask: Tensor | None, all_layers: bool | None
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Final representations (B, L, D), and on request those of the embedding and each layer."""
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)}: expected that of input_ids")
        last = len(self.performer.blocks)
        key_mask = None if attention_mask is None else attention_mask.bool()
        every = self.config.output_hidden_states if all_layers is None else all_layers
        layers = range(last + 1) if every else (last,)
        kept = self.performer.representations(input_ids, layers, key_mask)
        return kept[last], tuple(kept[layer] for layer in layers) if every else None

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        keep = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        return output if keep else output.to_tuple()


class ProtlmModel(ProtlmPreTrainedModel):
    """The model without its head."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Representations (B, L, D) after the final LayerNorm.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 where a token is real; by default all but padding.
            output_hidden_states: whether to return those of the embedding and of each layer.
            return_dict: whether to return a `ModelOutput` instead of a tuple.
        """
        last, layers = self._representations(input_ids, attention_mask, output_hidden_states)
        return self._returned(BaseModelOutput(last_hidden_state=last, hidden_states=layers), return_dict)  # type: ignore[arg-type]


class _LanguageModel(ProtlmPreTrainedModel):
    """A model with its head; a subclass is for one direction."""

    causal = False
    output: type = MaskedLMOutput

    def __init__(self, config: ProtlmConfig) -> None:
        if config.performer["causal"] != self.causal:
            direction, other = ("bidirectional", "Masked") if self.causal else ("causal", "Causal")
            raise ValueError(f"this model is {direction}: use AutoModelFor{other}LM")
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, L, V), and the loss if there are labels (B, L), -100 to ignore; otherwise as in `ProtlmModel`.

        A causal model predicts each next token; labels are shifted here, so they are usually the input itself.
        """
        last, layers = self._representations(input_ids, attention_mask, output_hidden_states)
        logits = self.performer.logits(last)
        if labels is not None and self.causal:
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        loss = None if labels is None else self.performer.loss(logits, labels)
        return self._returned(self.output(loss=loss, logits=logits, hidden_states=layers), return_dict)


class ProtlmForMaskedLM(_LanguageModel):
    """Masked language model; bidirectional."""


class ProtlmForCausalLM(_LanguageModel):
    """Next-residue model; causal."""

    causal = True
    output = CausalLMOutput
