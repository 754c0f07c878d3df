"""Approximations of the nearest matrices with orthonormal rows or columns: singular values between 0.7 and 1.2.

In bfloat16 on accelerators and in float32 on CPUs, many of which have no 16-bit arithmetic.

Source: Newton-Schulz iteration of Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the iteration x -> a x + b x^3 + c x^5, which moves singular values towards 1 (Jordan et al. 2024)."""
ITERATIONS = 5
_SMALLEST = 1e-7  # norm


def orthogonalised(matrix: Tensor) -> Tensor:
    """Of one matrix (m, n)."""
    a, b, c = COEFFICIENTS
    x = matrix.to(arithmetic(matrix))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_SMALLEST)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.T if tall else x).to(matrix.dtype)


def orthogonalised_batch(matrices: Tensor) -> Tensor:
    """Of each of the matrices (N, m, n), with as many operations as one of them needs."""
    a, b, c = COEFFICIENTS
    x = matrices.to(arithmetic(matrices))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_SMALLEST)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def arithmetic(matrix: Tensor) -> torch.dtype:
    """What the iteration computes in."""
    return torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
