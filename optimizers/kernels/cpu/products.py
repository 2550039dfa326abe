"""Matrix products in the forms that a CPU's library is fastest at."""

import torch
from torch import Tensor

from .compiled import C_TYPES


def project(basis: Tensor, gradient: Tensor) -> Tensor:
    """A single matrix is multiplied without the batch dimension, with which it would take 5 to 15 % longer. The product
    has the memory order of the gradient."""
    if len(basis) > 1:
        return basis.mT @ gradient
    basis, gradient = basis[0], gradient[0]
    by_rows = gradient.stride(-1) == 1
    return (torch.mm(basis.mT, gradient) if by_rows else torch.mm(gradient.mT, basis).mT).unsqueeze(0)


def average_gram(mean: Tensor, sigma: Tensor, decay: float) -> None:
    """As `project`: a single matrix without the batch dimension."""
    if len(mean) > 1:
        mean.baddbmm_(sigma, sigma.mT, beta=decay, alpha=1 - decay)
    else:
        mean[0].addmm_(sigma[0], sigma[0].mT, beta=decay, alpha=1 - decay)


def rowwise_products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """One product after the other: a CPU's batched product of matrices and vectors takes ten times as long."""
    results = matrices.new_empty(matrices.shape[:-1])
    for matrix, vector, result in zip(matrices.unbind(), vectors.unbind(), results.unbind(), strict=True):
        torch.mv(matrix, vector, out=result)
    return results


def newton_schulz_iterations(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Products into the same memory again and again, and a single matrix as in `project`. X <- (a I + b A + c A^2) X:
    then X is not copied to be added."""
    if matrix.dtype not in C_TYPES or steps == 0:
        return NotImplemented
    a, b, c = coefficients
    single = len(matrix) == 1
    x = matrix[0] if single else matrix
    gram = x.new_empty(*x.shape[:-1], x.shape[-2])
    factor, result = torch.empty_like(gram), torch.empty_like(x)
    for _ in range(steps):
        torch.matmul(x, x.mT, out=gram)
        if c:
            (torch.addmm if single else torch.baddbmm)(gram, gram, gram, beta=b, alpha=c, out=factor)
        else:
            torch.mul(gram, b, out=factor)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        torch.matmul(factor, x, out=result)
        x, result = result, x
    return x.unsqueeze(0) if single else x
