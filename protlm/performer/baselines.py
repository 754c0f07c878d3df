"""Exact attention and no attention, with the interface of `FavorAttention`."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.segments import Packed
from protlm.performer.varlen import Kernel, fits, kernel_for, varlen_attention


@dataclass(frozen=True)
class Exact(Kind):
    """Exact softmax attention."""

    exact_matrix: ClassVar[bool] = True
    prefers_no_mask: ClassVar[bool] = True

    def module(self, settings: AttentionSettings) -> nn.Module:
        return ExactAttention(settings.causal)

    def operations(self, settings: AttentionSettings, length: int) -> int:
        return 4 * settings.head_dim * length // (2 if settings.causal else 1)


@dataclass(frozen=True)
class Identity(Kind):
    """No attention."""

    def module(self, settings: AttentionSettings) -> nn.Module:
        return IdentityAttention()

    def operations(self, settings: AttentionSettings, length: int) -> int:
        return 0


class KeysAndValues(NamedTuple):
    """All keys (B, H, L, d) and values (B, H, L, e) so far."""

    keys: Tensor
    values: Tensor

    @classmethod
    def joined(cls, before: "KeysAndValues | None", keys: Tensor, values: Tensor) -> "KeysAndValues":
        """Appends the next positions to earlier ones, if there are any."""
        if before is None:
            return cls(keys, values)
        return cls(torch.cat((before.keys, keys), 2), torch.cat((before.values, values), 2))


class ExactAttention(nn.Module):
    """Softmax attention, quadratic in length, by PyTorch's `scaled_dot_product_attention` or, if packed, `varlen_attn`.

    Args:
        causal: position t sees positions up to t only.
    """

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self._asked: torch.device | None = None
        self._varlen: Kernel | None = None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, packed: Packed | None = None
    ) -> Tensor:
        """Like `FavorAttention.forward`, with exact softmax(q.k / sqrt(d)); it ignores the mask of packed sequences."""
        if packed is not None:
            if self._varlen is None:
                raise ValueError("packed sequences: expected a GPU with flash attention; see `accepts_packed`")
            return varlen_attention(self._varlen, q, k, v, packed, self.causal)
        if key_mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        mask = key_mask[:, None, None, :]
        if self.causal:
            length = q.shape[-2]
            mask = mask & mask.new_ones(length, length).tril()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def accepts_packed(self, q: Tensor, v: Tensor) -> bool:
        """Like `FavorAttention.accepts_packed`: in 16 bits, on CUDA devices of compute capability 8.0 or more.

        torch.compile, which cannot trace the look at the device, keeps what was found before for it, or breaks its
        graph once.
        """
        if not fits(q, v):
            return False
        if not torch.compiler.is_compiling():
            self._ask(q.device)
        elif self._asked != q.device:
            untraced: Any = torch.compiler.disable(self._ask)
            untraced(q.device)
        return self._varlen is not None

    def _ask(self, device: torch.device) -> None:
        self._asked, self._varlen = device, kernel_for(device)

    @staticmethod
    def matrix(q: Tensor, k: Tensor) -> Tensor:
        """The attention matrices (B, H, L, L) of a bidirectional model without padding."""
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: KeysAndValues | None = None) -> tuple[Tensor, KeysAndValues]:
        """Like `FavorAttention.step`; the state holds all keys and values so far."""
        if not self.causal:
            raise ValueError("only causal attention can be computed step by step")
        state = KeysAndValues.joined(state, k, v)
        steps, length = q.shape[2], state.keys.shape[2]
        mask = torch.ones(steps, length, dtype=torch.bool, device=q.device).tril(length - steps)
        return F.scaled_dot_product_attention(q, *state, attn_mask=mask), state


class IdentityAttention(nn.Module):
    """Returns the values, to show the cost of a model without attention; "OPT" in Choromanski et al. 2021, 4.1."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """v; arguments as in `FavorAttention.forward`."""
        return v

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: None = None) -> tuple[Tensor, None]:
        """v; arguments as in `FavorAttention.step`."""
        return v, None
