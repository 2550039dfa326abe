"""Which structure approximates the Fisher better than which: which orders the paper's closed forms guarantee."""

import itertools

import pytest
import torch

from analysis.fisher import structures
from analysis.fisher.structures import Fisher

from .samples import M, gradients_with_fisher, sampled_gradients


@pytest.fixture(params=range(5))
def fisher(request) -> Fisher:
    return Fisher(sampled_gradients(request.param))


def assert_ordered(fisher: Fisher, *better_to_worse) -> None:
    errors = [fisher.error(structure) for structure in better_to_worse]
    assert all(better < worse for better, worse in itertools.pairwise(errors)), errors


def test_adam_then_racs_then_normalization(fisher):
    """Section 4: S (x) Q is a diagonal and holds S (x) I, and each of the three is the best of its structure."""
    assert_ordered(fisher, structures.adam(fisher), structures.racs(fisher), structures.normalization(fisher))


def test_eigen_adam_before_whitening_and_normalization(fisher):
    """Appendix E.1: Eigen-Adam's structure holds both, and its second half-step starts from U = EVD(E[G G^T])."""
    assert_ordered(fisher, structures.eigen_adam(fisher), structures.whitening(fisher))
    assert_ordered(fisher, structures.eigen_adam(fisher), structures.normalization(fisher))


def test_soap_before_shampoo(fisher):
    """Appendix E.1: both are diagonal in the same eigenbases, SOAP with the best diagonal of all, Shampoo with a
    Kronecker product that is not the best one."""
    assert_ordered(fisher, structures.soap(fisher), structures.kronecker(fisher), structures.shampoo(fisher))


def test_full_blocks_before_all_block_diagonal_structures(fisher):
    """Proposition 6: every structure without correlation between columns is a case of it."""
    for structure in (structures.adam, structures.whitening, structures.eigen_adam):
        assert_ordered(fisher, structures.full_blocks(fisher), structure(fisher))


def test_alice_leads_from_normalization_to_eigen_adam(fisher):
    """Section 5: with the compensation of Theorem 5.1, every column added to the basis lowers the error.

    The last one changes nothing: the complement of m - 1 columns is a line, on which the compensation is exact.
    """
    ranks = [structures.alice(fisher, rank) for rank in range(M - 1, -1, -1)]
    assert_ordered(fisher, *ranks)
    assert fisher.error(ranks[0]) == pytest.approx(fisher.error(structures.eigen_adam(fisher)), rel=1e-12)
    assert fisher.error(ranks[-1]) == pytest.approx(fisher.error(structures.normalization(fisher)), rel=1e-12)


def test_compensation_lowers_the_error(fisher):
    """Theorem 5.1 against Section 5.4's GaLore structure, which leaves the complement at zero."""
    for rank in range(M):
        assert_ordered(fisher, structures.alice(fisher, rank), structures.galore(fisher, rank))


def test_eigen_adam_may_be_worse_than_adam():
    """Theorem 3.2 is one refinement step, so its solution may be worse than the member of its structure with U = I.

    Two columns with E[g_1 g_1^T] = diag(3, 1) and E[g_2 g_2^T] = [[1, c], [c, 3]], not correlated with each other.
    Their sum [[4, c], [c, 4]] has its eigenvectors at 45 degrees however small c is, and there neither block is
    diagonal: Adam's squared error is 2 c^2, Eigen-Adam's is 4.
    """
    c = 0.1
    F = torch.block_diag(torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[1, c], [c, 3]])).double()
    fisher = Fisher(gradients_with_fisher(F, 2, 2))
    norm = F.norm().item()
    assert norm * fisher.error(structures.adam(fisher)) == pytest.approx(2**0.5 * c)
    assert norm * fisher.error(structures.eigen_adam(fisher)) == pytest.approx(2.0)
    assert_ordered(fisher, structures.adam(fisher), structures.eigen_adam(fisher))


def test_soap_may_be_worse_than_eigen_adam_and_adam():
    """Theorem 3.3 likewise: a second eigenbasis may undo what the first one gained.

    Variances [[3, 2], [1, 2]], one weak correlation c between the two elements of the first row. E[G G^T] = diag(5, 3)
    leaves the left basis alone; E[G^T G] = [[4, c], [c, 4]] turns the right one by 45 degrees, where no row is
    diagonal: Adam's and Eigen-Adam's squared error is 2 c^2, SOAP's is 1.
    """
    c = 0.1
    F = torch.tensor([[3, 0, c, 0], [0, 1, 0, 0], [c, 0, 2, 0], [0, 0, 0, 2]], dtype=torch.float64)
    fisher = Fisher(gradients_with_fisher(F, 2, 2))
    norm = F.norm().item()
    assert norm * fisher.error(structures.adam(fisher)) == pytest.approx(2**0.5 * c)
    assert norm * fisher.error(structures.eigen_adam(fisher)) == pytest.approx(2**0.5 * c)
    assert norm * fisher.error(structures.soap(fisher)) == pytest.approx(1.0)


def test_shampoo_is_not_the_best_of_its_structure(fisher):
    """Theorem 3.1 minimises an upper bound: even a number times Shampoo's R^(1/2) (x) L^(1/2) comes closer to F."""
    shampoo = structures.shampoo(fisher)
    best_scale = shampoo.inner(fisher) / shampoo.square_norm
    scaled = structures.Diagonal(shampoo.basis, best_scale * shampoo.diagonal, shampoo.numbers)
    assert fisher.error(scaled) < 0.999 * fisher.error(shampoo)
