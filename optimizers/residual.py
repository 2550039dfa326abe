"""What of a gradient lies outside a subspace, and what scales its columns: for Alice, Fira and APOLLO.

Of R = G - k U sigma, sigma = U^T G, the sums of squares down the columns are enough, and R is never formed.
"""

import torch
from torch import Tensor

from . import native
from .limiter import limit_growth
from .scaling import reciprocal
from .subspace import ROUNDING


def residual_power(total: Tensor, basis: Tensor, sigma: Tensor, inside: Tensor, share: float = 1.0) -> Tensor:
    """[B, n]: colsum((G - share U sigma)^2) for sigma = U^T G, 0 where it drowns in rounding.

    total [B, n] = colsum(G^2), sigma [B, r, n], inside [B, n] = colsum(sigma^2); basis [B, m, r] in the dtype it is
    held in.
    """
    total, share = corrected(total, basis, sigma, inside, share)
    return _outside(total, inside, share)


def corrected(total: Tensor, basis: Tensor, sigma: Tensor, inside: Tensor, share: float) -> tuple[Tensor, float]:
    """`total` and `share` as they are, or the residual's power and 0 where the basis has fewer digits than sigma.

    ||g - k U s||^2 = ||g||^2 - s^T (2 k I - k^2 U^T U) s. U^T U is the identity to the basis's own rounding, and that
    of a basis held in bfloat16 is larger than many a residual.
    """
    if basis.dtype == sigma.dtype:
        return total, share
    basis = basis.to(sigma.dtype)
    inside = (sigma * torch.baddbmm(sigma, basis.mT @ basis, sigma, beta=2 * share, alpha=-(share**2))).sum(-2)
    return above_rounding(total - inside, total), 0.0


def above_rounding(residual: Tensor, total: Tensor) -> Tensor:
    """`residual`, a part of `total` (both sums of squares), or 0 where it is less than rounding. What is not finite
    stays so."""
    return torch.where(residual < ROUNDING * torch.finfo(total.dtype).eps * total, 0.0, residual)


def _outside(total: Tensor, inside: Tensor, share: float) -> Tensor:
    """colsum((G - share U sigma)^2) for an orthonormal U."""
    return above_rounding(total - (2 - share) * share * inside, total)


def column_scales(
    total: Tensor,
    inside: Tensor,
    power: Tensor | None,
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
    """[B, n]: strength eta f, f what scales the columns of R = G - share U sigma, eta the limiter's of size R diag(f).

    total, inside, power [B, n]: the sums of squares down the columns of G, sigma and N. f_j = ||N_j|| / (||sigma_j|| +
    eps), or 1 / sqrt(p_j) for the `average` p [B, n] of ||R_j||^2, advanced first, and then no power is needed; 0 / 0
    is 0, and f_j is 0 where R_j is rounding. `phi` [B] is advanced to the limited norm. U is orthonormal to working
    precision, or share is 0 (`corrected`).
    """
    given = (total, inside, phi, *(tensor for tensor in (power, average) if tensor is not None))
    rounding = ROUNDING * torch.finfo(total.dtype).eps
    together = native.function("residual.cpp", "column_scales", "ppppppll" + 7 * "d", *given)
    if together:
        scales = torch.empty_like(total)
        settings = (rounding, share, decay, eps, gamma, size, strength)
        together(total, inside, power, average, phi, scales, *total.shape, *settings)
        torch.autograd.graph.increment_version([phi] if average is None else [phi, average])
        return scales
    residual = _outside(total, inside, share)
    if average is not None:
        factors = reciprocal(average.lerp_(residual, 1 - decay)).sqrt_()
    else:
        length = inside.sqrt() + eps
        factors = torch.where(length == 0, 0.0, power.sqrt() / length)
    factors = torch.where(residual == 0, 0.0, factors)
    eta, limited = limit_growth(size * (factors.square() * residual).sum(-1).sqrt(), phi, gamma, eps)
    phi.copy_(limited)
    return factors.mul_(strength * eta.unsqueeze(-1))
