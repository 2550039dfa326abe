"""The structure each optimizer assumes of the empirical Fisher, in closed form (arXiv 2502.07752, Sections 3 to 5).

A gradient G is [m, n] with m <= n; vec stacks its columns; F = E[vec(G) vec(G)^T] is mn x mn, E being the mean over the
samples at hand. Every structure of the paper is a diagonal in a Kronecker basis,

    A = (V_R (x) V_L) diag(vec(D)) (V_R (x) V_L)^T,      V_L [m, m], V_R [n, n] orthogonal,  D [m, n] >= 0.

With P = E[(V_L^T G V_R)^2], the diagonal of F in that basis,

    ||F - A||^2 = (||F||^2 - ||P||^2) + ||P - D||^2:

what the basis costs, and what the form imposed on D costs. ||F||^2 is the mean of the squared elements of the samples'
Gram matrix, so nothing of size mn x mn is ever formed, and nothing is approximated.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from optimizers.racs import fixed_point
from optimizers.subspace import complement_columns, leading_eigenvectors


@dataclass(frozen=True)
class Basis:
    """`left` [m, m] and `right` [n, n], orthogonal (None: the identity), and F's diagonal in them, `power` [m, n]."""

    power: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


@dataclass(frozen=True)
class Structure:
    """A diagonal `diagonal` [m, n] in `basis`, and how many numbers an optimizer holds to represent it.

    The count is that of Tables 1 and 6 of the paper without the weights, the first moment and the scalar of RACS's
    limiter: an average that is decomposed and the basis it gives are two matrices.
    """

    basis: Basis
    diagonal: Tensor
    numbers: int

    def dense(self) -> Tensor:
        """The approximation itself, [mn, mn]: for small matrices only."""
        m, n = self.diagonal.shape
        left = torch.eye(m).to(self.diagonal) if self.basis.left is None else self.basis.left
        right = torch.eye(n).to(self.diagonal) if self.basis.right is None else self.basis.right
        vectors = torch.kron(right.contiguous(), left.contiguous())
        return vectors * self.diagonal.T.flatten() @ vectors.T


class Fisher:
    """The empirical Fisher of sampled gradients [N, m, n] with m <= n, as its products with structures."""

    def __init__(self, gradients: Tensor):
        if gradients.ndim != 3 or gradients.shape[1] > gradients.shape[2]:
            raise ValueError(f"gradients must be [samples, m, n] with m <= n, got {list(gradients.shape)}")
        self.gradients = gradients
        self.m, self.n = gradients.shape[1:]

    @cached_property
    def gram(self) -> Tensor:
        """[N, N]: inner products of the samples."""
        flat = self.gradients.flatten(1)
        return flat @ flat.T

    @cached_property
    def square_norm(self) -> float:
        """||F||^2."""
        return self.gram.square().mean().item()

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

    def power(self, left: Tensor | None = None, right: Tensor | None = None) -> Tensor:
        """F's diagonal in a Kronecker basis: E[(left^T G right)^2], [m, n]."""
        rotated = self.gradients if left is None else left.T @ self.gradients
        rotated = rotated if right is None else rotated @ right
        return rotated.square().mean(0)

    def basis(self, left: Tensor | None = None, right: Tensor | None = None) -> Basis:
        return Basis(self.power(left, right), left, right)

    @cached_property
    def plain(self) -> Basis:
        """The basis of the weights themselves."""
        return self.basis()

    @cached_property
    def eigen_left(self) -> Basis:
        """The eigenvectors of E[G G^T], descending, on the left."""
        return self.basis(leading_eigenvectors(self.left_moment, self.m))

    @cached_property
    def eigen_both(self) -> Basis:
        """The eigenvectors of E[G G^T] on the left and of E[G^T G] on the right, descending."""
        return self.basis(self.eigen_left.left, leading_eigenvectors(self.right_moment, self.n))

    def error(self, structure: Structure) -> float:
        """||F - A|| / ||F||, Frobenius."""
        power = structure.basis.power
        square = self.square_norm - power.square().sum() + (power - structure.diagonal).square().sum()
        return (square.clamp(min=0) / self.square_norm).sqrt().item()


def adam(fisher: Fisher) -> Structure:
    """Diagonal (Proposition 1)."""
    return Structure(fisher.plain, fisher.plain.power, fisher.m * fisher.n)


def normalization(fisher: Fisher) -> Structure:
    """S (x) I, S diagonal (Proposition 2): one number a column."""
    power = fisher.plain.power
    return Structure(fisher.plain, power.mean(0).expand_as(power), fisher.n)


def whitening(fisher: Fisher) -> Structure:
    """I (x) M (Proposition 2): M = E[G G^T] / n."""
    power = fisher.eigen_left.power
    return Structure(fisher.eigen_left, power.mean(1, keepdim=True).expand_as(power), fisher.m**2)


def racs(fisher: Fisher, iterations: int = 5) -> Structure:
    """S (x) Q, both diagonal (Proposition 3): the fixed-point iteration RACS runs, on E[G^2]."""
    columns, rows = fixed_point(fisher.plain.power, iterations)
    return Structure(fisher.plain, torch.outer(rows, columns), fisher.m + fisher.n)


def shampoo(fisher: Fisher) -> Structure:
    """R^(1/2) (x) L^(1/2) with R = E[G^T G] / m, L = E[G G^T] / n (Theorem 3.1: it minimises an upper bound)."""
    m, n = fisher.m, fisher.n
    power = fisher.eigen_both.power
    roots = (power.sum(1) / n).sqrt(), (power.sum(0) / m).sqrt()
    return Structure(fisher.eigen_both, torch.outer(*roots), m**2 + n**2)


def eigen_adam(fisher: Fisher) -> Structure:
    """Blocks U D_i U^T, one a column, with a common U (Theorem 3.2: one refinement step)."""
    return Structure(fisher.eigen_left, fisher.eigen_left.power, fisher.m * fisher.n + 2 * fisher.m**2)


def soap(fisher: Fisher) -> Structure:
    """(U_R (x) U_L) D (U_R (x) U_L)^T (Theorem 3.3: one refinement step)."""
    m, n = fisher.m, fisher.n
    return Structure(fisher.eigen_both, fisher.eigen_both.power, m * n + 2 * m**2 + 2 * n**2)


def galore(fisher: Fisher, rank: int) -> Structure:
    """Eigen-Adam's blocks on the `rank` leading eigenvectors, nothing on the others (Section 5.4)."""
    diagonal = fisher.eigen_left.power.clone()
    diagonal[rank:] = 0
    return Structure(fisher.eigen_left, diagonal, rank * (fisher.m + fisher.n))


def alice(fisher: Fisher, rank: int) -> Structure:
    """Eigen-Adam's blocks on the `rank` leading eigenvectors, S^(-2) (x) U_c U_c^T on the others (Theorem 5.1).

    Rank 0 is normalization, rank m Eigen-Adam.
    """
    return _compensated(fisher, fisher.eigen_left, rank)


def alice_switched(fisher: Fisher, rank: int, leading: int, source: torch.Generator) -> Structure:
    """Alice as it runs: after the switch of Alg. 2 only `leading` columns of its basis are eigenvectors.

    The others are drawn by `source` from an orthonormal basis of the complement of all `rank` leading ones.
    """
    vectors = fisher.eigen_left.left
    rest = fisher.m - rank
    complement = complement_columns(vectors[None, :, :rank], torch.arange(rest)[None])[0]
    order = torch.randperm(rest, generator=source)
    drawn, left_out = complement[:, order[: rank - leading]], complement[:, order[rank - leading :]]
    left = torch.cat([vectors[:, :leading], drawn, vectors[:, leading:rank], left_out], 1)
    return _compensated(fisher, fisher.basis(left), rank)


def _compensated(fisher: Fisher, basis: Basis, rank: int) -> Structure:
    """Free in the first `rank` rows of the diagonal, one number a column shared by the others."""
    m, n = fisher.m, fisher.n
    diagonal = basis.power.clone()
    diagonal[rank:] = diagonal[rank:].mean(0)
    return Structure(basis, diagonal, rank * n + m * rank + n + rank**2)
