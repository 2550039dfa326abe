"""Newton-Schulz iterations on stacks: matrix products alone drive singular values to 1."""

import torch
from torch import Tensor

# Singular values x become x (3 - x^2) / 2. This is App. B.8 of arXiv 2502.07752 without its inverse root: with Z_k the
# product of all its factors so far, X_k = Z_k X_0 and its Y_k is X_k X_k^T.
CUBIC = (1.5, -0.5, 0.0)
# Muon's: faster, and singular values end between 0.7 and 1.2 (Keller Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """`steps` times X <- a X + (b A + c A^2) X with A = X X^T; X [B, m, n], m <= n, singular values at most 1."""
    a, b, c = coefficients
    for _ in range(steps):
        gram = matrix @ matrix.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else b * gram
        matrix = torch.baddbmm(matrix, inner, matrix, beta=a)
    return matrix


def iteration_dtype(matrix: Tensor, ns_dtype: str) -> torch.dtype:
    """The precision in which `matrix` is iterated, by the option `ns_dtype`."""
    if matrix.dtype == torch.float64:
        return torch.float64
    bfloat16 = ns_dtype == "bfloat16" or (ns_dtype == "auto" and matrix.device.type == "cuda")
    return torch.bfloat16 if bfloat16 else torch.float32
