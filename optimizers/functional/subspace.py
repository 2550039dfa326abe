"""Bases of subspaces: eigenvectors, singular vectors, complements, projections."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import replaceable
from .moments import column_sumsq


def leading_eigenvectors(symmetric: Tensor, rank: int) -> Tensor:
    """[B, m, m] -> [B, m, rank]: eigenvectors of the largest eigenvalues, descending."""
    return torch.linalg.eigh(symmetric).eigenvectors[..., -rank:].flip(-1)


@replaceable
def leading_left_singular_vectors(matrix: Tensor, rank: int) -> Tensor:
    """[B, m, n] -> [B, m, rank], m <= n: left singular vectors of the largest singular values, descending.

    A = L Q with orthonormal rows in Q has the left singular vectors of L (m x m). The right ones, which cost most of a
    wide matrix's SVD, are not needed and never formed.
    """
    lower = torch.linalg.qr(matrix.mT, mode="r").R.mT
    return torch.linalg.svd(lower).U[..., :rank]


@replaceable
def project(basis: Tensor, gradient: Tensor) -> Tensor:
    """U^T G: [B, m, r], [B, m, n] -> [B, r, n]."""
    return basis.mT @ gradient


@replaceable
def project_with_sumsq(basis: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """U^T G [B, r, n], and the sums of squares of the columns of G [B, n]."""
    return project(basis, gradient), column_sumsq(gradient)


@replaceable
def average_gram(mean: Tensor, sigma: Tensor, decay: float) -> None:
    """mean <- decay mean + (1 - decay) sigma sigma^T in place: [B, r, r], [B, r, n]."""
    mean.baddbmm_(sigma, sigma.mT, beta=decay, alpha=1 - decay)


class Reflectors(NamedTuple):
    """The complete QR of columns [B, m, r], its m x m factor held as r Householder reflectors (`torch.geqrf`)."""

    vectors: Tensor
    tau: Tensor

    @classmethod
    def of(cls, columns: Tensor) -> "Reflectors":
        return cls(*torch.geqrf(columns))

    def basis(self) -> Tensor:
        """[B, m, r]: an orthonormal basis of the columns' span."""
        return torch.linalg.householder_product(self.vectors, self.tau)

    def complement(self, drawn: Tensor) -> Tensor:
        """Columns `drawn` [B, k] of an orthonormal basis of the span's complement -> [B, m, k].

        They are columns r..m-1 of the m x m factor, and `drawn` counts from 0 among them. The reflectors are
        applied to unit vectors, so that no m x m matrix is formed.
        """
        r = self.tau.shape[-1]
        units = self.vectors.new_zeros(*self.vectors.shape[:-1], drawn.shape[-1])
        units.scatter_(-2, (drawn + r).unsqueeze(-2).to(units.device), 1.0)
        return torch.ormqr(self.vectors, self.tau, units)


def is_zero(gradient: Tensor) -> Tensor:
    """[B, 1, 1]: which matrices of [B, m, n] are all zero, so that any basis is one of theirs."""
    return ~gradient.any(-1, keepdim=True).any(-2, keepdim=True)


def keep_signs(new: Tensor, old: Tensor) -> Tensor:
    """Negate each column of `new` [B, m, r] that points against the same column of `old`.

    The sign of an eigenvector is the library's choice, and moments are not rotated when a basis is renewed. Without
    this rule a run would depend on the linear-algebra library.
    """
    against = (new * old).sum(-2, keepdim=True) < 0
    return torch.where(against, -new, new)


def unit_gaussian_columns(rows: int, columns: int, source: torch.Generator) -> Tensor:
    """[rows, columns], float64: Gaussian columns scaled to norm 1 (not orthogonal to each other)."""
    gaussian = torch.randn(rows, columns, generator=source, dtype=torch.float64, device=source.device)
    return gaussian / gaussian.norm(dim=0)
