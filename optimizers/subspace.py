"""Bases of subspaces: pure functions on stacks of matrices.

Shapes: a stack is [B, m, n] with m <= n in the methods' orientation; a basis is [B, m, r] with
orthonormal columns. Everything is computed in the dtype it is given: callers hand over float32 or float64.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def generator(
    seed: int, step: int, index: int, *, device: torch.device | str = "cpu", purpose: str = ""
) -> torch.Generator:
    """The private random source of parameter `index` at step `step`, for one purpose.

    It depends on nothing else, so every process and every resumed run draws the same numbers, and there is
    no state to save. Bases are drawn on the CPU: CUDA generators give other values for the same seed.
    """
    digest = hashlib.blake2b(f"{purpose}{seed}/{step}/{index}".encode(), digest_size=8).digest()
    # A CPU generator keeps only the low 32 bits of its seed; a hash spreads the three numbers over them.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def refresh_clock(t: int, index: int, stagger: bool) -> int:
    """The step that parameter `index` takes step t (from 1) for when it asks whether its basis is due.

    Staggered, clocks run ahead by the index once all bases are in use (SOAP's are from step 2 on): of P parameters with
    an interval of K steps at most ceil(P / K) are then due at once.
    """
    return t + index if stagger and t > 2 else t


def leading_eigenvectors(symmetric: Tensor, rank: int) -> Tensor:
    """[B, m, m] -> [B, m, rank]: eigenvectors of the largest eigenvalues, descending."""
    return torch.linalg.eigh(symmetric).eigenvectors[..., -rank:].flip(-1)


def leading_left_singular_vectors(matrix: Tensor, rank: int) -> Tensor:
    """[B, m, n] -> [B, m, rank], m <= n: left singular vectors of the largest singular values, descending.

    A = L Q with orthonormal rows in Q has the left singular vectors of L (m x m): the right ones, which
    nobody asked for and which cost most of a wide matrix's SVD, are never formed.
    """
    lower = torch.linalg.qr(matrix.mT, mode="r").R.mT
    return torch.linalg.svd(lower).U[..., :rank]


def project(basis: Tensor, gradient: Tensor, like: Tensor) -> Tensor:
    """U^T G: [B, m, r], [B, m, n] -> [B, r, n], lying in memory as `like` [B, r, n] does."""
    if len(basis) > 1:
        return basis.mT @ gradient
    basis, gradient = basis[0], gradient[0]  # a batch of one takes a CPU 5 to 15 % longer
    by_rows = like.stride(-1) == 1
    return (torch.mm(basis.mT, gradient) if by_rows else torch.mm(gradient.mT, basis).mT).unsqueeze(0)


def average_gram(mean: Tensor, sigma: Tensor, decay: float) -> None:
    """mean <- decay mean + (1 - decay) sigma sigma^T: [B, r, r], [B, r, n]."""
    if len(mean) > 1:
        mean.baddbmm_(sigma, sigma.mT, beta=decay, alpha=1 - decay)
    else:  # as in `project`
        mean[0].addmm_(sigma[0], sigma[0].mT, beta=decay, alpha=1 - decay)


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

        They are columns r..m-1 of the m x m factor, and `drawn` counts from 0 among them. Applying the reflectors to
        unit vectors gives just those: no m x m matrix.
        """
        r = self.tau.shape[-1]
        units = self.vectors.new_zeros(*self.vectors.shape[:-1], drawn.shape[-1])
        units.scatter_(-2, (drawn + r).unsqueeze(-2).to(units.device), 1.0)
        return torch.ormqr(self.vectors, self.tau, units)


def keep_signs(new: Tensor, old: Tensor) -> Tensor:
    """Negate each column of `new` [B, m, r] that points against the same column of `old`.

    The sign of an eigenvector is the library's whim, and moments are not rotated when a basis is renewed;
    without this rule a run would depend on the linear-algebra library it was linked with.
    """
    against = (new * old).sum(-2, keepdim=True) < 0
    return new * torch.where(against, -1.0, 1.0)


def unit_gaussian_columns(rows: int, columns: int, source: torch.Generator) -> Tensor:
    """[rows, columns], float64: Gaussian columns scaled to norm 1 (not orthogonal to each other)."""
    gaussian = torch.randn(rows, columns, generator=source, dtype=torch.float64)
    return gaussian / gaussian.norm(dim=0)


# What a sum has lost in cancellation is rounding up to this many units of it.
ROUNDING = 8
