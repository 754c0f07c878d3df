"""The Performer with the interface of Hugging Face's transformers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from protlm.performer.config import PerformerConfig
from protlm.performer.label_head import LAYER, LabelHead
from protlm.performer.model import Performer


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
        if isinstance(module, Performer | LabelHead):
            module.reset_parameters()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.performer.embedding

    def _representations(
        self, input_ids: Tensor, attention_mask: Tensor | None, all_layers: bool | None
    ) -> tuple[Tensor, Sequence[Tensor] | None, "_Shift"]:
        """Final representations (B, L, D), and on request those of the embedding and each layer; all are shifted."""
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)}: expected that of input_ids")
        key_mask = self._key_mask(input_ids, attention_mask)
        shift, last = _Shift(key_mask), len(self.performer.blocks)
        every = self.config.output_hidden_states if all_layers is None else all_layers
        layers = range(last + 1) if every else (last,)
        kept = self.performer.representations(shift(input_ids), layers, shift(key_mask))
        return kept[last], [kept[layer] for layer in layers] if every else None, shift

    def _key_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return input_ids != self.performer.config.pad_id
        return attention_mask.bool()

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        keep = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        return output if keep else output.to_tuple()


class _Shift:
    """Moves the padding at the left end of each row to its right end, since positions count from the first real token.

    Args:
        key_mask: (B, L) bool, true where a token is real.
    """

    def __init__(self, key_mask: Tensor) -> None:
        self._first = key_mask.long().argmax(1, keepdim=True)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, L, ...), with padding on the right."""
        return self._moved(x, self._first)

    def back(self, x: Tensor) -> Tensor:
        """The reverse."""
        return self._moved(x, -self._first)

    def _moved(self, x: Tensor, by: Tensor) -> Tensor:
        length = x.shape[1]
        index = (torch.arange(length, device=x.device) + by) % length
        return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


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
            attention_mask: (B, L), 1 where a token is real; by default all but padding, which may be at either end.
            output_hidden_states: whether to return those of the embedding and of each layer.
            return_dict: whether to return a `ModelOutput` instead of a tuple.
        """
        last, layers, shift = self._representations(input_ids, attention_mask, output_hidden_states)
        hidden: Any = None if layers is None else tuple(map(shift.back, layers))
        return self._returned(BaseModelOutput(last_hidden_state=shift.back(last), hidden_states=hidden), return_dict)  # type: ignore[arg-type]


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
        last, layers, shift = self._representations(input_ids, attention_mask, output_hidden_states)
        logits, loss = self.performer.logits(last), None
        if labels is not None:
            labels = shift(labels)
            labels = F.pad(labels[:, 1:], (0, 1), value=-100) if self.causal else labels
            loss = self.performer.loss(logits, labels)
        hidden = None if layers is None else tuple(map(shift.back, layers))
        return self._returned(self.output(loss=loss, logits=shift.back(logits), hidden_states=hidden), return_dict)


class ProtlmForMaskedLM(_LanguageModel):
    """Masked language model; bidirectional."""


class ProtlmForCausalLM(_LanguageModel):
    """Next-residue model; causal."""

    causal = True
    output = CausalLMOutput


class _Classifier(ProtlmPreTrainedModel):
    """A model with a head for labels, by `config.problem_type`: classes, several labels, or values."""

    per_residue = False
    output: type = SequenceClassifierOutput

    def __init__(self, config: ProtlmConfig) -> None:
        super().__init__(config)
        self.num_labels, last = config.num_labels, len(self.performer.blocks)
        about = config.label_head or {"blocks": [f"{LAYER}{last}"], "features": config.hidden_size, "hidden": None}
        more = {"per_residue": self.per_residue, "outputs": config.num_labels, "last": last}
        self.label_head = LabelHead(width=config.hidden_size, **{**more, **about})

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, k), or (B, L, k) of tokens, and the loss if there are labels; otherwise as in `ProtlmModel`.

        Args:
            labels: (B,) or (B, L) classes, -100 to ignore; values; or (B, k) for several labels per protein.
        """
        key_mask = self._key_mask(input_ids, attention_mask)
        shift, last = _Shift(key_mask), len(self.performer.blocks)
        every = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        needed = range(last + 1) if every else self.label_head.layers
        tokens, key_mask = shift(input_ids), shift(key_mask)
        kept = self.performer.representations(tokens, needed, key_mask)
        residues = key_mask.clone()  # neither the start token nor the end token, which is the last one
        residues[:, 0] = False
        residues &= key_mask.flip(1).cumsum(1).flip(1) > 1
        blocks = self.label_head.blocks_of_tokens(tokens, residues)
        logits = self.label_head(kept, residues, blocks)
        logits = shift.back(logits) if self.per_residue else logits
        loss = None if labels is None else self._loss(logits.flatten(0, -2), labels)
        hidden = tuple(shift.back(kept[layer]) for layer in range(last + 1)) if every else None
        return self._returned(self.output(loss=loss, logits=logits, hidden_states=hidden), return_dict)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        if kind == "regression" or (kind is None and self.num_labels == 1):
            return F.mse_loss(logits.flatten(), labels.float().flatten())
        return F.cross_entropy(logits, labels.flatten())


class ProtlmForSequenceClassification(_Classifier):
    """Labels of proteins."""


class ProtlmForTokenClassification(_Classifier):
    """Labels of residues."""

    per_residue = True
    output = TokenClassifierOutput
