"""Proposition 4: the directions that a low-rank tracking state cannot see."""

import torch

from optimizers.functional import subspace

from .samples import positive, rotation, sampled_gradients

RANK, STEPS, ROWS, COLUMNS = 2, 5, 4, 6


def block_with_eigenbasis(basis: torch.Tensor, source: torch.Generator, strength: torch.Tensor) -> torch.Tensor:
    """[STEPS, ROWS, COLUMNS]: gradients with G G^T = basis diag basis^T, the singular values about `strength`."""
    values = strength * positive(STEPS, ROWS, source=source, spread=0.3)
    right = torch.stack([rotation(COLUMNS, source)[:ROWS] for _ in range(STEPS)])
    return basis @ (values.unsqueeze(-1) * right)


def split(gradients: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The true state sum(G G^T), and the part that low-rank tracking rebuilds: U sum(sigma sigma^T) U^T."""
    sigma = basis.T @ gradients
    return (gradients @ gradients.mT).sum(0), basis @ (sigma @ sigma.mT).sum(0) @ basis.T


def test_proposition_4_decomposition():
    """Proposition 4, Eq. (18): with a common eigenbasis [U, U_c], the true state is the tracked one plus
    U_c Sigma U_c^T, Sigma diagonal and positive. Without the assumption the remainder mixes U and U_c."""
    source = torch.Generator().manual_seed(0)
    strength = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    frame = rotation(ROWS, source)
    before = block_with_eigenbasis(frame, source, strength)
    full = subspace.leading_eigenvectors((before @ before.mT).sum(0), ROWS)
    basis, complement = full[:, :RANK], full[:, RANK:]

    true, tracked = split(block_with_eigenbasis(frame, source, strength), basis)
    sigma = complement.T @ true @ complement
    torch.testing.assert_close(true, tracked + complement @ sigma @ complement.T)
    torch.testing.assert_close(sigma, sigma.diagonal().diag())
    assert (sigma.diagonal() > 0).all()

    true, tracked = split(sampled_gradients(0, ROWS, COLUMNS, STEPS), basis)
    assert (basis.T @ (true - tracked) @ complement).norm() > 0.05 * true.norm()


def test_proposition_4_the_tracked_state_alone_never_moves_the_basis():
    """Section 5.2: where U_c's part of a block has become dominant, the true state's leading eigenvectors are in U_c,
    and the tracked state's are still in U; a switch, which draws from the complement, leaves U."""
    source = torch.Generator().manual_seed(1)
    frame = rotation(ROWS, source)
    basis = frame[:, :RANK]
    late = torch.tensor([1.0, 1.0, 9.0, 8.0], dtype=torch.float64)
    true, tracked = split(block_with_eigenbasis(frame, source, late), basis)
    outside = frame[:, RANK:].T
    assert (outside @ subspace.leading_eigenvectors(true, RANK)).norm() ** 2 > RANK * (1 - 1e-12)
    assert (outside @ subspace.leading_eigenvectors(tracked, RANK)).norm() < 1e-12
    drawn = subspace.Reflectors.of(basis[None]).complement(torch.tensor([[0]]))[0]
    assert (outside @ drawn).norm() > 1 - 1e-12
