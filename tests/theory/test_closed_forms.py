"""The closed forms of the paper minimise ||F - A|| over the structure each of them is for (arXiv 2502.07752).

Where the structure is a linear space of matrices (in the free factor), its minimiser A is F's projection, and the test
is exact: every other member B has ||F - B||^2 = ||F - A||^2 + ||A - B||^2, so none comes as close.
"""

import itertools

import pytest
import torch
from torch import Tensor

from analysis.fisher import structures
from analysis.fisher.structures import Fisher
from optimizers.functional.scaling import fixed_point

from .samples import (
    M,
    N,
    blocks,
    dense_fisher,
    positive,
    power_of,
    rotation,
)

SIZES = (1e-3, 1e-1, 1.0)  # distance of a perturbed member from the minimiser, in factors or in angle


def square_error(F: Tensor, A: Tensor) -> Tensor:
    return (F - A).square().sum()


def assert_projection(F: Tensor, best: Tensor, others: list[Tensor]) -> None:
    """`best` is closer to F than every other, by exactly their distance from it."""
    for other in others:
        distance = square_error(best, other)
        assert distance > 0
        torch.testing.assert_close(square_error(F, other), square_error(F, best) + distance, rtol=1e-11, atol=0)


def test_proposition_1_diagonal(gradients, source):
    """Proposition 1: over {Diag(v); v > 0}, the minimiser of ||F - A|| is Diag(E[g^2])."""
    F, best = dense_fisher(gradients), structures.adam(Fisher(gradients)).dense()
    torch.testing.assert_close(best, gradients.square().mean(0).T.flatten().diag())
    assert_projection(F, best, [best * positive(M * N, source=source, spread=size) for size in SIZES])


def test_proposition_2_whitening(gradients, source):
    """Proposition 2, Eq. (7): over {I (x) M}, the minimiser is M = E[G G^T] / n."""
    F, best = dense_fisher(gradients), structures.whitening(Fisher(gradients)).dense()
    moment = (gradients @ gradients.mT).mean(0) / N
    torch.testing.assert_close(best, torch.kron(torch.eye(N, dtype=F.dtype), moment))
    others = [spd_near(moment, source, size) for size in SIZES]
    assert_projection(F, best, [torch.kron(torch.eye(N, dtype=F.dtype), other) for other in others])


def test_proposition_2_normalization(gradients, source):
    """Proposition 2, Eq. (8): over {S (x) I; S > 0 diagonal}, the minimiser is S_ii = E[g_i^T g_i] / m."""
    F, best = dense_fisher(gradients), structures.normalization(Fisher(gradients)).dense()
    scales = gradients.square().sum(1).mean(0) / M
    torch.testing.assert_close(best, torch.kron(scales.diag(), torch.eye(M, dtype=F.dtype)))
    others = [scales * positive(N, source=source, spread=size) for size in SIZES]
    assert_projection(F, best, [torch.kron(other.diag(), torch.eye(M, dtype=F.dtype)) for other in others])


def test_proposition_3_fixed_point_is_the_leading_singular_pair(gradients):
    """Proposition 3: s and q of Eq. (16) converge to the leading singular pair of E[G^2], whatever q starts from.

    Eq. (16) is iterated as printed, with S and Q as matrices, from several positive q; RACS's own iteration on E[G^2]
    starts from q = 1. All end in the same S (x) Q, which is sigma_1 v_1 u_1^T.
    """
    squares = gradients.square().mean(0)
    U, sigma, Vh = torch.linalg.svd(squares)
    pair = sigma[0] * torch.outer(U[:, 0], Vh[0])
    (s,), (q,) = fixed_point(squares[None], iterations=200)
    torch.testing.assert_close(torch.outer(q, s), pair, rtol=1e-12, atol=0)
    for seed in range(3):
        q = positive(M, source=torch.Generator().manual_seed(seed), spread=2.0)
        for _ in range(200):
            s = (gradients.mT @ q.diag() @ gradients).mean(0).diagonal() / q.square().sum()
            q = (gradients @ s.diag() @ gradients.mT).mean(0).diagonal() / s.square().sum()
        assert (s > 0).all() and (q > 0).all()
        torch.testing.assert_close(torch.outer(q, s), pair, rtol=1e-12, atol=0)


def test_proposition_3_minimises_over_two_scalings(gradients, source):
    """Proposition 3: no S (x) Q with positive diagonals is closer to F than the fixed point, and every iteration
    descends."""
    F, fisher = dense_fisher(gradients), Fisher(gradients)
    converged = structures.racs(fisher, iterations=200)
    least = square_error(F, converged.dense())
    (columns,), (rows,) = fixed_point(fisher.diagonal_in(structures.PLAIN)[None], iterations=200)
    for size in SIZES * 30:
        other_columns = columns * positive(N, source=source, spread=size)
        other_rows = rows * positive(M, source=source, spread=size)
        assert square_error(F, torch.kron(other_columns.diag(), other_rows.diag())) > least
    errors = [square_error(F, structures.racs(fisher, iterations).dense()) for iterations in range(1, 6)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] / least - 1 < 1e-4  # the five iterations RACS makes are enough


def spd_near(moment: Tensor, source: torch.Generator, size: float) -> Tensor:
    """A positive definite matrix `size` away from `moment`: in its eigenvectors' angle and its eigenvalues' factors."""
    values, vectors = torch.linalg.eigh(moment)
    turned = rotation(len(values), source, size) @ vectors
    return turned * (values * positive(len(values), source=source, spread=size)) @ turned.T


def upper_bound(F: Tensor, R: Tensor, L: Tensor) -> Tensor:
    """The right-hand side of Eq. (4)."""
    m, n = len(L), len(R)
    eye = torch.eye(m * n, dtype=F.dtype)
    side_a = (torch.kron(R, eye[:m, :m]) - F).norm()  # ||A^2 - C^2||
    side_b = (torch.kron(eye[:n, :n], L) - F).norm()  # ||B^2 - C^2||
    return 3 * (m * n * side_a * side_b + (m * n) ** 0.5 * F.trace() * (side_a + side_b))  # ||C||^2 = tr F


def test_theorem_3_1_shampoo_minimises_its_upper_bound(gradients, source):
    """Theorem 3.1: Eq. (4) bounds ||R^(1/2) (x) L^(1/2) - F||^2, and is least at R = E[G^T G] / m, L = E[G G^T] / n."""
    F = dense_fisher(gradients)
    R, L = (gradients.mT @ gradients).mean(0) / M, (gradients @ gradients.mT).mean(0) / N
    best = torch.kron(power_of(R, 0.5), power_of(L, 0.5))
    torch.testing.assert_close(structures.shampoo(Fisher(gradients)).dense(), best)
    least = upper_bound(F, R, L)
    assert square_error(F, best) <= F.square().sum() < least  # it holds, and says less than A = 0 would
    for size in SIZES * 5:
        other_R, other_L = spd_near(R, source, size), spd_near(L, source, size)
        other = upper_bound(F, other_R, other_L)
        assert square_error(F, torch.kron(power_of(other_R, 0.5), power_of(other_L, 0.5))) <= other
        assert other > least
        assert upper_bound(F, other_R, L) > least and upper_bound(F, R, other_L) > least


def test_theorem_3_2_half_steps(gradients, source):
    """Theorem 3.2: (i) with one D for all columns, U = EVD(E[G G^T]) is the best basis; (ii) for that U, the best D_i
    are E[(U^T g_i)^2]."""
    F, fisher = dense_fisher(gradients), Fisher(gradients)
    U = torch.linalg.eigh((gradients @ gradients.mT).mean(0)).eigenvectors
    shared = (U.T @ gradients).square().mean((0, 2))
    eye = torch.eye(N, dtype=F.dtype)
    first = torch.kron(eye, U * shared @ U.T)
    near = [torch.kron(eye, spd_near(U * shared @ U.T, source, size)) for size in SIZES * 5]
    turned = [rotation(M, source, size) @ U for size in SIZES * 5]
    refit = [torch.kron(eye, V * (V.T @ gradients).square().mean((0, 2)) @ V.T) for V in turned]  # each with its best D
    assert_projection(F, first, near + refit)

    D = (U.T @ gradients).square().mean(0)
    second = blocks(torch.stack([U * column @ U.T for column in D.T]))
    torch.testing.assert_close(structures.eigen_adam(fisher).dense(), second)
    factors = [positive(M, N, source=source, spread=size) for size in SIZES]
    assert_projection(F, second, [blocks(torch.stack([U * c @ U.T for c in (D * f).T])) for f in factors])


def test_theorem_3_3_half_steps(gradients, source):
    """Theorem 3.3: (i) with D a Kronecker product, the bases that minimise Eq. (4) are those of E[G^T G] and E[G G^T];
    (ii) for these, the best D is E[(U_L^T G U_R)^2]."""
    F, fisher = dense_fisher(gradients), Fisher(gradients)
    right, left = (gradients.mT @ gradients).mean(0), (gradients @ gradients.mT).mean(0)
    U_R, U_L = torch.linalg.eigh(right).eigenvectors, torch.linalg.eigh(left).eigenvectors
    least = upper_bound(F, right / M, left / N)
    for size in SIZES * 5:
        V_R, V_L = rotation(N, source, size) @ U_R, rotation(M, source, size) @ U_L
        # In each basis the diagonals that are best for the bound, so the basis alone makes the difference.
        S_R, S_L = (V_R.T @ right @ V_R).diagonal() / M, (V_L.T @ left @ V_L).diagonal() / N
        assert upper_bound(F, V_R * S_R @ V_R.T, V_L * S_L @ V_L.T) > least

    vectors = torch.kron(U_R, U_L)
    D = (U_L.T @ gradients @ U_R).square().mean(0)
    best = vectors * D.T.flatten() @ vectors.T
    torch.testing.assert_close(structures.soap(fisher).dense(), best)
    others = [vectors * (D * positive(M, N, source=source, spread=size)).T.flatten() @ vectors.T for size in SIZES]
    assert_projection(F, best, others)


def test_proposition_6_full_blocks(gradients, source):
    """Proposition 6: over {DiagB(M_1 ... M_n)}, the minimiser is M_i = E[g_i g_i^T]."""
    F, best = dense_fisher(gradients), structures.full_blocks(Fisher(gradients)).dense()
    diagonal_blocks = torch.stack([F[i : i + M, i : i + M] for i in range(0, M * N, M)])
    torch.testing.assert_close(best, blocks(diagonal_blocks))
    others = [torch.stack([spd_near(block, source, size) for block in diagonal_blocks]) for size in SIZES]
    assert_projection(F, best, [blocks(other) for other in others])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_theorem_5_1_compensation(gradients, source, rank):
    """Theorem 5.1: over {S^(-2) (x) U_c U_c^T}, Eq. (21) is closest to the complement F_c of Eigen-Adam's Fisher.

    It is closest to F itself as well, which is why the low-rank part and the compensation may be fitted apart.
    """
    F = dense_fisher(gradients)
    values = torch.linalg.eigh((gradients @ gradients.mT).mean(0)).eigenvectors.flip(1)
    U, U_c = values[:, :rank], values[:, rank:]
    D, D_c = (U.T @ gradients).square().mean(0), (U_c.T @ gradients).square().mean(0)
    F_c = blocks(torch.stack([U_c * column @ U_c.T for column in D_c.T]))
    outside = (gradients.square().sum(1) - (U.T @ gradients).square().sum(1)).mean(0)
    S = (M - rank) ** 0.5 / outside.sqrt()  # Eq. (21): without U_c

    def member(scales: Tensor) -> Tensor:
        return torch.kron((scales**-2).diag(), U_c @ U_c.T)

    others = [member(S * positive(N, source=source, spread=size)) for size in SIZES]
    assert_projection(F_c, member(S), others)
    assert_projection(F, member(S), others)
    inside = blocks(torch.stack([U * column @ U.T for column in D.T]))
    torch.testing.assert_close(structures.alice(Fisher(gradients), rank).dense(), inside + member(S))
    torch.testing.assert_close(structures.galore(Fisher(gradients), rank).dense(), inside)
