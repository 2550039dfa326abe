"""Sampled gradients of a small matrix, and the plain algebra of their Fisher."""

import torch
from torch import Tensor

M, N = 4, 6


def sampled_gradients(seed: int, m: int = M, n: int = N, count: int = 100) -> Tensor:
    """[count, m, n], float64: correlated across rows and columns, of uneven size, with a mean that is not 0."""
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(m * n, m * n, generator=source, dtype=torch.float64)
    sizes = torch.logspace(0, -1.5, m * n, dtype=torch.float64)
    mean = 0.3 * torch.randn(m * n, generator=source, dtype=torch.float64)
    noise = torch.randn(count, m * n, generator=source, dtype=torch.float64)
    return unvec(mean + noise * sizes @ mixing, m, n)


def gradients_with_fisher(fisher: Tensor, m: int, n: int) -> Tensor:
    """[mn, m, n]: gradients whose mean of vec(G) vec(G)^T is `fisher` [mn, mn], exactly."""
    values, vectors = torch.linalg.eigh(fisher)
    assert values.min() >= 0
    return unvec((vectors * (m * n * values).sqrt()).T, m, n)


def vec(gradients: Tensor) -> Tensor:
    """[..., m, n] -> [..., mn]: columns stacked."""
    return gradients.mT.flatten(-2)


def unvec(vectors: Tensor, m: int, n: int) -> Tensor:
    """[..., mn] -> [..., m, n]."""
    return vectors.unflatten(-1, (n, m)).mT


def dense_fisher(gradients: Tensor) -> Tensor:
    """[mn, mn]: E[vec(G) vec(G)^T]."""
    flat = vec(gradients)
    return flat.T @ flat / len(flat)


def blocks(matrices: Tensor) -> Tensor:
    """DiagB: [n, m, m] -> [mn, mn]."""
    return torch.block_diag(*matrices)


def power_of(symmetric: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(symmetric)
    return vectors * values.clamp(min=0) ** exponent @ vectors.T


def rotation(size: int, source: torch.Generator, angle: float | None = None) -> Tensor:
    """[size, size] orthogonal: Haar-like, or a turn by about `angle` from the identity."""
    gaussian = torch.randn(size, size, generator=source, dtype=torch.float64)
    if angle is None:
        return torch.linalg.qr(gaussian).Q
    return torch.linalg.matrix_exp(angle * (gaussian - gaussian.T) / 2)


def positive(*shape: int, source: torch.Generator, spread: float = 1.0) -> Tensor:
    """Log-normal numbers: with a large spread any positive diagonal, with a small one factors near 1."""
    return (spread * torch.randn(*shape, generator=source, dtype=torch.float64)).exp()
