"""The Performer with the interface of Hugging Face's transformers.

Legend: B batch, L length, D width, V vocabulary, k labels.

Arguments of every `forward`:

- input_ids: (B, L) int64.
- attention_mask: (B, L), 1 where a token is real; by default all but padding, which may be at either end.
- inputs_embeds: (B, L, D), instead of input_ids. They count as residues, none of them as a mask.
- labels: see each class.
- output_attentions: whether to return the attention matrices (B, H, L, L) of each block, without gradients.
- output_hidden_states: whether to return the representations of the embedding and each layer.
- return_dict: whether to return a `ModelOutput` instead of a tuple.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from transformers import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from protlm.exchange.remote_code.configuration_protlm import ProtlmConfig
from protlm.exchange.remote_code.generation import Generation
from protlm.exchange.remote_code.pretrained_model import Inputs, ProtlmPreTrainedModel
from protlm.exchange.remote_code.state_cache import StateCache
from protlm.performer.label_head import LAYER, LabelHead


class ProtlmModel(ProtlmPreTrainedModel):
    """The model without its head."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Representations (B, L, D) after the final LayerNorm."""
        inputs, last = self._inputs(input_ids, attention_mask, inputs_embeds), len(self.performer.blocks)
        computed = self._computed(inputs, [last], output_hidden_states, output_attentions)
        final: Any = computed.padding.restored(computed.layers[last])
        output = BaseModelOutput(final, hidden_states=computed.hidden, attentions=computed.attentions)
        return self._returned(output, return_dict)


class _LanguageModel(ProtlmPreTrainedModel):
    """A model with its head; a subclass is for one direction."""

    predicts_tokens = True
    causal = False
    output: type = MaskedLMOutput

    def __init__(self, config: ProtlmConfig) -> None:
        if config.performer["head"] == "none":
            raise ValueError(
                "this model has no language-model head: use AutoModel, or AutoModelForSequenceClassification or "
                "AutoModelForTokenClassification with a new head"
            )
        if config.performer["causal"] != self.causal:
            direction, other = ("bidirectional", "Masked") if self.causal else ("causal", "Causal")
            raise ValueError(f"this model is {direction}: use AutoModelFor{other}LM")
        super().__init__(config)

    def _predicted(
        self,
        inputs: Inputs,
        labels: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> Any:
        """Logits (B, L, V), and the loss if there are labels (B, L), -100 to ignore."""
        last = len(self.performer.blocks)
        computed = self._computed(inputs, [last], output_hidden_states, output_attentions)
        logits, loss = self.performer.logits(computed.layers[last]), None
        if labels is not None:
            labels = computed.padding.removed(labels)
            labels = F.pad(labels[:, 1:], (0, 1), value=-100) if self.causal else labels
            loss = self.performer.loss(logits, labels)
        logits = computed.padding.restored(logits)
        return self.output(loss=loss, logits=logits, hidden_states=computed.hidden, attentions=computed.attentions)


class ProtlmForMaskedLM(_LanguageModel):
    """Masked language model; bidirectional."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, L, V), and the loss if there are labels (B, L), -100 to ignore."""
        inputs = self._inputs(input_ids, attention_mask, inputs_embeds)
        return self._returned(self._predicted(inputs, labels, output_attentions, output_hidden_states), return_dict)


class ProtlmForCausalLM(Generation, _LanguageModel, GenerationMixin):  # type: ignore[misc]
    """Next-residue model; causal."""

    causal = True
    output = CausalLMOutputWithPast

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, L, V) of each next token, and the loss if there are labels.

        Args:
            past_key_values: of the tokens before; `attention_mask` may cover them as well. It is changed in place.
            labels: (B, L), -100 to ignore; they are shifted here, so that they are usually the input itself.
            use_cache: whether to return `past_key_values`, with logits without gradients. It is not done in training,
                with labels, hidden states, attentions, or padding between tokens or at the right, and for models that
                cannot be computed step by step.
        """
        if past_key_values is not None and attention_mask is not None:
            attention_mask = attention_mask[:, past_key_values.get_seq_length() :]
        inputs = self._inputs(input_ids, attention_mask, inputs_embeds)
        more = labels is not None or output_attentions or output_hidden_states
        if past_key_values is not None and more:
            raise ValueError("past_key_values: cannot be used with labels, hidden states or attentions")
        if past_key_values is None and use_cache and not more and self._can_cache(inputs):
            past_key_values = StateCache(len(inputs.tokens), inputs.tokens.device)
        if past_key_values is None:
            return self._returned(self._predicted(inputs, labels, output_attentions, output_hidden_states), return_dict)
        logits = past_key_values.step(self.performer, *inputs)
        return self._returned(CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values), return_dict)  # type: ignore[arg-type]

    def _can_cache(self, inputs: Inputs) -> bool:
        return self.performer.config.stepwise and not self.training and StateCache.can_start(inputs.key_mask)


class _Classifier(ProtlmPreTrainedModel):
    """A model with a head for labels, by `config.problem_type`: classes, several labels, or values."""

    per_residue = False
    output: type = SequenceClassifierOutput

    def __init__(self, config: ProtlmConfig) -> None:
        super().__init__(config)
        self.num_labels, last = config.num_labels, len(self.performer.blocks)
        about = config.label_head or {"blocks": [f"{LAYER}{last}"], "features": config.hidden_size, "hidden": None}
        more = {"per_residue": self.per_residue, "outputs": config.num_labels, "last": last}
        # the name by which peft knows what to train and save
        self.classifier = LabelHead(width=config.hidden_size, **{**more, **about})

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, k), or (B, L, k) of tokens, and the loss if there are labels.

        Args:
            labels: (B,) or (B, L) classes, -100 to ignore; values; or (B, k) for several labels per protein.
        """
        inputs = self._inputs(input_ids, attention_mask, inputs_embeds)
        if input_ids is None and not all(name.startswith(LAYER) for name in self.classifier.blocks):
            raise ValueError("inputs_embeds: this head reads the sequence as well; pass input_ids")
        computed = self._computed(inputs, self.classifier.layers, output_hidden_states, output_attentions)
        residues = computed.key_mask.clone()  # neither the start token nor the end token, which is the last one
        residues[:, 0] = False
        residues &= computed.key_mask.flip(1).cumsum(1).flip(1) > 1
        blocks = self.classifier.blocks_of_tokens(computed.tokens, residues)
        weights = {**dict(self.classifier.named_parameters()), **dict(self.classifier.named_buffers())}
        weights = {name: x.float() if x.is_floating_point() else x for name, x in weights.items()}  # if they are 16-bit
        logits = functional_call(self.classifier, weights, (computed.layers, residues, blocks))
        logits = computed.padding.restored(logits) if self.per_residue else logits
        loss = None if labels is None else self._loss(logits.flatten(0, -2), labels)
        output = self.output(loss, logits, hidden_states=computed.hidden, attentions=computed.attentions)
        return self._returned(output, return_dict)

    def resize_token_embeddings(self, *arguments: Any, **options: Any) -> Any:
        """As in `ProtlmPreTrainedModel`; new tokens are no amino acids for the head."""
        embedding = super().resize_token_embeddings(*arguments, **options)
        codes = self.classifier.codes
        if len(codes):
            self.classifier.codes = F.pad(codes, (0, embedding.num_embeddings - len(codes)), value=20)
            self.config.label_head = {**self.config.label_head, "codes": self.classifier.codes.tolist()}
        return embedding

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind is None:
            classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
            kind = "regression" if logits.shape[-1] == 1 else classes
        if kind == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        if kind == "regression":
            return F.mse_loss(logits.flatten(), labels.float().flatten())
        return F.cross_entropy(logits, labels.flatten())


class ProtlmForSequenceClassification(_Classifier):
    """Labels of proteins."""


class ProtlmForTokenClassification(_Classifier):
    """Labels of residues."""

    per_residue = True
    output = TokenClassifierOutput
