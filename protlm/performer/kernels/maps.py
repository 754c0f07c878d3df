"""Device functions: feature maps of features.py; of the bidirectional kernels also directions and logarithms (base 2).

Legend: d head width, M features. MAP is "log" for positive features exp(p), "exp" for exp(p) + epsilon in logarithms
(EPSILON is then its logarithm), or the name of a function f for f(p) + EPSILON.
"""

import triton
import triton.language as tl


@triton.jit
def directions(
    weight,
    feature,
    M: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BLOCK: tl.constexpr,
    DOT: tl.constexpr,
):
    """(BLOCK, DP) directions from `feature` on, 0 beyond M and d; the identity without any."""
    i = feature + tl.arange(0, BLOCK)
    columns = tl.arange(0, DP)
    if weight is None:
        return tl.where(i[:, None] == columns[None, :], 1.0, 0.0).to(DOT)
    else:
        pointers = weight + i[:, None] * D + columns[None, :]
        if M % BLOCK == 0 and D == DP:
            w = tl.load(pointers)
        else:
            w = tl.load(pointers, mask=(i < M)[:, None] & (columns < D)[None, :], other=0.0)
        return w.to(DOT)


@triton.jit
def scaled_directions(
    weight, feature, SCALE: tl.constexpr, M: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """(BLOCK, DP) directions times SCALE, and times log2(e) with LOG; the identity without any."""
    w = directions(weight, feature, M, D, DP, BLOCK, tl.float32)
    if weight is not None:
        w *= SCALE
        if LOG:
            w *= 1.4426950408889634
    return w.to(DOT)


@triton.jit
def remainders(
    weight, feature, SCALE: tl.constexpr, M: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """(BLOCK, DP): what `scaled_directions` has lost by rounding, rounded itself."""
    w = scaled_directions(weight, feature, SCALE, M, D, DP, BLOCK, tl.float32, False)
    return (w - w.to(DOT).to(tl.float32)).to(DOT)


@triton.jit
def logarithm(p, MAP: tl.constexpr, EPSILON: tl.constexpr):
    """Logarithm of a positive feature."""
    if MAP == "exp":
        return tl.maximum(p, EPSILON) + tl.log2(1.0 + tl.exp2(-tl.abs(p - EPSILON)))
    else:
        return p


@triton.jit
def logarithm_slope(grad, p, MAP: tl.constexpr, EPSILON: tl.constexpr):
    """The gradient of p from that of `logarithm`."""
    if MAP == "exp":
        return grad * tl.sigmoid((p - EPSILON) * 0.6931471805599453)
    else:
        return grad


@triton.jit
def feature_of(p, epsilon, MAP: tl.constexpr):
    """f(p) + epsilon."""
    if MAP == "relu":
        f = tl.maximum(p, 0.0)
    elif MAP == "gelu":
        f = 0.5 * p * (1.0 + tl.erf(p * 0.7071067811865476))
    elif MAP == "sigmoid":
        f = tl.sigmoid(p)
    elif MAP == "tanh":
        f = 2.0 * tl.sigmoid(2.0 * p) - 1.0
    elif MAP == "abs":
        f = tl.abs(p)
    elif MAP == "elu+1":
        f = tl.where(p > 0, p + 1.0, tl.exp(tl.minimum(p, 0.0)))
    elif MAP == "cos":
        f = tl.cos(p)
    else:
        tl.static_assert(MAP == "identity", "a feature map that has no kernel")
        f = p
    return f + epsilon


@triton.jit
def feature_slope(grad, p, MAP: tl.constexpr):
    """The gradient of p from that of f(p)."""
    if MAP == "relu":
        return tl.where(p > 0, grad, 0.0)
    elif MAP == "gelu":
        density = tl.exp(-0.5 * p * p) * 0.3989422804014327
        return grad * (0.5 * (1.0 + tl.erf(p * 0.7071067811865476)) + p * density)
    elif MAP == "sigmoid":
        return grad * tl.sigmoid(p) * tl.sigmoid(-p)
    elif MAP == "tanh":
        return grad * (4.0 * tl.sigmoid(2.0 * p) * tl.sigmoid(-2.0 * p))
    elif MAP == "abs":
        return tl.where(p > 0, grad, tl.where(p < 0, -grad, 0.0))
    elif MAP == "elu+1":
        return grad * tl.exp(tl.minimum(p, 0.0))
    elif MAP == "cos":
        return -grad * tl.sin(p)
    else:
        tl.static_assert(MAP == "identity", "a feature map that has no kernel")
        return grad
