"""Causal attention from random features on a GPU: 3 kernels forward, 6 backward, at any length.

Legend: B batch, H heads, L length, S sequences, d head width, e value width, M features, G positions of a group.

Forward: the sums of each group (`states_kernel`), the sums before each (`scan_kernel`), the outputs (`outputs_kernel`).
Backward: the first two again, the gradient of queries (`queries_kernel`), sums over queries of each group, the sums
after each, and the gradients of keys and values (`keys_kernel`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from protlm.performer.estimator import LOG2E, Outputs
from protlm.performer.features import Computed, Exponential, FeatureMap, Generalised
from protlm.performer.kernels.causal_keys import keys_kernel
from protlm.performer.kernels.causal_outputs import outputs_kernel
from protlm.performer.kernels.causal_queries import queries_kernel
from protlm.performer.kernels.causal_states import scan_kernel, states_kernel
from protlm.performer.kernels.causal_tiling import HOPPER, NARROWEST, Launch, Tiling, generation, tiling
from protlm.performer.linear_attention import like
from protlm.performer.segments import Packed

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def supported(feature_map: FeatureMap) -> bool:
    """Whether there are kernels for the map."""
    if feature_map.log:
        return feature_map.projected and (feature_map.linear or type(feature_map) is Exponential)
    return type(feature_map) in (Generalised, Computed)


class Call:
    """The arguments that all kernels of one call share."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        feature_map: FeatureMap,
        scale: float,
        packed: Packed | None = None,
        sizes: Tiling | None = None,
        backward: bool = False,
    ) -> None:
        if not supported(feature_map):
            raise NotImplementedError(f"{type(feature_map).__name__}: no kernel for this map")
        if any(x.dtype == torch.float64 for x in (q, k, v)):
            raise NotImplementedError("the kernels compute in float32 at most, got float64")
        (self.batch, self.heads, self.length, d), e = q.shape, v.shape[-1]
        self.q, self.k, self.v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        short = all(x.dtype.itemsize == 2 for x in (q, k, v))
        # sums need the range of bfloat16; float16 holds its 8 bits of q and k, and directions to 11 bits
        self.dtype, input_dtype = (torch.bfloat16, torch.float16) if short else (torch.float32, torch.float32)
        capability = generation(q.device)
        narrowest = NARROWEST if short and capability == HOPPER else 16
        widths = [max(narrowest, triton.next_power_of_2(x)) for x in (d, e)]
        exponential = type(feature_map) is Exponential
        kind = widths != [d, e], feature_map.log and key_mask is not None, exponential, feature_map.log
        self.sizes = sizes = sizes or tiling(max(d, e), short, backward, capability, *kind)
        self.features = d if weight is None else len(weight)
        self.largest_tile = max(16 if weight is not None else narrowest, triton.next_power_of_2(self.features))
        self.padded = self.largest_tile
        if weight is not None:
            tile = min(self.largest_tile, max(self.tile(x) for x in (sizes[-4:])))
            self.padded = triton.cdiv(self.features, tile) * tile
        self.sequences = self.batch if packed is None else len(packed.cu_seqlens) - 1
        self.groups = triton.cdiv(self.length, sizes.group)
        self.slots = self.batch * self.groups if packed is None else self.length // sizes.group + self.sequences
        self.boundaries = q if packed is None else packed.cu_seqlens
        self.mask = q if key_mask is None else key_mask.contiguous()
        self.directions = q
        if weight is not None:  # scaled and rounded by one kernel
            self.directions = torch.mul(weight, scale, out=q.new_empty(weight.shape, dtype=input_dtype))
        self.offsets = q if bias is None else bias
        self.numbers = {
            "mask_stride": self.length,
            "total": self.length,
            "length": self.length,
            "groups": self.groups,
            "sequences": self.sequences,
            "quadratic": feature_map.quadratic * scale**2 / 2 * LOG2E,
            "scale": scale,
            "epsilon": float(getattr(feature_map, "epsilon", 0.0)),
        }
        function = "exp" if exponential else getattr(feature_map, "function", "identity")
        self.common: dict[str, Any] = {
            "M": self.features,
            "d": d,
            "e": e,
            "D": widths[0],
            "E": widths[1],
            "MP": self.padded,
            "G": sizes.group,
            "LOG": feature_map.log,
            "FUNCTION": function,
            "PROJECTED": weight is not None,
            "BIASED": bias is not None,
            "MASKED": key_mask is not None,
            "PACKED": packed is not None,
            "INPUT": TYPES[input_dtype],
            "PRODUCT": TYPES[self.dtype],
            "PRECISION": sizes.precision,
        }

    def tile(self, launch: Launch) -> int:
        """Features of a tile; the kernels count tiles in the bits of one number."""
        least = triton.next_power_of_2(triton.cdiv(self.features, 31))
        return min(self.largest_tile, max(launch.features, least))

    def compiled(self, launch: Launch) -> dict[str, Any]:
        """The named arguments of a launch."""
        tile = self.tile(launch) if self.common["PROJECTED"] else self.padded
        options = {"C": launch.chunk, "BM": tile, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
        return self.numbers | self.common | options

    def chunks(self, launch: Launch) -> tuple[int, int]:
        """The grid of a kernel with a program per chunk."""
        return self.slots * (self.sizes.group // launch.chunk), self.heads

    def scanned(self, final: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
        """The sums over the keys before each group: past, past_ones, past_shift and past_growth of `scan_kernel`."""
        shape = self.slots, self.heads, self.padded
        shift, growth = (self.q.new_empty(shape, dtype=torch.float32) for _ in range(2))
        return *self._scanned(self.k, self.v, None, (shift, growth), final), shift, growth

    def scanned_queries(
        self, grad: Tensor, norm: Tensor, drift: Tensor, relative: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The sums over the queries after each group; changes the first of past_shift and past_growth (`relative`)."""
        return self._scanned(self.q, grad, (norm, drift), relative, None)

    def _scanned(
        self,
        x: Tensor,
        y: Tensor,
        queries: tuple[Tensor, Tensor] | None,
        relative: tuple[Tensor, Tensor],
        final: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        shape, common, sizes = (self.slots, self.heads, self.padded), self.common, self.sizes
        sums, ones, shift, first, past_ones = (
            self.q.new_empty(*shape, *more, dtype=torch.float32) for more in ((common["E"],), (), (), (), ())
        )
        past = torch.empty_like(sums, dtype=self.dtype)
        # the arguments that a direction does not use get any pointer
        options = self.compiled(sizes.states)
        states_kernel[(self.slots, self.heads, self.padded // options["BM"])](
            x, y, self.directions, self.offsets, self.mask, *((shift, shift) if queries is None else queries),
            self.boundaries, sums, ones, shift, first, *x.stride()[:3], *y.stride()[:3], **options,
            QUERIES=queries is not None,
        )  # fmt: skip
        tile = min(sizes.scan_features, self.padded)
        scan_kernel[(self.sequences, self.heads, self.padded // tile)](
            sums, ones, shift, first, self.boundaries, past, past_ones, *relative,
            *((sums, ones) if final is None else final), self.groups, self.length,
            M=common["M"], e=common["e"], E=common["E"], BS=tile, MP=self.padded, G=common["G"], LOG=common["LOG"],
            PACKED=common["PACKED"], QUERIES=queries is not None, FINAL=final is not None, STAGES=sizes.scan_stages,
            num_warps=sizes.scan_warps,
        )  # fmt: skip
        return past, past_ones


def results(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    feature_map: FeatureMap,
    scale: float,
    packed: Packed | None = None,
    sizes: Tiling | None = None,
) -> Outputs:
    """Empty results of `causal`."""
    batch, heads, length, width = q.shape
    sequences = batch if packed is None else len(packed.cu_seqlens) - 1
    features, e = width if weight is None else len(weight), v.shape[-1]
    norm = q.new_empty(batch, heads, length, 1, dtype=torch.float32)
    final = norm.new_empty(sequences, heads, e + 1, features)
    shift = norm.new_empty(sequences, heads, 1, features if feature_map.log else 1)
    return Outputs(like(v, e), norm, shift, final)


def causal(*arguments: Any, **options: Any) -> Outputs:
    """Causal attention: 3 kernels. Arguments as for `Call`.

    Returns:
        `Outputs`: out (B, H, L, e); norm (B, H, L, 1) float32, inf where a position of a positive map sees no key;
        shift (S, H, 1, M), or (S, H, 1, 1) of zeros for a map that is not positive, and sums (S, H, e + 1, M), the
        state after the last position of each sequence.
    """
    call = Call(*arguments, **options)
    q, v = call.q, call.v
    out, norm, shift, final = results(*arguments, **options)
    if not out.numel():
        return Outputs(out, norm, shift.zero_(), final.zero_())
    past = call.scanned((final, shift))
    outputs_kernel[call.chunks(call.sizes.outputs)](
        q, call.k, v, call.directions, call.offsets, call.mask, call.boundaries, *past, out, norm,
        *q.stride()[:3], *call.k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        **call.compiled(call.sizes.outputs),
    )  # fmt: skip
    return Outputs(out, norm, shift, final)


def causal_backward(grad: Tensor, results: Outputs, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v: 6 kernels.

    Args:
        grad: (B, H, L, e), the gradient of `results.out`.
        results: what `causal` has returned.
    """
    call = Call(*arguments, **options, backward=True)
    q, k, v, sizes = call.q, call.k, call.v, call.sizes
    grad_q, grad_k, grad_v = (like(x, x.shape[-1]) for x in (q, k, v))
    if not grad.numel():
        return grad_q.zero_(), grad_k.zero_(), grad_v.zero_()
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    out, norm = results.out, results.norm
    drift = torch.empty_like(norm)
    past = call.scanned()
    queries_kernel[call.chunks(sizes.queries)](
        q, k, v, out, grad, call.directions, call.offsets, call.mask, norm, drift, call.boundaries, *past, grad_q,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *grad.stride()[:3],
        *grad_q.stride()[:3], **call.compiled(sizes.queries),
    )  # fmt: skip
    after = call.scanned_queries(grad, norm, drift, past[2:])
    keys_kernel[call.chunks(sizes.keys)](
        q, k, v, grad, call.directions, call.offsets, call.mask, norm, drift, call.boundaries, *past[2:], *after,
        grad_k, grad_v, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *grad.stride()[:3], *grad_k.stride()[:3],
        *grad_v.stride()[:3], **call.compiled(sizes.keys),
    )  # fmt: skip
    return grad_q, grad_k, grad_v
