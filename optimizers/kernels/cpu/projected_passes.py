"""Moments, sums of squares and the residual's scales in C++ (adam_moments.cpp, residual_scales.cpp).

torch makes a pass over memory for every square, average, root and sum; here one pass makes them all.
"""

import torch
from torch import Tensor

from ...functional.moments import Moments
from ...functional.numerics import ROUNDING
from . import compiled, threads


def adam_moments(sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """In one pass, where sigma and the moments have one memory order."""
    normalized = torch.empty_like(sigma)
    advanced = _advance(sigma, exp_avg, exp_avg_sq, betas, eps, normalized, None, None)
    return normalized if advanced else NotImplemented


def adam_moments_with_sumsq(
    sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float
) -> Moments:
    """In one pass, as `adam_moments`."""
    normalized, sums = torch.empty_like(sigma), sigma.new_empty(2, len(sigma), sigma.shape[-1])
    advanced = _advance(sigma, exp_avg, exp_avg_sq, betas, eps, normalized, sums[0], sums[1])
    return Moments(normalized, sums[0], sums[1]) if advanced else NotImplemented


def adam_sumsq(
    sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float
) -> tuple[Tensor, Tensor]:
    """In one pass, as `adam_moments`; the ratio of the moments is not stored."""
    sums = sigma.new_empty(2, len(sigma), sigma.shape[-1])
    advanced = _advance(sigma, exp_avg, exp_avg_sq, betas, eps, None, sums[0], sums[1])
    return (sums[0], sums[1]) if advanced else NotImplemented


def column_sumsq(matrices: Tensor) -> Tensor:
    """In one pass, summed in double."""
    sums = _column_sums(matrices, None)
    return NotImplemented if sums is None else sums[0]


def project_with_sumsq(basis: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """A basis of one column is projected on in the pass that sums the squares."""
    if basis.shape[-1] > 1 or (sums := _column_sums(gradient, basis)) is None:
        return NotImplemented
    squares, products = sums
    assert products is not None
    return products, squares


def residual_scales(
    total: Tensor,
    inside: Tensor,
    normalized_sumsq: Tensor | None,
    phi: Tensor,
    gamma: float,
    *,
    share: float,
    average: Tensor | None = None,
    decay: float = 0.0,
    eps: float = 0.0,
    size: float = 1.0,
    strength: float = 1.0,
) -> Tensor:
    """In one call. Two dozen calls of torch on a row of numbers take longer than the numbers."""
    given = (total, inside, phi, *(tensor for tensor in (normalized_sumsq, average) if tensor is not None))
    one_call = compiled.function("residual_scales.cpp", "residual_scales", "ppppppll" + 7 * "d", *given)
    if one_call is None:
        return NotImplemented
    scales = torch.empty_like(total)
    settings = (ROUNDING * torch.finfo(total.dtype).eps, share, decay, eps, gamma, size, strength)
    one_call(total, inside, normalized_sumsq, average, phi, scales, *total.shape, *settings)
    torch.autograd.graph.increment_version([phi] if average is None else [phi, average])
    return scales


def _advance(
    sigma: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    betas: tuple[float, float],
    eps: float,
    normalized: Tensor | None,
    sigma_sumsq: Tensor | None,
    normalized_sumsq: Tensor | None,
) -> bool:
    """Advance the moments and fill the results that are given; returns whether that was possible here."""
    _, r, n = sigma.shape
    way, tensors = _by_rows(sigma, exp_avg, exp_avg_sq)
    one_pass = compiled.function("adam_moments.cpp", f"moments_{way}", "pppppplldddll", *tensors)
    if one_pass is None:
        return False
    results = (normalized, sigma_sumsq, normalized_sumsq)
    threads.in_ranges(lambda *part: one_pass(*tensors, *results, r, n, *betas, eps, *part), len(sigma) * n)
    torch.autograd.graph.increment_version([exp_avg, exp_avg_sq])
    return True


def _column_sums(matrices: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None] | None:
    """Sums of squares of the columns of `matrices` [B, m, n], and U^T G for `vectors` U [B, m, 1] if they are given:
    [B, n] and [B, 1, n]; None where it cannot be computed here."""
    way, (by_rows,) = _by_rows(matrices)
    given = (by_rows,) if vectors is None else (by_rows, vectors)
    one_pass = compiled.function("adam_moments.cpp", f"sums_{way}", "ppppllll", *given)
    if one_pass is None:
        return None
    batch, n = len(matrices), matrices.shape[-1]
    squares, products = matrices.new_empty(batch, n), None if vectors is None else matrices.new_empty(batch, 1, n)
    threads.in_ranges(
        lambda *part: one_pass(by_rows, vectors, squares, products, *by_rows.shape[1:], *part), squares.numel()
    )
    return squares, products


def _by_rows(*matrices: Tensor) -> tuple[str, list[Tensor]]:
    """How columns run in memory, "down" the rows of `matrices` or "along" those of their transposes, and the form that
    is stored by rows."""
    if matrices[0].stride(-1) == 1:
        return "down", list(matrices)
    return "along", [matrix.mT for matrix in matrices]
