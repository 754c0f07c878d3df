"""What all exported models share: inputs as transformers gives them, and the methods that it calls to change a model.

Legend: B batch, L length, D width, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from protlm.exchange.remote_code.attention_matrices import recorded
from protlm.exchange.remote_code.configuration_protlm import ProtlmConfig
from protlm.exchange.remote_code.padding import LeftPadding
from protlm.exchange.remote_code.state_cache import embedded_as
from protlm.performer.config import PerformerConfig
from protlm.performer.head import EsmHead
from protlm.performer.label_head import LabelHead
from protlm.performer.model import Performer


class Inputs(NamedTuple):
    """Proteins, whose padding may be at either end.

    Args:
        tokens: (B, L) int64; without them, any residue.
        key_mask: (B, L) bool, true where a token is real.
        embeddings: (B, L, D), instead of those of the tokens, or None.
    """

    tokens: Tensor
    key_mask: Tensor
    embeddings: Tensor | None


class Computed(NamedTuple):
    """What the model computed; everything but `hidden` and `attentions` has its padding at the right.

    Args:
        layers: number -> (B, L, D), as from `Performer.representations`.
        tokens, key_mask: as in `Inputs`.
        padding: which `restored` puts back.
        hidden: each layer, if these are returned.
        attentions: matrices (B, H, L, L) of each block, if these are returned.
    """

    layers: dict[int, Tensor]
    tokens: Tensor
    key_mask: Tensor
    padding: LeftPadding
    hidden: Any
    attentions: Any


class ProtlmPreTrainedModel(PreTrainedModel):
    """Base class of the models."""

    config_class = ProtlmConfig
    base_model_prefix = "protlm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    predicts_tokens = False
    """Whether the model has its language-model head."""
    _keys_to_ignore_on_load_unexpected = [r"performer\.head\."]

    def __init__(self, config: ProtlmConfig) -> None:
        super().__init__(config)
        head = {} if self.predicts_tokens else {"head": "none"}
        self.performer = Performer(PerformerConfig.from_dict({**config.performer, **head}))
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, Performer | LabelHead):
            module.reset_parameters()

    def get_input_embeddings(self) -> torch.nn.Module:
        """The embedding."""
        return self.performer.embedding

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the embedding, to which ESM's head is tied."""
        self.performer.embedding = value

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The last layer of the language-model head, if it has weights of its own."""
        head = self.performer.head
        return head[-1] if isinstance(head, torch.nn.Sequential) else None if isinstance(head, EsmHead) else head

    def set_output_embeddings(self, new_embeddings: torch.nn.Linear) -> None:
        """Replaces it."""
        if isinstance(self.performer.head, torch.nn.Sequential):
            self.performer.head[-1] = new_embeddings
        else:
            self.performer.head = new_embeddings

    def resize_token_embeddings(self, *arguments: Any, **options: Any) -> torch.nn.Embedding:
        """As in `PreTrainedModel`; new tokens have zero bias in ESM's head."""
        embedding = super().resize_token_embeddings(*arguments, **options)
        size, head = embedding.num_embeddings, self.performer.head
        self.performer.config = replace(self.performer.config, vocab_size=size)
        if isinstance(head, EsmHead):
            head.bias = torch.nn.Parameter(F.pad(head.bias.detach(), (0, size - len(head.bias))))
        return embedding

    @torch.no_grad()
    def predict_contacts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Probabilities of contacts (B, L - 2, L - 2) between residues, 0 after the end of each protein.

        Args:
            input_ids: (B, L) int64, with both ends.
            attention_mask: (B, L), 1 where a token is real; by default all but padding.

        Raises:
            ValueError: for a model without the contact head of ESM-2, or with other attention than it was fitted to.
        """
        if not self.performer.config.predicts_contacts:
            raise ValueError(
                "predict_contacts: expected an imported model with a contact head, and exact attention or a student's"
            )
        inputs, head = self._inputs(input_ids, attention_mask, None), self.performer.contact_head
        layers = self._computed(inputs, [], False, True).attentions
        found = head.weight.new_zeros(len(input_ids), input_ids.shape[1] - 2, input_ids.shape[1] - 2)
        for row, real in enumerate(inputs.key_mask):
            among = (layer[row][:, real][..., real][:, 1:-1, 1:-1].float() for layer in layers)
            logits = sum(head.logits(number, attention) for number, attention in enumerate(among)) + head.bias
            found[row, : len(logits), : len(logits)] = logits.sigmoid()
        return found

    def _inputs(self, input_ids: Tensor | None, attention_mask: Tensor | None, embeddings: Tensor | None) -> Inputs:
        """Arguments of `forward`.

        Raises:
            ValueError: unless there is exactly one of tokens and embeddings, and for a mask of another shape.
        """
        if (input_ids is None) == (embeddings is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        config, tokens = self.performer.config, input_ids
        if tokens is None:
            assert embeddings is not None
            residue = next(token for token in range(3) if token not in (config.pad_id, config.zeroed_id))
            tokens = embeddings.new_full(embeddings.shape[:2], residue, dtype=torch.long)
        key_mask = tokens != config.pad_id if attention_mask is None else attention_mask.bool()
        if key_mask.shape != tokens.shape:
            raise ValueError(f"attention_mask of shape {tuple(key_mask.shape)}: expected {tuple(tokens.shape)}")
        return Inputs(tokens, key_mask, embeddings)

    def _computed(
        self, inputs: Inputs, layers: Iterable[int], hidden: bool | None, attentions: bool | None
    ) -> Computed:
        """Representations of some layers, and of all if `hidden`; the configuration says whether, if it is None."""
        every = self.config.output_hidden_states if hidden is None else hidden
        record = bool(self.config.output_attentions if attentions is None else attentions)
        needed = range(len(self.performer.blocks) + 1) if every else tuple(layers)
        padding = LeftPadding(inputs.key_mask)
        tokens, key_mask = padding.removed(inputs.tokens), padding.removed(inputs.key_mask)
        embeddings = None if inputs.embeddings is None else padding.removed(inputs.embeddings)
        self.performer.activation_checkpointing = self.gradient_checkpointing and self.training
        with embedded_as(self.performer, embeddings), recorded(self.performer, record) as matrices:
            found = self.performer.representations(tokens, needed, key_mask)
        states = tuple(padding.restored(found[layer]) for layer in needed) if every else None
        maps = tuple(padding.restored(padding.restored(one.mT, 2).mT, 2) for one in matrices) if record else None
        return Computed(found, tokens, key_mask, padding, states, maps)

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        keep = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        return output if keep else output.to_tuple()
