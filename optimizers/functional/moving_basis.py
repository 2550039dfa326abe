"""A basis that follows gradient and momentum by one power iteration a step, and what it leaves out (LDAdam)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import replaceable


class Before(NamedTuple):
    """The basis P_ [B, m, r] and the moment m [B, r, n] before a step, and P_ m [B, m, n] where it was formed."""

    basis: Tensor
    first: Tensor
    product: Tensor | None


@replaceable
def followed_basis(total: Tensor, basis: Tensor, first: Tensor, share: float, rest: float) -> tuple[Tensor, Before]:
    """qr( B (B^T P_) ) [B, m, r] for B = share P_ m + rest A, with A = `total` [B, m, n], P_ = `basis`, m = `first`."""
    product = basis @ first
    followed = product * share
    followed += rest * total
    return torch.linalg.qr(followed @ (followed.mT @ basis)).Q, Before(basis, first, product)


@replaceable
def left_out(
    total: Tensor, basis: Tensor, sigma: Tensor, carried: Tensor, before: Before | None, share: float
) -> Tensor:
    """A - P sigma + share (P_ m - P m') [B, m, n], with m' = `carried` [B, r, n]; the last term only with `before`.

    A = `total` may be written to.
    """
    if before is None:
        return torch.baddbmm(total, basis, sigma, alpha=-1)
    assert before.product is not None
    outside = torch.baddbmm(total, basis, torch.add(sigma, carried, alpha=share), alpha=-1)
    return outside.add_(before.product, alpha=share)
