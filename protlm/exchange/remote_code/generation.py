"""`generate` of transformers with the states of a causal model as its cache.

Legend: B batch, L length, D width.
"""

from typing import Any

import torch
from torch import Tensor


class Generation:
    """What `transformers.GenerationMixin` calls, to be the first of the bases of a model."""

    config: Any
    get_input_embeddings: Any
    _is_stateful = True  # a state cannot be cut back to fewer tokens

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: `forward` makes the cache."""
        return False

    def generate(self, inputs: Tensor | None = None, *arguments: Any, **options: Any) -> Any:
        """As in transformers; `<eos>` at the end of a prompt, where the tokeniser puts it, becomes padding at its left.

        The result has as many tokens before the new ones as the prompt.
        """
        tokens = options.get("input_ids", inputs)
        if tokens is not None and options.get("inputs_embeds") is None:
            ended = self._ended(tokens)
            open_ended = torch.where(ended, tokens.roll(1, 1), tokens)
            open_ended[:, :1].masked_fill_(ended, self.config.pad_token_id)
            if (mask := options.get("attention_mask")) is not None:
                options["attention_mask"] = torch.where(ended, mask.roll(1, 1), mask)
                options["attention_mask"][:, :1].masked_fill_(ended, 0)
            if inputs is None:
                options["input_ids"] = open_ended
            else:
                inputs = open_ended
        return super().generate(inputs, *arguments, **options)  # type: ignore[misc]

    def _ended(self, tokens: Tensor) -> Tensor:
        """(B, 1) bool: whether each row of (B, L) ends with `<eos>`, after at least the start token."""
        if tokens.shape[1] < 2:
            return torch.zeros_like(tokens[:, :1], dtype=torch.bool)
        return (tokens[:, -2:-1] != self.config.pad_token_id) & (tokens[:, -1:] == self.config.eos_token_id)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward`: the tokens after those of the cache, or all of them without one.

        Args:
            input_ids: (B, L) int64; with `inputs_embeds`, perhaps only the tokens after these.
            past_key_values: of the tokens before.
            attention_mask: (B, ...) of all tokens, with those of the embeddings.
            inputs_embeds: (B, ..., D), of the prompt.
            more: other arguments of `forward`, and some that it does not need.
        """
        names = ("use_cache", "output_attentions", "output_hidden_states")
        inputs = {name: more[name] for name in names if name in more}
        inputs |= {"past_key_values": past_key_values, "attention_mask": attention_mask}
        total = input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
        if past_key_values is not None:
            return inputs | {"input_ids": input_ids[:, past_key_values.get_seq_length() - total :]}
        if inputs_embeds is None:
            return inputs | {"input_ids": input_ids}
        drawn = input_ids[:, input_ids.shape[1] - (total - inputs_embeds.shape[1]) :]
        embeddings = torch.cat((inputs_embeds, self.get_input_embeddings()(drawn)), 1)
        return inputs | {"inputs_embeds": embeddings}
