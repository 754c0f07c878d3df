"""Feature maps phi with phi(q).phi(k) / M ~ kernel(q, k).

Legend: d head width, M features, ... any leading dimensions. x is a query or key times d^(-1/4).

A map applies a function f to an affine projection p = W x + b, with W (M, d) and b (M) made from random directions:

    phi(x)_i = exp(f(p)_i + c |x|^2 / 2)    if `log`
    phi(x)_i = f(p)_i exp(c |x|^2 / 2)      otherwise

docs/extending/attention.md shows how to add a map, here or in a package of your own.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from operator import attrgetter
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class FeatureMap:
    """Base class of feature maps; a subclass is a frozen dataclass whose fields are its options."""

    log: ClassVar[bool] = False
    """Whether features are positive and `features` returns their logarithms."""
    linear: ClassVar[bool] = True
    """Whether f is the identity."""
    quadratic: ClassVar[float] = 0.0
    """c in the formulas above."""
    redrawn: ClassVar[bool] = False
    """Whether the kernel estimates softmax, so that a new draw of the directions changes nothing on average."""
    adaptive: ClassVar[bool] = False
    """Whether `affine` depends on the moment of queries and keys."""
    norms: ClassVar[str | None] = None
    """The only norms of directions that the map is defined for; None for any."""
    projected = True
    """Whether there is a projection; without one, p = x and M = d."""

    def affine(self, directions: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """W (M, d) and b (M).

        Args:
            directions: (M, d) float64.
            moment: (d, d) float64, the mean of (x + y)(x + y)' over pairs of a query x and a key y; 0 if unknown.
        """
        return directions, directions.new_zeros(len(directions))

    def features(self, p: Tensor) -> Tensor:
        """f(p): (..., M) from (..., M); must be a new tensor unless the map is `linear`."""
        return p

    def features_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        """The gradient of p from that of f(p), which may be overwritten; autograd cannot derive it here."""
        if not self.linear:
            raise NotImplementedError(f"{type(self).__name__}: a map that is not linear needs `features_backward`")
        return grad


@dataclass(frozen=True)
class Softmax(FeatureMap):
    """exp(w.x - |x|^2 / 2): positive features; Choromanski et al. 2021, Lemma 1."""

    log = True
    quadratic = -1.0
    redrawn = True


@dataclass(frozen=True)
class Hyperbolic(Softmax):
    """Softmax features of w and of -w, 2M in all; Choromanski et al. 2021, Lemma 1."""

    def affine(self, directions: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        return super().affine(torch.cat((directions, -directions)), moment)


@dataclass(frozen=True)
class Regularised(Softmax):
    """SMREG: softmax features of directions with norm sqrt(d) exactly; Choromanski et al. 2021, Theorem 1."""

    norms = "constant"


def optimal_coefficient(f: Tensor) -> Tensor:
    """The A <= 0 that minimises the variance of the features if |x + y|^2 = d f; Likhosherstov et al. 2022.

    This is their (1 - 2f - sqrt((2f + 1)^2 + 8f)) / 16, rearranged to avoid cancellation near f = 0.
    """
    return -f / (1 - 2 * f + ((2 * f + 1).square() + 8 * f).sqrt())


@dataclass(frozen=True)
class Optimal(Softmax):
    """OPRF (FAVOR++): exp(A |w|^2 + sqrt(1 - 4A) w.x - |x|^2 / 2 + d log(1 - 4A) / 4); Likhosherstov et al. 2022.

    A is one number for all directions, chosen by the mean of |x + y|^2.
    """

    adaptive = True

    def affine(self, directions: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        dim = directions.shape[1]
        a = optimal_coefficient(moment.trace() / dim)
        bias = a * directions.square().sum(1) + dim / 4 * torch.log1p(-4 * a)
        return directions * (1 - 4 * a).sqrt(), bias


@dataclass(frozen=True)
class DiagonalExponential(Softmax):
    """SDERF (FAVOR#): like OPRF, with one A per principal axis of x + y; Likhosherstov et al. 2023."""

    adaptive = True

    def affine(self, directions: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        spectrum, axes = torch.linalg.eigh(moment)
        a = optimal_coefficient(spectrum.clamp(min=0))
        bias = directions.square() @ a + torch.log1p(-4 * a).sum() / 4
        return directions * (1 - 4 * a).sqrt() @ axes.T, bias


@dataclass(frozen=True)
class Trigonometric(FeatureMap):
    """exp(|x|^2 / 2) [cos w.x, sin w.x]: features of either sign, for comparison, 2M in all; Rahimi & Recht 2007."""

    linear = False
    quadratic = 1.0
    redrawn = True

    def features(self, p: Tensor) -> Tensor:
        return torch.cat((p.cos(), p.sin()), -1)

    def features_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        cos, sin = grad.chunk(2, -1)
        return sin * p.cos() - cos * p.sin()


@dataclass(frozen=True)
class Exponential(FeatureMap):
    """exp(w.x) + epsilon, computed as logarithms; Choromanski et al. 2021, D.2.

    Args:
        epsilon: greater than 0.
    """

    log = True
    linear = False
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.epsilon, int | float) or self.epsilon <= 0:
            raise ValueError(f"epsilon {self.epsilon!r}: expected a number greater than 0")

    def features(self, p: Tensor) -> Tensor:
        return torch.logaddexp(p, p.new_tensor(math.log(self.epsilon)))

    def features_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        return grad * torch.sigmoid(p - math.log(self.epsilon))


def _gelu_backward(p: Tensor, grad: Tensor) -> Tensor:
    density = torch.exp(-p * p / 2) / math.sqrt(2 * math.pi)
    return grad * ((1 + torch.erf(p / math.sqrt(2))) / 2 + p * density)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda p, grad: torch.ops.aten.threshold_backward.grad_input(grad, p, 0.0, grad_input=grad)),
    "gelu": (F.gelu, _gelu_backward),
    "sigmoid": (torch.sigmoid, lambda p, grad: grad * torch.sigmoid(p) * torch.sigmoid(-p)),
    "tanh": (torch.tanh, lambda p, grad: grad * (1 - torch.tanh(p).square())),
    "abs": (torch.abs, lambda p, grad: grad * torch.sign(p)),
    "elu+1": (lambda p: F.elu(p) + 1, lambda p, grad: grad * p.clamp(max=0).exp()),
    "cos": (torch.cos, lambda p, grad: -grad * torch.sin(p)),
    "identity": (lambda p: p, lambda p, grad: grad),
}
"""Functions f of the generalised kernels, and for each (p, gradient of f(p)) -> gradient of p."""


@dataclass(frozen=True)
class Generalised(FeatureMap):
    """f(w.x) + epsilon, a kernel of its own, which estimates no other; Choromanski et al. 2021, 2.2, D.2 and D.4.

    Args:
        function: one of FUNCTIONS; "relu" is the paper's best on proteins.
        epsilon: added to every feature.
        projected: false uses x itself instead of w.x, so M = d, as in the paper's experiments.
    """

    linear = False
    function: str = "relu"
    epsilon: float = 1e-3
    projected: bool = True

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"function {self.function!r}: expected one of {', '.join(FUNCTIONS)}")
        if not isinstance(self.epsilon, int | float) or self.epsilon < 0:
            raise ValueError(f"epsilon {self.epsilon!r}: expected a number of at least 0")

    def features(self, p: Tensor) -> Tensor:
        features = FUNCTIONS[self.function][0](p)
        if features is p or p.requires_grad:
            return features + self.epsilon
        return features.add_(self.epsilon)

    def features_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        return FUNCTIONS[self.function][1](p, grad)


@dataclass(frozen=True)
class Computed(FeatureMap):
    """Features computed by the caller: phi(x) = x."""

    projected = False


FEATURE_MAPS: dict[str, FeatureMap] = {
    "softmax": Softmax(),
    "hyperbolic": Hyperbolic(),
    "trig": Trigonometric(),
    "regularised": Regularised(),
    "optimal": Optimal(),
    "sderf": DiagonalExponential(),
    "exp": Exponential(),
    **{name: Generalised(name) for name in FUNCTIONS},
    "relu_unprojected": Generalised("relu", projected=False),
}
"""The built-in maps, each with its defaults."""


_DECODED: dict[str, FeatureMap] = {}
"""Texts that `encode_map` has returned in this process."""


def named(name: str) -> FeatureMap:
    """The feature map of a name in FEATURE_MAPS; raises ValueError for any other."""
    if name not in FEATURE_MAPS:
        raise ValueError(f"kernel {name!r}: expected one of {', '.join(FEATURE_MAPS)}")
    return FEATURE_MAPS[name]


def encode_map(feature_map: FeatureMap) -> str:
    """A map as a string, the only form in which PyTorch operators can take it."""
    cls = type(feature_map)
    text = json.dumps([cls.__module__, cls.__qualname__, asdict(feature_map)])
    _DECODED[text] = feature_map
    return text


def decode_map(text: str) -> FeatureMap:
    """The reverse of `encode_map`; imports the class if another process has encoded it."""
    if text not in _DECODED:
        module, name, fields = json.loads(text)
        _DECODED[text] = attrgetter(name)(import_module(module))(**fields)
    return _DECODED[text]
