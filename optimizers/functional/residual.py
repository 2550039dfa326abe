"""The part of a gradient outside a subspace, and the scales of its columns, for Alice, Fira and APOLLO.

Of R = G - share U sigma with sigma = U^T G only the sums of squares of the columns are needed: R is never formed.
"""

import torch
from torch import Tensor

from ..kernels import replaceable
from .limiter import limit_growth
from .numerics import above_rounding, reciprocal


def residual_sumsq(
    total: Tensor, basis: Tensor, sigma: Tensor, inside: Tensor, share: float = 1.0, *, rounded: bool
) -> Tensor:
    """[B, n]: sums of squares of the columns of G - share U sigma, 0 where they are rounding.

    total, inside [B, n]: those of G and of sigma. basis U [B, m, r]; sigma [B, r, n] = U^T G; rounded: of `corrected`.
    """
    return _outside(*corrected(total, basis, sigma, inside, share, rounded=rounded))


@replaceable
def corrected(
    total: Tensor, basis: Tensor, sigma: Tensor, inside: Tensor, share: float, *, rounded: bool
) -> tuple[Tensor, Tensor, float]:
    """(total, inside, share) for `residual_scales`. rounded: U is held in fewer digits than sigma has.

    |g - k U s|^2 = |g|^2 - s^T (2 k I - k^2 U^T U) s. The rounding in U^T U of a bfloat16 basis is larger than many a
    residual. So U^T U is computed then, and the result is the residual's sums of squares, as `total` with a share of 0.
    """
    if not rounded:
        return total, inside, share
    removed = sigma * torch.baddbmm(sigma, basis.mT @ basis, sigma, beta=2 * share, alpha=-(share**2))
    return above_rounding(total - removed.sum(-2), total), inside, 0.0


def _outside(total: Tensor, inside: Tensor, share: float) -> Tensor:
    """Sums of squares of the columns of G - share U sigma for an orthonormal U."""
    return above_rounding(total - (2 - share) * share * inside, total)


@replaceable
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
    """The scales strength eta f [B, n] of the columns of R = G - share U sigma.

    eta limits the growth of the norm size ||R diag(f)||. f_j = ||N_j|| / (||sigma_j|| + eps), or 1 / sqrt(p_j) for the
    `average` p [B, n] of ||R_j||^2, which is advanced by `decay` first. 0 / 0 is 0, and f_j is 0 where R_j is rounding.

    Args:
        total, inside, normalized_sumsq: sums of squares of the columns of G, sigma and N, [B, n]; N's is not needed
            with `average`. They come from `corrected` where U may be rounded.
        phi: [B], the limited norm of the last step; it is replaced by this step's.
        gamma, eps: of `limit_growth`.
    """
    residual = _outside(total, inside, share)
    if average is not None:
        factors = reciprocal(average.lerp_(residual, 1 - decay)).sqrt()
    else:
        assert normalized_sumsq is not None
        length = inside.sqrt() + eps
        factors = torch.where(length == 0, 0.0, normalized_sumsq.sqrt() / length)
    factors = torch.where(residual == 0, 0.0, factors)
    eta, limited = limit_growth(size * (factors.square() * residual).sum(-1).sqrt(), phi, gamma, eps)
    phi.copy_(limited)
    return factors * (strength * eta).unsqueeze(-1)
