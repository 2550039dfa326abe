"""Newton-Schulz iterations on stacks: matrix products alone drive singular values to 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Singular values x become x (3 - x^2) / 2. This is App. B.8 of arXiv 2502.07752 without its inverse root: with Z_k the
# product of all its factors so far, X_k = Z_k X_0 and its Y_k is X_k X_k^T.
CUBIC = (1.5, -0.5, 0.0)

# In half precision the fast kernels of a GPU load 8 numbers at once, and take rows of a multiple of 8 only.
ALIGNMENT = 8


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """`steps` times X <- a X + (b A + c A^2) X with A = X X^T; X [B, m, n], m <= n, singular values at most 1."""
    a, b, c = coefficients
    n = matrix.shape[-1]
    if matrix.dtype.itemsize == 2 and n % ALIGNMENT:
        matrix = F.pad(matrix, (0, -n % ALIGNMENT))  # zero columns stay zero, and X X^T the same
    for _ in range(steps):
        gram = matrix @ matrix.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else b * gram
        matrix = torch.baddbmm(matrix, inner, matrix, beta=a)
    return matrix[..., :n]
