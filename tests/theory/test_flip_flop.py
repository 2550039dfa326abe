"""What FlipFlop's update is: the maximum-likelihood whitening for a Gaussian with covariance S (x) L, S diagonal.

Of wide gradients G [m, n], S = diag(s) scales columns and L [m, m] is shared by them. Octave's update is one round of
the flip-flop that maximises the likelihood in (s, L); FlipFlop's goes on from step to step.
"""

import pytest
import torch

from optimizers import FlipFlop, Muon
from optimizers.functional.newton_schulz import newton_schulz
from tests.theory.test_octave import gaussian, likelihood, whitened


@pytest.fixture(autouse=True)
def exact_whitening(monkeypatch):
    monkeypatch.setattr("optimizers.flip_flop.newton_schulz", lambda unit, *_: whitened(unit))


def settle(G: torch.Tensor, steps: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """The update of size 1 after many steps on one gradient, and s."""
    weight = torch.nn.Parameter(torch.zeros_like(G))
    optimizer = FlipFlop([weight], lr=1.0, beta2=0.5, state_bits=32)
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = G.clone()
        optimizer.step()
    change = before - weight.detach()
    return change / change.norm(), optimizer.state[weight]["log_scale"].exp()


@pytest.mark.parametrize("tall", [False, True])
def test_it_settles_where_the_likelihood_has_its_maximum(tall):
    """No change of both scales and R at once is better, and the update is that of these estimates."""
    G, source = gaussian((12, 4)), torch.Generator().manual_seed(1)
    change, s = settle(G if tall else G.T)
    R = G.T @ (G / s[:, None]) / len(G)
    values, vectors = torch.linalg.eigh(R)
    expected = (s**-0.5)[:, None] * G @ vectors * values**-0.5 @ vectors.T
    torch.testing.assert_close(change if tall else change.T, expected / expected.norm())
    best = likelihood(G, s, R)
    for _ in range(50):
        factors = torch.exp(0.1 * torch.randn(len(G), generator=source, dtype=torch.float64))
        turn = torch.eye(4) + 0.05 * torch.randn(4, 4, generator=source, dtype=torch.float64)
        assert best > likelihood(G, s * factors, turn @ R @ turn.T)


def test_the_settled_update_is_even_on_one_side_and_orthonormal_on_the_other():
    """Octave's is even alone, Muon's orthonormal alone."""
    change, _ = settle(gaussian((12, 4)).T)
    torch.testing.assert_close(change @ change.T, torch.eye(4, dtype=change.dtype) / 4)
    torch.testing.assert_close(change.square().sum(0), torch.full((12,), 1 / 12, dtype=change.dtype))


def test_scales_of_the_long_side_do_not_show():
    """A token that is ten times as frequent moves as far."""
    G = gaussian((12, 4)).T
    factors = torch.logspace(-1, 1, 12, dtype=G.dtype)
    torch.testing.assert_close(settle(G * factors)[0], settle(G)[0])


def test_zero_columns_leave_the_others_alone_and_take_nothing_when_they_come_back(monkeypatch):
    """Counted in the mean of s they would push it down at every step, until it overflows."""
    monkeypatch.setattr("optimizers.flip_flop.newton_schulz", newton_schulz)  # zeros stay zeros, to the bit
    G, source = gaussian((12, 4)).T, torch.Generator().manual_seed(1)
    wide, alone = (torch.nn.Parameter(torch.zeros(4, n, dtype=G.dtype)) for n in (12, 6))
    both = [FlipFlop([weight], lr=1.0, state_bits=32) for weight in (wide, alone)]
    for _ in range(300):
        alone.grad = torch.randn(4, 6, generator=source, dtype=G.dtype)
        wide.grad = torch.cat([torch.zeros(4, 6, dtype=G.dtype), alone.grad], 1)
        for optimizer in both:
            optimizer.step()
    of_both, of_alone = (
        optimizer.state[weight]["log_scale"] for optimizer, weight in zip(both, (wide, alone), strict=True)
    )
    torch.testing.assert_close(of_both[6:] - of_both[6], of_alone - of_alone[0])
    assert of_both.abs().max() < 1
    before = wide.detach().clone()
    wide.grad = torch.randn(4, 12, generator=source, dtype=G.dtype)
    both[0].step()
    moved = (wide.detach() - before).square().mean(0).sqrt()
    assert moved[6:].mean() > 0.1  # of an RMS of 0.2


def test_the_first_update_is_muons(monkeypatch):
    monkeypatch.setattr("optimizers.muon.newton_schulz", lambda unit, *_: whitened(unit))
    G, changes = gaussian((12, 4)), []
    for cls, options in ((FlipFlop, {"state_bits": 32}), (Muon, {})):
        weight = torch.nn.Parameter(torch.zeros_like(G))
        weight.grad = G.clone()
        cls([weight], lr=1.0, **options).step()
        changes.append(weight.detach())
    torch.testing.assert_close(*changes)


def test_a_small_column_keeps_its_digits_where_the_iteration_is_in_float16(monkeypatch):
    """As on CUDA. Its elements are 4e-8 of the whole, below what float16 tells apart, and s raises them."""
    monkeypatch.setattr("optimizers.flip_flop.iteration_dtype", lambda *_: torch.float16)
    monkeypatch.setattr("optimizers.flip_flop.newton_schulz", newton_schulz)
    even, factors = gaussian((64, 8)).T.float(), torch.ones(64)
    factors[5] = 1e-6
    moved = []
    for G, s in ((even, torch.ones(64)), (even * factors, factors**2)):
        weight = torch.nn.Parameter(torch.zeros(8, 64))
        optimizer = FlipFlop([weight], lr=1.0, state_bits=32)
        weight.grad = torch.zeros(8, 64)
        optimizer.step()  # makes the state
        optimizer.state[weight]["log_scale"].copy_(s.log())
        weight.grad = G.clone()
        optimizer.step()
        moved.append(weight.detach().clone())
    torch.testing.assert_close(*moved, rtol=0.01, atol=0.001)


def test_scales_of_square_matrices_go_towards_those_of_the_gradients(monkeypatch):
    """What five Newton-Schulz steps leave uneven says which columns are large; exact whitening leaves s = 1."""
    source = torch.Generator().manual_seed(0)
    true = torch.linspace(-2, 2, 32, dtype=torch.float64)
    L = torch.randn(32, 32, generator=source, dtype=torch.float64)
    covered = []
    for iteration in (lambda unit, *_: whitened(unit), newton_schulz):
        monkeypatch.setattr("optimizers.flip_flop.newton_schulz", iteration)
        weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.float64))
        optimizer = FlipFlop([weight], lr=1e-3, momentum=0.9, state_bits=32)
        for _ in range(600):
            noise = torch.randn(32, 32, generator=source, dtype=torch.float64)
            weight.grad = L @ noise * (0.5 * true).exp()
            optimizer.step()
        covered.append(float(optimizer.state[weight]["log_scale"] @ true / (true @ true)))
    assert abs(covered[0]) < 1e-6 and covered[1] > 0.6
