"""Adam's moments of a projected gradient, Muon's momentum of norm 1, and sums of squares of columns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import replaceable
from .numerics import average

SMALLEST_NORM = math.sqrt(torch.finfo(torch.float32).tiny)  # the squares of a smaller one underflow


class Moments(NamedTuple):
    """The ratio of the moments [B, r, n], and the sums of squares [B, n] of the columns of sigma and of that ratio."""

    normalized: Tensor
    sigma_sumsq: Tensor
    normalized_sumsq: Tensor


@replaceable
def adam_moments(sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """Advance m = `exp_avg` by sigma and v = `exp_avg_sq` by sigma^2 in place; all are [B, r, n].

    Returns m / (sqrt(v) + eps) without bias correction, where v is raised to the smallest normal number, so that 0 / 0
    is 0.
    """
    first, second = average(exp_avg, sigma, betas[0]), average(exp_avg_sq, sigma.square(), betas[1])
    return first / (second.clamp(min=torch.finfo(second.dtype).tiny).sqrt() + eps)


@replaceable
def unit_momentum(
    gradient: Tensor, exp_avg: Tensor, momentum: float, eps: float, *, nesterov: bool, dtype: torch.dtype
) -> Tensor:
    """Advance m = `exp_avg` [B, m, n] by the gradient in place; M / max(||M||, eps) in `dtype`, Frobenius norms.

    M is momentum m + (1 - momentum) G with Nesterov, else m.
    """
    mean = average(exp_avg, gradient, momentum)
    wide = torch.promote_types(dtype, torch.bfloat16)  # float16's range is too small before
    ahead = (torch.lerp(gradient, mean, momentum) if nesterov else mean).to(wide)
    return (ahead / ahead.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)).to(dtype)


@replaceable
def adam_moments_with_sumsq(
    sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float
) -> Moments:
    """`adam_moments`, with the sums of squares of the columns of sigma and of the result."""
    normalized = adam_moments(sigma, exp_avg, exp_avg_sq, betas, eps)
    return Moments(normalized, sigma.square().sum(-2), normalized.square().sum(-2))


@replaceable
def adam_sumsq(
    sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float
) -> tuple[Tensor, Tensor]:
    """`adam_moments_with_sumsq` without the ratio, which APOLLO does not use: the sums of sigma, and of the ratio."""
    moments = adam_moments_with_sumsq(sigma, exp_avg, exp_avg_sq, betas, eps)
    return moments.sigma_sumsq, moments.normalized_sumsq


@replaceable
def column_sumsq(matrices: Tensor) -> Tensor:
    """[B, m, n] -> [B, n]: sums of squares of the columns."""
    return matrices.square().sum(-2)
