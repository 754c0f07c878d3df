"""FAVOR+, and the interface that every attention module has: (q, k, v, key_mask) -> values.

Legend: B batch, H heads, L length, d head width, e value width, M features.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from protlm.performer.backends import choose, explain, flex, kernels
from protlm.performer.estimator import precision, widest, without_autocast
from protlm.performer.features import FEATURE_MAPS, Computed, FeatureMap, Generalised, encode_map, named
from protlm.performer.linear_attention import Inputs, Options, linear_attention
from protlm.performer.operands import check_operands
from protlm.performer.projection import draw_directions, whole_number
from protlm.performer.recurrent import RecurrentState, step
from protlm.performer.segments import Packed


class FavorAttention(nn.Module):
    """Attention in time and memory linear in L, by random features.

    All heads share one set of directions, a buffer that is saved with the model. The kernels "optimal" and "sderf"
    choose their parameters by the mean of (q + k)(q + k)', which is accumulated in training mode and takes effect at
    the next `redraw`; before that they equal "softmax". So attention never depends on the other sequences of a batch.
    Bidirectional attention that estimates softmax centres its keys, see `centred`.

    Args:
        head_dim: d, the width of queries and keys.
        num_features: M; "hyperbolic" and "trig" have 2 M.
        kernel: "softmax", "hyperbolic", "trig", "regularised", "optimal" and "sderf" approximate softmax(q.k /
            sqrt(d)); "relu", "relu_unprojected", "exp", "gelu", "sigmoid", "tanh", "abs", "elu+1", "cos" and
            "identity" are generalised kernels; or a `FeatureMap`; or a function f of a tensor, for features f(w.x) +
            0.001, which needs memory for all L x M of them.
        directions: "orthogonal", "simplex" or "iid".
        causal: position t sees positions up to t only.
        seed, layer: together with the draw number, they determine the directions.
        norms: of the directions, "chi" or "constant"; "regularised" always uses "constant".

    Raises:
        ValueError: for unknown names and numbers out of range.

    Source: Choromanski et al. 2021, "Rethinking Attention with Performers"; features.py names that of each kernel.

    >>> attention = FavorAttention(head_dim=8, num_features=16)
    >>> q = k = v = torch.ones(1, 2, 5, 8)
    >>> attention(q, k, v).shape
    torch.Size([1, 2, 5, 8])
    """

    directions: Tensor
    bias: Tensor
    moment: Tensor
    observed: Tensor
    draw_number: Tensor
    backend = "auto"
    """What computes attention; see backends.py."""
    _chosen: str | None = None
    _attend: Any = None

    def __init__(
        self,
        head_dim: int,
        num_features: int = 256,
        kernel: str | FeatureMap | Callable[[Tensor], Tensor] = "softmax",
        directions: str = "orthogonal",
        causal: bool = False,
        seed: int = 0,
        layer: int = 0,
        norms: str = "chi",
    ) -> None:
        super().__init__()
        sizes = {"head_dim": (head_dim, 1), "num_features": (num_features, 1), "seed": (seed, 0), "layer": (layer, 0)}
        for name, (value, least) in sizes.items():
            whole_number(name, value, least)
        self.function = None
        if isinstance(kernel, str):
            self.feature_map = named(kernel)
        elif isinstance(kernel, FeatureMap):
            self.feature_map = kernel
        elif callable(kernel):
            self.feature_map, self.function = Generalised(), kernel
        else:
            raise ValueError(f"kernel {kernel!r}: expected a name, a FeatureMap or a function")
        self._encoded = encode_map(Computed() if self.function else self.feature_map)
        self.head_dim, self.causal = head_dim, causal
        self._drawn = (directions, self.feature_map.norms or norms, num_features, head_dim)
        self._key = (seed, layer)
        weight, bias = self._draw(0, torch.zeros(head_dim, head_dim, device="cpu"))
        self.register_buffer("directions", torch.empty(weight.shape).copy_(weight))  # on the current default device
        if self.feature_map.adaptive:
            self.register_buffer("bias", torch.empty(bias.shape).copy_(bias))
            self.register_buffer("moment", torch.zeros(head_dim, head_dim))
            self.register_buffer("observed", torch.tensor(0))
        self.register_buffer("draw_number", torch.tensor(0))

    def _draw(self, draw_number: int, moment: Tensor) -> tuple[Tensor, Tensor]:
        directions = draw_directions(*self._drawn, (*self._key, draw_number))
        weight, bias = self.feature_map.affine(directions, moment.double().cpu())
        return weight.float(), bias.float()

    @torch.no_grad()
    def redraw(self, draw_number: int) -> None:
        """Replaces the directions by those of (seed, layer, draw number), the same on every rank.

        With torch.distributed and an adaptive kernel ("optimal", "sderf"), all ranks must call this together, since
        their observations are averaged. (DistributedDataParallel copies rank 0's buffers to the others before each
        forward, unless broadcast_buffers=False; then only rank 0's share of the data counts.)
        """
        whole_number("draw_number", draw_number, 0)
        moment = torch.zeros(self.head_dim, self.head_dim, device="cpu")
        if self.feature_map.adaptive:
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                total = self.moment * self.observed
                dist.all_reduce(total)
                dist.all_reduce(self.observed)
                if self.observed > 0:
                    self.moment.copy_(total / self.observed)
            self.observed.zero_()
            moment = self.moment
        weight, bias = self._draw(draw_number, moment)
        self.directions.copy_(weight)
        if self.feature_map.adaptive:
            self.bias.copy_(bias)
        self.draw_number.fill_(draw_number)

    def share_observations(self) -> None:
        """Broadcasts rank 0's observations for adaptive kernels to all ranks: only these are in a checkpoint."""
        if self.feature_map.adaptive:
            dist.broadcast(self.moment, 0)
            dist.broadcast(self.observed, 0)

    @torch.no_grad()
    def observe(self, q: Tensor, k: Tensor, key_mask: Tensor | None = None) -> None:
        """Adds a batch to the averages that "optimal" and "sderf" use from the next `redraw` on.

        `forward` calls this in training mode. All proteins and heads have equal weight; arguments as in `forward`.
        """
        k = self.centred(q, k, key_mask)
        with without_autocast(q.device):
            x, y = (tensor.to(self.moment.dtype) * self.head_dim**-0.25 for tensor in (q, k))
            real = x.new_ones(len(x), x.shape[2]) if key_mask is None else key_mask.to(x)
            share = (real / real.sum(1, keepdim=True).clamp(min=1))[:, None, :, None]
            sums = torch.einsum("bhld,bhle->de", x * share, x) + torch.einsum("bhld,bhle->de", y * share, y)
            cross = torch.einsum("bhd,bhe->de", (x * share).sum(2), (y * share).sum(2))
            moment = (sums + cross + cross.T) / (x.shape[0] * x.shape[1])
        good = moment.isfinite().all()  # a batch that overflowed must not corrupt the average permanently
        self.observed += good * len(x)
        change = (moment - self.moment) * len(x) / self.observed.clamp(min=1)
        self.moment += torch.where(good, change, 0.0)

    def centred(self, q: Tensor, k: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The keys, shifted so that q + k has mean zero over each protein and head.

        softmax(q.k) does not change, since all logits of a query change by the same amount, but the variance of its
        estimate, which grows as exp |q + k|^2, falls. Keys are returned unchanged for kernels that do not estimate
        softmax, and for causal attention, where early positions must not depend on a mean over later ones. Arguments
        as in `forward`.
        """
        if self.causal or not self.feature_map.redrawn:
            return k
        with without_autocast(q.device):
            x, y = (tensor.to(precision(q, k)) for tensor in (q, k))
            if key_mask is None:
                mean = (x + y).mean(2, keepdim=True)
            else:
                real = key_mask[:, None, None, :].to(x)
                mean = real / real.sum(-1, keepdim=True).clamp(min=1) @ (x + y)
            return (y - mean).to(k.dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, packed: Packed | None = None
    ) -> Tensor:
        """Attention (B, H, L, e) in the dtype of v.

        Args:
            q, k: (B, H, L, d), v: (B, H, L, e); any float dtype and strides. Sums are float32 (float64 for float64),
                even under autocast; products of 16-bit inputs use 16-bit arithmetic where the processor has it.
            key_mask: (B, L) bool, true where a key is real; None if all are. Masked keys and values may be any finite
                numbers.
            packed: the sequences of a packed batch, each of which attends to itself; B is 1. Only where
                `accepts_packed` is true.

        Raises:
            ValueError: for shapes that do not match, and for a `backend` that cannot compute them.
        """
        check_operands(self.head_dim, q, k, v, key_mask)
        inputs, options = self._operands(q, k, v, key_mask)
        backend = self._choice(inputs, options, packed is not None)
        if packed is not None and (backend != "triton" or self._observes):
            raise ValueError("packed sequences: expected the backend 'triton', and no adaptive kernel in training mode")
        if self._observes:
            self.observe(q, k, key_mask)
        centre = self.feature_map.redrawn and not self.causal
        if backend == "triton":
            return self._attend(inputs, options, centre, packed)[0]
        inputs = inputs._replace(k=self.centred(q, k, key_mask)) if centre else inputs
        if backend == "flex":
            return flex().attention(inputs, options)
        return linear_attention(inputs, options)[0]

    def accepts_packed(self, q: Tensor, v: Tensor) -> bool:
        """Whether `forward` takes packed sequences of such queries and values, in the mode that the module is in."""
        if self.function is not None or self._observes:
            return False
        return self._choice(*self._operands(q, q, v, None), packed=True) == "triton"

    @property
    def _observes(self) -> bool:
        return self.training and self.feature_map.adaptive

    def _choice(self, inputs: Inputs, options: Options, packed: bool = False) -> str:
        """The backend of a call; for torch.compile, which cannot trace the choice, that of the latest call.

        Without an earlier call, torch.compile breaks its graph here, unless there is nothing to choose.
        """
        if not torch.compiler.is_compiling():
            self._choose(inputs, options, packed)
        elif self._chosen is None:
            if inputs.q.device.type == "cpu" and self.backend in ("auto", "cpu", "eager"):
                return "eager"
            untraced: Any = torch.compiler.disable(self._choose)
            untraced(inputs, options, packed)
        assert self._chosen is not None
        return self._chosen

    def _choose(self, inputs: Inputs, options: Options, packed: bool) -> None:
        self._chosen = choose(self.backend, inputs, options, packed)
        self._attend = kernels().attention if self._chosen == "triton" else None

    def backend_in_use(self, dtype: torch.dtype = torch.bfloat16) -> str:
        """What computes attention of such tensors on the device of this module, as a phrase for users.

        Call it before torch.compile, which keeps this choice.

        Raises:
            ValueError: if the `backend` that was chosen cannot compute them, and their gradients in training mode.
        """
        q = self.draw_number.new_empty(1, 1, 1, self.head_dim, dtype=dtype)
        q.requires_grad_(self.training and torch.is_grad_enabled())
        operands = self._operands(q, q, q, None)
        self._choice(*operands)
        return explain(self.backend, *operands)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Causal attention of the next positions, and the state after them; without gradients.

        Args:
            q, k, v: as in `forward`; usually L = 1.
            state: as returned by the previous step; None at the first position. An `InPlaceState` is overwritten by the
                kernel for one position (L = 1), if `has_step_kernel`.

        Raises:
            ValueError: for bidirectional attention, for shapes, including those of the state, that do not match, and
                for a `backend` that cannot compute the first positions.
        """
        check_operands(self.head_dim, q, k, v, None)
        if not self.causal:
            raise ValueError("only causal attention can be computed step by step")
        inputs, options = self._operands(q, k, v, None)
        if state is not None and q.numel():
            with without_autocast(q.device), torch.no_grad():
                return step(inputs, options, state)
        with torch.no_grad():
            kernel = q.numel() and self._choice(inputs, options) == "triton"
            out, shift, sums = (self._attend if kernel else linear_attention)(inputs, options)
        return out, state or RecurrentState(shift.to(widest(shift)), sums)

    @property
    def has_step_kernel(self) -> bool:
        """Whether `step` takes an `InPlaceState`: where the kernels compute causal attention of the weights' dtype."""
        if not self.causal or self.function is not None:
            return False
        q = self.directions.new_empty(1, 1, 1, self.head_dim)
        return self._choice(*self._operands(q, q, q, None)) == "triton"

    def _operands(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Inputs, Options]:
        dtype, options = precision(q, k, v), Options(self._encoded, self.head_dim**-0.25, self.causal)
        if not self.feature_map.projected:
            return Inputs(q, k, v, key_mask), options
        weight = self.directions.to(dtype)
        if self.function is None:
            bias = self.bias.to(dtype) if self.feature_map.adaptive else None
            return Inputs(q, k, v, key_mask, weight, bias), options
        epsilon = Generalised().epsilon
        weight = weight * options.scale
        with without_autocast(q.device):
            q, k = (self._called(x.to(dtype) @ weight.T) + epsilon for x in (q, k))
        return Inputs(q, k, v, key_mask), options._replace(scale=1.0)

    def _called(self, p: Tensor) -> Tensor:
        assert self.function is not None
        result = self.function(p)
        if not isinstance(result, Tensor) or result.dim() != 4 or result.shape[:3] != p.shape[:3]:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"kernel: expected a function to (B, H, L, any) from {tuple(p.shape)}, got {shape}")
        return result

    def extra_repr(self) -> str:
        directions, norms, num_features, head_dim = self._drawn
        names = (name for name, known in FEATURE_MAPS.items() if known == self.feature_map)
        kernel = self.function or next(names, self.feature_map)
        return (
            f"head_dim={head_dim}, num_features={num_features}, kernel={kernel!r}, directions={directions!r}, "
            f"norms={norms!r}, causal={self.causal}, seed={self._key[0]}, layer={self._key[1]}"
        )
