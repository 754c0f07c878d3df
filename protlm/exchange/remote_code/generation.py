"""`generate` of transformers with the states of a causal model as its cache.

Legend: B batch, L length, D width.
"""

from typing import Any

import torch
from torch import Tensor

from protlm.exchange.remote_code.padding import rotated


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
        """As in transformers, from prompts whose padding may be at either end.

        Padding at the right moves to the left, as does `<eos>` at the end of a prompt, where the tokeniser puts it: it
        becomes padding. The result has as many tokens before the new ones as the prompt. Embeddings are a prompt
        without `<eos>`. A prompt with `past_key_values` is taken as it is.
        """
        tokens, embeddings = options.get("input_ids", inputs), options.get("inputs_embeds")
        mask = options.get("attention_mask")
        if embeddings is not None:
            options["prompt_tokens"] = 0 if tokens is None else tokens.shape[1]
            if mask is not None and mask.shape == embeddings.shape[:2]:
                by = _padding_at_right(mask.bool())
                options |= {"inputs_embeds": rotated(embeddings, -by), "attention_mask": rotated(mask, -by)}
        elif tokens is not None and tokens.shape[1] and options.get("past_key_values") is None:
            real = tokens != self.config.pad_token_id if mask is None else mask.bool()
            if real.shape == tokens.shape:
                tokens, mask = self._open_ended(tokens, real, mask)
                options |= {} if mask is None else {"attention_mask": mask}
                if inputs is None:
                    options["input_ids"] = tokens
                else:
                    inputs = tokens
        return super().generate(inputs, *arguments, **options)  # type: ignore[misc]

    def _open_ended(self, tokens: Tensor, real: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L) and mask with padding at the left only, also in place of `<eos>` after a real token."""
        padding = _padding_at_right(real)
        last = tokens.shape[1] - 1 - padding
        ended = (tokens.gather(1, last) == self.config.eos_token_id) & (last > 0)
        ended &= real.gather(1, (last - 1).clamp(min=0))
        by = -(padding + ended.long())
        tokens = rotated(tokens, by)
        tokens[:, :1].masked_fill_(ended, self.config.pad_token_id)
        if mask is not None:
            mask = rotated(mask, by)
            mask[:, :1].masked_fill_(ended, 0)
        return tokens, mask

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        prompt_tokens: int = 0,
        **more: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward`: the tokens after those of the cache, or all of them without one.

        Args:
            input_ids: (B, L) int64.
            past_key_values: of the tokens before.
            attention_mask: (B, ...) of all tokens, with those of the embeddings.
            inputs_embeds: (B, ..., D), of the prompt.
            prompt_tokens: with `inputs_embeds`, how many of the tokens are before the drawn ones.
            more: other arguments of `forward`, and some that it does not need.
        """
        names = ("use_cache", "output_attentions", "output_hidden_states")
        inputs = {name: more[name] for name in names if name in more}
        inputs |= {"past_key_values": past_key_values, "attention_mask": attention_mask}
        if inputs_embeds is not None:
            drawn = input_ids[:, prompt_tokens:]
            total = inputs_embeds.shape[1] + drawn.shape[1]
        else:
            drawn, total = input_ids, input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
        if past_key_values is not None:
            if attention_mask is None:  # padding after <eos> of rows that ended before others needs a step as well
                inputs["attention_mask"] = input_ids.new_ones(len(input_ids), total)
            return inputs | {"input_ids": drawn[:, past_key_values.get_seq_length() - total :]}
        if inputs_embeds is None:
            return inputs | {"input_ids": input_ids}
        embeddings = torch.cat((inputs_embeds, self.get_input_embeddings()(drawn)), 1)
        return inputs | {"inputs_embeds": embeddings}


def _padding_at_right(real: Tensor) -> Tensor:
    """(B, 1) int64: the number of places of (B, L) bool after the last true one; 0 without a true one."""
    return real.long().flip(1).argmax(1, keepdim=True)
