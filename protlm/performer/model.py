"""A Performer protein language model.

Legend: B batch, L length, D model width, V vocabulary.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from protlm.performer.backends import check_backend
from protlm.performer.block import Block
from protlm.performer.checkpointing import SELECTIVE, keeping_attention
from protlm.performer.config import PerformerConfig
from protlm.performer.contact_head import ContactHead
from protlm.performer.estimator import waits
from protlm.performer.features import FeatureMap
from protlm.performer.head import EsmHead, head_of
from protlm.performer.kind import Kind
from protlm.performer.mixed import MixedAttention, attention_of
from protlm.performer.operands import dtype_of_products
from protlm.performer.positions import Rotation, extrapolated, rotary, sinusoids
from protlm.performer.recurrent import PerformerState
from protlm.performer.segments import Packed, Plan, Segments, accepts_packed, needs_mask, plan_of, restarted, share_of

NO_HEAD = "the model has no language-model head, so it predicts no residues; embed proteins or fit labels with it"
ZEROED = 0.15 * 0.8
"""Fraction of masked tokens in ESM-2's training; see `PerformerConfig.zeroed_id`."""


class Performer(nn.Module):
    """Tokens to logits.

    Weights are initialised from a normal distribution with standard deviation 0.02, those that write into the residual
    stream divided by sqrt(2 layers), so that its variance does not grow with depth (Radford et al. 2019). The embedding
    has 0.5, the scale of positions (docs/decisions.md), unless it is tied to the head.
    """

    packed_batches: bool | None = None
    """Whether inference computes batches without padding; None: on a GPU, where attention takes such batches."""
    activation_checkpointing: bool | str = False
    """Whether the backward pass recomputes each block from its input, to save memory; "selective": except attention."""

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_id)
        if config.learned_positions:
            self.position = nn.Parameter(sinusoids(config.max_length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        if config.qk_norm:  # ESMC, which has no bias there, so that a model can be written back after training
            self.norm.bias.requires_grad_(False)
        self.head = head_of(config)
        if config.contact_head:
            self.contact_head = ContactHead(config.layers, config.heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises all weights from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                multiplies = isinstance(module, nn.Linear) or self.config.head == "esm"
                nn.init.normal_(module.weight, std=0.02 if multiplies else 0.5)
            if isinstance(module, nn.Linear | EsmHead):
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed_forward.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers))
        for attention in self._attention("reset_parameters"):
            attention.reset_parameters()

    def switch_attention(self, attention: str | FeatureMap | Kind, num_features: int | None = None) -> None:
        """Replaces the kind of attention; all parameters except those of attention itself are kept.

        Parameters of the new kind are drawn from torch's global generator; its directions are those of draw 0.

        Args:
            attention, num_features: as in `PerformerConfig`; None keeps the number of features.

        Raises:
            ValueError: for an unknown kind or number.
        """
        features = self.config.num_features if num_features is None else num_features
        config = replace(self.config, attention=attention, num_features=features)
        if config.to_dict() == self.config.to_dict():
            return
        self.config = config
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            kind = attention_of(config, layer).train(self.training)
            block.attention.attention = kind.to(self.embedding.weight)  # device and dtype

    def use_backend(self, name: str) -> None:
        """Chooses what computes attention from random features: "auto", "cpu", "eager", "triton" or "flex".

        Raises:
            ValueError: for an unknown name, and for "triton" or "flex" without attention from random features;
                `forward` raises it if the backend cannot compute a call.
        """
        check_backend(name)
        found = list(self._attention("backend"))
        if name in ("triton", "flex") and not found:
            reason = f"computes attention from random features only; the model's is {self.config.attention_name!r}"
            raise ValueError(f"attention_backend {name!r}: {reason}")
        for attention in found:
            attention.backend = name

    @property
    def backend_in_use(self) -> str | None:
        """What computes attention from random features on this device, for users; None for other kinds of attention.

        Ask before the first call of compiled blocks, which keep the choice; otherwise each breaks its graph once.

        Raises:
            ValueError: if the chosen backend cannot compute it.
        """
        found = [attention.backend_in_use() for attention in self._attention("backend_in_use")]
        return found[0] if found else None

    def takes_packed(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> bool:
        """Whether attention computes packed batches as they are, by default of the weights' dtype and device."""
        width = self.config.width // self.config.heads
        q = self.embedding.weight.new_empty(1, 1, 1, width, dtype=dtype, device=device)
        return all(accepts_packed(module, q, q) for module in self._attention_modules())

    def _takes_packed(self, x: Tensor) -> bool:
        """Whether attention of the first layer, like that of all others, takes packed batches of such activations."""
        q = x.new_empty(1, 1, 1, self.config.width // self.config.heads, dtype=dtype_of_products(x))
        return accepts_packed(next(self._attention_modules()), q, q)

    @property
    def has_step_kernel(self) -> bool:
        """Whether steps take an `InPlaceState` in every layer: where the kernels compute causal attention."""
        return all(getattr(module, "has_step_kernel", False) for module in self._attention_modules())

    def redraw(self, draw_number: int) -> None:
        """Replaces the random directions of every layer; see `FavorAttention.redraw`."""
        for attention in self._attention("redraw"):
            attention.redraw(draw_number)

    def share_observations(self) -> None:
        """Broadcasts rank 0's observations for adaptive kernels: only these are in a checkpoint."""
        for attention in self._attention("share_observations"):
            attention.share_observations()

    @property
    def draw_number(self) -> int:
        """Number of the last draw of random directions; 0 if there are none."""
        return max((int(attention.draw_number) for attention in self._attention("draw_number")), default=0)

    def _attention_modules(self) -> Iterator[Any]:
        """The attention of each layer."""
        return (block.attention.attention for block in self.blocks)  # type: ignore[union-attr]

    def _attention(self, able: str) -> Iterator[Any]:
        """The attention of each layer, without local heads, if it has such an attribute."""
        own = (module.rest if isinstance(module, MixedAttention) else module for module in self._attention_modules())
        return (module for module in own if hasattr(module, able))

    def hidden(self, tokens: Tensor, key_mask: Tensor | None = None, segments: Segments = None) -> Tensor:
        """Representations (B, L, D) after the final LayerNorm.

        Args:
            tokens: (B, L) int64.
            key_mask: (B, L) bool, true where a token is real; by default all but padding. Attention ignores it with a
                `Packed`, which holds no padding.
            segments: of packed batches: (B, L) integers, equal within each sequence of a row, or for a batch of one row
                a `Packed`. Attention stays within a sequence, and its positions start from 0. None for one sequence
                per row.
        """
        last = len(self.blocks)
        return self.representations(tokens, {last}, key_mask, segments)[last]

    def representations(
        self, tokens: Tensor, layers: Collection[int], key_mask: Tensor | None = None, segments: Segments = None
    ) -> dict[int, Tensor]:
        """Representations (B, L, D) by layer: 0 is the embedding, i the output of block i, the last after LayerNorm.

        Args:
            tokens, key_mask, segments: as in `hidden`.
            layers: which to return, from 0 to the number of blocks.
        """
        if key_mask is None:
            key_mask = tokens != self.config.pad_id
        numbers = segments.numbers(tokens.shape[1]) if isinstance(segments, Packed) else segments
        x = self._embedded(tokens, key_mask, numbers)
        rotation = self._rotation(tokens, numbers)
        within: Segments | Plan = segments
        # what attention of all layers needs is found out once, since on a GPU the host waits for it
        unmasked, ahead = self.config.kind.prefers_no_mask, self.config.causal and waits(x)
        if isinstance(segments, Packed) or (segments is None and unmasked and not needs_mask(key_mask, ahead)):
            key_mask = None  # in a packed batch nothing is padding
        if numbers is not None and not (isinstance(segments, Packed) and self._takes_packed(x)):
            needed = partial(needs_mask, causal=ahead) if unmasked and waits(x) else (lambda mask: True)
            within = plan_of(numbers, key_mask, needed)
        keeping: dict[str, Any] = {"context_fn": keeping_attention}
        selective = keeping if self.activation_checkpointing == SELECTIVE else {}
        kept = {0: x} if 0 in layers else {}
        for number, block in enumerate(self.blocks, start=1):
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, key_mask, within, rotation, use_reentrant=False, **selective)
            else:
                x = block(x, key_mask, within, rotation)
            if number in layers and number < len(self.blocks):
                kept[number] = x
        if len(self.blocks) in layers:
            kept[len(self.blocks)] = self.norm(x)
        return kept

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None, segments: Segments = None) -> Tensor:
        """Logits (B, L, V); arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, key_mask, segments))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from representations (..., D) after the final LayerNorm.

        Raises:
            ValueError: for a model without a language-model head.
        """
        if self.head is None:
            raise ValueError(NO_HEAD)
        if isinstance(self.head, EsmHead):
            return self.head(hidden, self.embedding.weight)
        return self.head(hidden)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: PerformerState | None = None) -> tuple[Tensor, PerformerState]:
        """Logits (B, L, V) of the next tokens (B, L) of a causal model in evaluation mode, and the state after them.

        Time and memory do not depend on the number of earlier tokens, except for exact attention, which keeps all keys
        and values. No token may be padding.

        Raises:
            ValueError: for a bidirectional model, one with `zeroed_id`, or attention without steps (LSH attention).
        """
        if not self.config.stepwise:
            raise ValueError("only a causal model can be computed step by step, without zeroed_id and LSH attention")
        first, states = state or PerformerState(0, (None,) * len(self.blocks))
        x, rotation, after = self._embedded(tokens, None, None, first), self._rotation(tokens, None, first), []
        for block, before in zip(self.blocks, states, strict=True):
            assert isinstance(block, Block)
            x, now = block.step(x, before, rotation)
            after.append(now)
        return self.logits(self.norm(x)), PerformerState(first + tokens.shape[1], tuple(after))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets (B, L) that are not -100; 0 if there are none."""
        flat = logits.float().flatten(0, 1), targets.flatten()
        return F.cross_entropy(*flat, reduction="sum") / (targets >= 0).sum().clamp(min=1)

    def _embedded(
        self, tokens: Tensor, key_mask: Tensor | None, segments: Tensor | None, first: int | Tensor = 0
    ) -> Tensor:
        x = self.embedding(tokens)
        if self.config.zeroed_id is not None and key_mask is not None:
            zeroed = (tokens == self.config.zeroed_id) & key_mask
            share = share_of(zeroed, key_mask, segments)
            factor = ((1 - ZEROED) / (1 - share).clamp(min=1e-9))[..., None]
            x = x.masked_fill(zeroed[..., None], 0) * factor.to(x.dtype)
        if self.config.learned_positions:
            positions = extrapolated(self.position, first, tokens.shape[1])
            x = x + (positions if segments is None else positions[restarted(segments)])
        return self.dropout(x)

    def _rotation(self, tokens: Tensor, segments: Tensor | None, first: int | Tensor = 0) -> Rotation | None:
        if not self.config.rotary_positions:
            return None
        if segments is None:
            position = first + torch.arange(tokens.shape[1], device=tokens.device)
        else:
            position = restarted(segments)[:, None]
        return rotary(position, self.config.width // self.config.heads, getattr(torch, self.config.rotary_dtype))
