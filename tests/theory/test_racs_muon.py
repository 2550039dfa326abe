"""What RACS-Muon's update is: the whitening by correlations of gradients with covariance S (x) L, S diagonal.

With Q = diag(L) and C = Q^(-1/2) L Q^(-1/2), the correlations of rows, it is C^(-1/2) Q^(-1/2) G S^(-1/2). Both this
and Muon's L^(-1/2) G whiten rows; they differ by a rotation (arXiv 1512.00809: ZCA-cor and ZCA).
"""

import pytest
import torch

from optimizers import Muon, RACSMuon
from optimizers.functional.scaling import reference_fixed_point
from tests.theory.test_octave import gaussian, whitened


@pytest.fixture(autouse=True)
def exact_whitening(monkeypatch):
    for module in ("muon", "racs_muon"):
        monkeypatch.setattr(f"optimizers.{module}.newton_schulz", lambda unit, *_: whitened(unit))


def change(cls: type, G: torch.Tensor, **options) -> torch.Tensor:
    """The first update, at lr = 1 and without the factor of the learning rate."""
    weight = torch.nn.Parameter(torch.zeros_like(G))
    weight.grad = G.clone()
    cls([weight], lr=1.0, **options).step()
    return -weight.detach() / (0.2 * max(G.shape) ** 0.5)


def standardized(G: torch.Tensor) -> torch.Tensor:
    s, q = reference_fixed_point(G**2, iterations=5)
    return G / q.sqrt()[:, None] / s.sqrt()


@pytest.mark.parametrize("tall", [False, True])
def test_the_update_is_the_orthonormal_matrix_nearest_to_the_even_gradient(tall):
    """Of all matrices with orthonormal rows. Muon's is the nearest to the gradient itself."""
    G, source = (
        gaussian((12, 4)).T * torch.logspace(-1, 1, 4, dtype=torch.float64)[:, None],
        torch.Generator().manual_seed(1),
    )
    found = change(RACSMuon, G.T if tall else G, state_bits=32)
    found = found.T if tall else found
    torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64))
    even = standardized(G)
    nearness = (found * even).sum()
    for _ in range(50):
        turn = torch.linalg.qr(torch.randn(12, 12, generator=source, dtype=torch.float64))[0]
        assert nearness > (found @ turn * even).sum()
    assert nearness > (change(Muon, G) * even).sum()


def test_it_whitens_by_correlations_what_has_the_structure_it_assumes():
    """After many gradients, whose scales are averaged, the update of the last is that of the true S and L."""
    source = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-1, 1, 5, dtype=torch.float64)
    factor = sizes[:, None] * torch.randn(5, 5, generator=source, dtype=torch.float64)
    L, S = factor @ factor.T, torch.logspace(-1, 1, 400, dtype=torch.float64)
    weights = [torch.nn.Parameter(torch.zeros(5, 400, dtype=torch.float64)) for _ in range(2)]
    racs_muon = RACSMuon([weights[0]], lr=1.0, momentum=0.0, nesterov=False, beta=0.99, state_bits=32)
    muon = Muon([weights[1]], lr=1.0, momentum=0.0, nesterov=False)
    for _ in range(600):
        G = factor @ torch.randn(5, 400, generator=source, dtype=torch.float64) * S.sqrt()
        before = [weight.detach().clone() for weight in weights]
        for weight, optimizer in zip(weights, (racs_muon, muon), strict=True):
            weight.grad = G.clone()
            optimizer.step()
    Q = L.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(L / Q / Q[:, None])
    expected = vectors * values**-0.5 @ vectors.T @ (G / Q[:, None] / S.sqrt())
    found, of_muon = (start - weight.detach() for start, weight in zip(before, weights, strict=True))
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.98
    assert torch.cosine_similarity(of_muon.flatten(), expected.flatten(), 0) < 0.8


def test_scales_of_rows_and_columns_do_not_show():
    """Of a gradient whose squares are a product of both: a token that is ten times as frequent moves as far."""
    signs = gaussian((12, 4)).T.sign()
    rows, columns = (torch.logspace(-2, 2, size, dtype=torch.float64) for size in (4, 12))
    torch.testing.assert_close(
        change(RACSMuon, rows[:, None] * signs * columns, state_bits=32), change(RACSMuon, signs, state_bits=32)
    )


def test_of_an_even_gradient_the_update_is_muons():
    signs = gaussian((12, 4)).sign()
    torch.testing.assert_close(change(RACSMuon, signs, state_bits=32), change(Muon, signs))
