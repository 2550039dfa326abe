"""Newton-Schulz iterations on stacks: matrix products alone drive singular values to 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import replaceable

# Singular values x become x (3 - x^2) / 2. This is App. B.8 of arXiv 2502.07752 without its inverse root: with Z_k the
# product of all its factors so far, X_k = Z_k X_0 and its Y_k is X_k X_k^T.
CUBIC = (1.5, -0.5, 0.0)
# Muon's: faster, and singular values end between 0.7 and 1.2 (Keller Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)

# In half precision the fast kernels of a GPU load 8 numbers at once, and take rows of a multiple of 8 only.
ALIGNMENT = 8


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """`steps` times X <- a X + (b A + c A^2) X with A = X X^T; X [B, m, n], m <= n, singular values at most 1.

    `matrix` may be written to.
    """
    n = matrix.shape[-1]
    if matrix.dtype.itemsize == 2 and n % ALIGNMENT and matrix.stride(-2) > 1:
        matrix = F.pad(matrix, (0, -n % ALIGNMENT))  # zero columns stay zero, and X X^T the same
    return newton_schulz_iterations(matrix, coefficients, steps)[..., :n]


@replaceable
def newton_schulz_iterations(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """`newton_schulz` of a matrix as wide as the device likes it."""
    a, b, c = coefficients
    for _ in range(steps):
        gram = matrix @ matrix.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else b * gram
        matrix = torch.baddbmm(matrix, inner, matrix, beta=a)
    return matrix


def reference_newton_schulz(X: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """`newton_schulz` of one matrix, in plain float64."""
    a, b, c = coefficients
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


def iteration_dtype(matrix: Tensor, chosen: str) -> torch.dtype:
    """The precision of the iteration: "float32", "bfloat16", or "auto" for float16 on CUDA and float32 elsewhere.

    float16 has three more bits than bfloat16 and is as fast; its range is enough for norms of 1 (docs/numerics.md).
    CPUs without arithmetic in either emulate it many times slower than float32. A float64 matrix keeps float64.
    """
    if matrix.dtype == torch.float64:
        return torch.float64
    if chosen == "auto":
        return torch.float16 if matrix.is_cuda else torch.float32
    return torch.bfloat16 if chosen == "bfloat16" else torch.float32
