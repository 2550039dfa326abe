"""The structure each optimizer assumes of the empirical Fisher, in closed form (arXiv 2502.07752, Sections 3 to 5).

A gradient G is [m, n] with m <= n; vec stacks its columns; F = E[vec(G) vec(G)^T] is mn x mn, E being the mean over the
samples at hand. Every optimizer's structure is a diagonal in a Kronecker basis,

    A = (V_R (x) V_L) diag(vec(D)) (V_R (x) V_L)^T,      V_L [m, m], V_R [n, n] orthogonal,  D [m, n] >= 0,

so with P = E[(V_L^T G V_R)^2], the diagonal of F in that basis,

    ||F - A||^2 = ||F||^2 - 2 sum(P * D) + ||D||^2,

and ||F||^2 is the mean of the squared elements of the samples' Gram matrix: nothing of size mn x mn is ever formed, and
nothing is approximated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from optimizers.functional.scaling import fixed_point
from optimizers.functional.subspace import Reflectors, leading_eigenvectors


@dataclass(frozen=True, eq=False)
class Basis:
    """V_R (x) V_L: `left` [m, m] and `right` [n, n], orthogonal; None is the identity."""

    left: Tensor | None = None
    right: Tensor | None = None


PLAIN = Basis()  # of the weights themselves


class Fisher:
    """The empirical Fisher of sampled gradients [N, m, n] with m <= n. Raises ValueError for another shape."""

    def __init__(self, gradients: Tensor):
        if gradients.ndim != 3 or gradients.shape[1] > gradients.shape[2]:
            raise ValueError(f"gradients must be [samples, m, n] with m <= n, got {list(gradients.shape)}")
        self.gradients = gradients
        self.m, self.n = gradients.shape[1:]
        self._diagonals: dict[Basis, Tensor] = {}

    @cached_property
    def square_norm(self) -> float:
        """||F||^2."""
        flat = self.gradients.flatten(1)
        return (flat @ flat.T).square().mean().item()

    @cached_property
    def left_moment(self) -> Tensor:
        """E[G G^T], [m, m]."""
        wide = self.gradients.transpose(0, 1).flatten(1)
        return wide @ wide.T / len(self.gradients)

    @cached_property
    def right_moment(self) -> Tensor:
        """E[G^T G], [n, n]."""
        tall = self.gradients.flatten(0, 1)
        return tall.T @ tall / len(self.gradients)

    @cached_property
    def blocks(self) -> Tensor:
        """E[g_i g_i^T] of every column, [n, m, m]: the diagonal blocks of F."""
        columns = self.gradients.permute(2, 1, 0)
        return columns @ columns.mT / len(self.gradients)

    @cached_property
    def left_eigenvectors(self) -> Tensor:
        """The eigenvectors of E[G G^T] by descending eigenvalue, [m, m]."""
        return leading_eigenvectors(self.left_moment, self.m)

    @cached_property
    def left_eigenbasis(self) -> Basis:
        """The eigenvectors of E[G G^T] on the left."""
        return Basis(self.left_eigenvectors)

    @cached_property
    def eigenbasis(self) -> Basis:
        """The eigenvectors of E[G G^T] on the left, of E[G^T G] on the right, by descending eigenvalue."""
        return Basis(self.left_eigenvectors, leading_eigenvectors(self.right_moment, self.n))

    def diagonal_in(self, basis: Basis) -> Tensor:
        """E[(V_L^T G V_R)^2], [m, n]: the diagonal of F in `basis`."""
        if basis not in self._diagonals:
            rotated = self.gradients if basis.left is None else basis.left.T @ self.gradients
            rotated = rotated if basis.right is None else rotated @ basis.right
            self._diagonals[basis] = rotated.square().mean(0)
        return self._diagonals[basis]

    def error(self, structure: "Structure") -> float:
        """||F - A|| / ||F||, Frobenius. A may come from this Fisher or from another of the same shape."""
        square = self.square_norm - 2 * structure.inner(self) + structure.square_norm
        return (max(square, 0.0) / self.square_norm) ** 0.5


class Structure(Protocol):
    """An approximation A, and how many numbers an optimizer holds for it.

    Counted are the numbers that this project's optimizers hold, without first moments and limiters' scalars: Tables 1
    and 6 of the paper, and Shampoo's roots, which Table 1 leaves out. An average and its basis are two matrices.
    """

    @property
    def numbers(self) -> int: ...

    @property
    def square_norm(self) -> float:
        """||A||^2."""

    def inner(self, fisher: Fisher) -> float:
        """<F, A>."""

    def dense(self) -> Tensor:
        """A itself, [mn, mn]: for small matrices only."""


@dataclass(frozen=True)
class Diagonal:
    """A = (V_R (x) V_L) diag(vec(D)) (V_R (x) V_L)^T, with D = `diagonal` [m, n]."""

    basis: Basis
    diagonal: Tensor
    numbers: int

    @property
    def square_norm(self) -> float:
        return self.diagonal.square().sum().item()

    def inner(self, fisher: Fisher) -> float:
        return (fisher.diagonal_in(self.basis) * self.diagonal).sum().item()

    def dense(self) -> Tensor:
        m, n = self.diagonal.shape
        left = torch.eye(m).to(self.diagonal) if self.basis.left is None else self.basis.left
        right = torch.eye(n).to(self.diagonal) if self.basis.right is None else self.basis.right
        vectors = torch.kron(right.contiguous(), left.contiguous())
        return vectors * self.diagonal.T.flatten() @ vectors.T


@dataclass(frozen=True)
class Blocks:
    """A = DiagB(M_1 ... M_n), `blocks` [n, m, m]."""

    blocks: Tensor
    numbers: int

    @property
    def square_norm(self) -> float:
        return self.blocks.square().sum().item()

    def inner(self, fisher: Fisher) -> float:
        return (fisher.blocks * self.blocks).sum().item()

    def dense(self) -> Tensor:
        return torch.block_diag(*self.blocks)


def adam(fisher: Fisher) -> Diagonal:
    """Diagonal (Proposition 1)."""
    return Diagonal(PLAIN, fisher.diagonal_in(PLAIN), fisher.m * fisher.n)


def normalization(fisher: Fisher) -> Diagonal:
    """S (x) I, S diagonal (Proposition 2): one number a column."""
    squares = fisher.diagonal_in(PLAIN)
    return Diagonal(PLAIN, squares.mean(0).expand_as(squares), fisher.n)


def whitening(fisher: Fisher) -> Diagonal:
    """I (x) M (Proposition 2): M = E[G G^T] / n."""
    squares = fisher.diagonal_in(fisher.left_eigenbasis)
    return Diagonal(fisher.left_eigenbasis, squares.mean(1, keepdim=True).expand_as(squares), fisher.m**2)


def racs(fisher: Fisher, iterations: int = 5) -> Diagonal:
    """S (x) Q, both diagonal (Proposition 3): the fixed-point iteration of RACS, on E[G^2]."""
    return Diagonal(PLAIN, _two_scalings(fisher.diagonal_in(PLAIN), iterations), fisher.m + fisher.n)


def shampoo(fisher: Fisher) -> Diagonal:
    """R^(1/2) (x) L^(1/2) with R = E[G^T G] / m, L = E[G G^T] / n (Theorem 3.1: it minimises an upper bound)."""
    m, n = fisher.m, fisher.n
    squares = fisher.diagonal_in(fisher.eigenbasis)
    roots = (squares.sum(1) / n).sqrt(), (squares.sum(0) / m).sqrt()
    return Diagonal(fisher.eigenbasis, torch.outer(*roots), 2 * m**2 + 2 * n**2)


def kronecker(fisher: Fisher) -> Diagonal:
    """Shampoo's bases with the best Kronecker product of diagonals in them: Proposition 3 in the rotated space.

    No optimizer of the paper: it tells how much of SOAP's lead over Shampoo is the fit, and how much the free diagonal.
    """
    m, n = fisher.m, fisher.n
    diagonal = _two_scalings(fisher.diagonal_in(fisher.eigenbasis), iterations=5)
    return Diagonal(fisher.eigenbasis, diagonal, m + n + 2 * m**2 + 2 * n**2)


def eigen_adam(fisher: Fisher) -> Diagonal:
    """Blocks U D_i U^T, one a column, with a common U (Theorem 3.2: one refinement step)."""
    basis = fisher.left_eigenbasis
    return Diagonal(basis, fisher.diagonal_in(basis), fisher.m * fisher.n + 2 * fisher.m**2)


def soap(fisher: Fisher) -> Diagonal:
    """(U_R (x) U_L) D (U_R (x) U_L)^T (Theorem 3.3: one refinement step)."""
    m, n = fisher.m, fisher.n
    return Diagonal(fisher.eigenbasis, fisher.diagonal_in(fisher.eigenbasis), m * n + 2 * m**2 + 2 * n**2)


def full_blocks(fisher: Fisher) -> Blocks:
    """One free block a column (Proposition 6): no structure but Shampoo's and SOAP's can be closer to F."""
    return Blocks(fisher.blocks, fisher.n * fisher.m**2)


# Every structure that has no rank, in the order of fim_error.csv.
WITHOUT_RANK: dict[str, Callable[[Fisher], Structure]] = {
    fit.__name__: fit
    for fit in (normalization, racs, adam, whitening, shampoo, kronecker, eigen_adam, soap, full_blocks)
}


def galore(fisher: Fisher, rank: int) -> Diagonal:
    """Eigen-Adam's blocks on the `rank` leading eigenvectors, nothing on the others (Section 5.4)."""
    basis = fisher.left_eigenbasis
    diagonal = fisher.diagonal_in(basis).clone()
    diagonal[rank:] = 0
    return Diagonal(basis, diagonal, rank * (fisher.m + fisher.n))


def alice(fisher: Fisher, rank: int) -> Diagonal:
    """Eigen-Adam's blocks on the `rank` leading eigenvectors, S^(-2) (x) U_c U_c^T on the others (Theorem 5.1).

    Rank 0 is normalization, rank m Eigen-Adam.
    """
    return _compensated(fisher, fisher.left_eigenbasis, rank)


def alice_switched(fisher: Fisher, rank: int, leading: int, source: torch.Generator) -> Diagonal:
    """Alice as it runs: after the switch of Alg. 2 only `leading` columns of its basis are eigenvectors.

    The others are drawn by `source` from an orthonormal basis of the complement of all `rank` leading ones.
    """
    vectors = fisher.left_eigenvectors
    rest = fisher.m - rank
    complement = Reflectors.of(vectors[None, :, :rank]).complement(torch.arange(rest)[None])[0]
    order = torch.randperm(rest, generator=source)
    drawn, left_out = complement[:, order[: rank - leading]], complement[:, order[rank - leading :]]
    return _compensated(
        fisher, Basis(torch.cat([vectors[:, :leading], drawn, vectors[:, leading:rank], left_out], 1)), rank
    )


def _compensated(fisher: Fisher, basis: Basis, rank: int) -> Diagonal:
    """Free in the first `rank` rows of the diagonal, one number a column shared by the others."""
    m, n = fisher.m, fisher.n
    diagonal = fisher.diagonal_in(basis).clone()
    diagonal[rank:] = diagonal[rank:].mean(0)
    return Diagonal(basis, diagonal, rank * n + m * rank + n + rank**2)


def _two_scalings(squares: Tensor, iterations: int) -> Tensor:
    """q s^T near `squares` [m, n], by Eq. (16)."""
    columns, rows = fixed_point(squares[None], iterations)
    return torch.outer(rows[0], columns[0])
