"""What NorMuon's update is, and so Octave's: one round of the flip-flop for a Gaussian with covariance R (x) S.

S = diag(s) scales rows, R [n, n] is shared by them. Of tall gradients G [m, n] the likelihood of (s, R) is maximised in
turn: R = G^T S^(-1) G / m given s, s = diag(G R^(-1) G^T) / n given R. Round one, from s = 1, whitens the columns and
then divides each row by the root of its leverage score.
"""

import pytest
import torch
from torch import Tensor

from optimizers import NorMuon, Octave


def gaussian(shape: tuple[int, int], seed: int = 0) -> Tensor:
    G = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return G * torch.logspace(-1.5, 0.5, shape[0], dtype=torch.float64)[:, None]


def whitened(G: Tensor) -> Tensor:
    """G (G^T G)^(-1/2) of a tall matrix, (G G^T)^(-1/2) G of a wide one."""
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return U @ Vh


def likelihood(G: Tensor, s: Tensor, R: Tensor) -> Tensor:
    """The log-likelihood of G under the covariance R (x) diag(s), without its constant."""
    rows, columns = G.shape
    quadratic = ((G @ torch.linalg.inv(R)) * G).sum(1) / s
    return -0.5 * (columns * s.log().sum() + rows * torch.logdet(R) + quadratic.sum())


def update(cls: type[NorMuon], G: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The first step's update of size 1, with whitening that is exact, and the mean square v of each row."""
    monkeypatch.setattr("optimizers.normuon.newton_schulz", lambda unit, *_: whitened(unit))
    weight = torch.nn.Parameter(torch.zeros_like(G))
    weight.grad = G.clone()
    optimizer = cls([weight], lr=1.0, beta2=0.75, state_bits=32)
    optimizer.step()
    return -weight.detach() / weight.detach().norm(), optimizer.state[weight]["exp_avg_sq"] / 0.25


@pytest.mark.parametrize("cls", [NorMuon, Octave])
def test_a_tall_update_is_one_round_of_the_flip_flop(cls, monkeypatch):
    """With column and row scales each of which maximises the likelihood, given the other."""
    G, source = gaussian((12, 4)), torch.Generator().manual_seed(1)
    R = G.T @ G / len(G)
    s = ((G @ torch.linalg.inv(R)) * G).sum(1) / G.shape[1]
    ones = torch.ones_like(s)
    for _ in range(20):
        change = torch.randn(4, 4, generator=source, dtype=torch.float64)
        other = R + 0.05 * R.trace() / 4 * (change @ change.T - torch.eye(4))
        assert likelihood(G, ones, R) > likelihood(G, ones, other)
        factors = torch.exp(0.1 * torch.randn(len(G), generator=source, dtype=torch.float64))
        assert likelihood(G, s, R) > likelihood(G, s * factors, R)
    values, vectors = torch.linalg.eigh(R)
    expected = (s**-0.5)[:, None] * G @ vectors * values**-0.5 @ vectors.T
    torch.testing.assert_close(update(cls, G, monkeypatch)[0], expected / expected.norm())


@pytest.mark.parametrize("cls", [NorMuon, Octave])
def test_the_row_scale_of_a_tall_matrix_is_its_leverage_score(cls, monkeypatch):
    """A row that is small in every gradient is small whitened, too: v is what brings it to the size of the others."""
    G = gaussian((12, 4))
    leverage = torch.diagonal(G @ torch.linalg.inv(G.T @ G) @ G.T)
    _, mean_squares = update(cls, G, monkeypatch)
    torch.testing.assert_close(mean_squares, leverage / 4)


def test_a_wide_update_is_muons(monkeypatch):
    """Its whitened rows are orthonormal, so there is nothing to scale but what five Newton-Schulz steps leave."""
    G = gaussian((4, 12))
    expected = whitened(G)
    torch.testing.assert_close(update(Octave, G, monkeypatch)[0], expected / expected.norm())
