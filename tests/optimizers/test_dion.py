"""Dion: what its equations say of the update, the residual and the start."""

import pytest
import torch

from optimizers import Dion

from .harness import gradient, largest_difference, options_of, parameters, reference, train

STEPS = range(1, 9)


def zero(shape, dtype=torch.float64):
    return torch.nn.Parameter(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (16, 16)])
def test_updates_are_orthonormal_factors_times_the_root_of_the_shape(shape):
    weight = zero(shape)
    optimizer = Dion([weight], lr=1.0, rank=6)
    for step in STEPS:
        before = weight.detach().clone()
        weight.grad = gradient(shape, step, 0)
        optimizer.step()
        change = (before - weight) / (shape[0] / shape[1]) ** 0.5
        assert torch.linalg.matrix_rank(change, rtol=1e-9) == 6
        assert change.norm().item() == pytest.approx(6**0.5, rel=1e-6)


def test_what_was_not_applied_stays():
    """With mu = 0 and P P^T the projection applied, the residual is orthogonal to P: error feedback alone."""
    weight, G = zero((24, 16)), gradient((24, 16), 1, 0)
    optimizer = Dion([weight], lr=1.0, rank=6, momentum=0.0)
    weight.grad = G.clone()
    optimizer.step()
    P = torch.linalg.svd(weight.detach(), full_matrices=False).U[:, :6]
    kept = optimizer.state[weight]["exp_avg"].T
    assert torch.allclose(kept, G - P @ (P.T @ G), rtol=0, atol=1e-10)


def test_of_full_rank_nothing_but_momentum_stays():
    """rank = m: P R^T is B itself, so M = mu B."""
    weight = zero((24, 16))
    optimizer, momentum = Dion([weight], rank=16, momentum=0.7), torch.zeros(24, 16, dtype=torch.float64)
    for step in STEPS:
        weight.grad = gradient((24, 16), step, 0)
        momentum = 0.7 * (momentum + weight.grad)
        optimizer.step()
        assert torch.allclose(optimizer.state[weight]["exp_avg"].T, momentum, rtol=0, atol=1e-10)


def test_repeated_gradients_turn_the_factors_to_the_leading_singular_vectors():
    """A power iteration; mu = 0 and a gradient of the factors' rank, so that no residual moves them."""
    source = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(24, 3, generator=source, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(16, 3, generator=source, dtype=torch.float64)).Q
    weight = zero((24, 16))
    optimizer = Dion([weight], lr=1.0, rank=3, momentum=0.0)
    for _ in range(2):
        weight.grad = U @ torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ V.T
        before = weight.detach().clone()
        optimizer.step()
    change = before - weight
    assert torch.allclose(U @ (U.T @ change), change, rtol=0, atol=1e-9)
    assert torch.allclose(change @ V @ V.T, change, rtol=0, atol=1e-9)


def test_the_start_is_drawn_from_the_seed_and_the_position():
    starts = []
    for seed in (0, 0, 1):
        weights = [zero((8, 12)), zero((8, 12))]
        optimizer = Dion(weights, rank=4, seed=seed)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        starts += [optimizer.state[weight]["factor"].clone() for weight in weights]
    assert torch.equal(starts[0], starts[2]) and torch.equal(starts[1], starts[3])
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[4])


def test_nothing_but_decay_while_all_gradients_are_zero():
    weight = parameters([(8, 12)])[0]
    start = weight.detach().clone()
    optimizer = Dion([weight], lr=0.1, rank=4, weight_decay=0.5)
    for _ in range(2):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert torch.allclose(weight, 0.95**2 * start, rtol=1e-12)
    factor = optimizer.state[weight]["factor"]
    assert torch.allclose(factor.norm(dim=0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_zero_rows_and_columns_do_not_move(shape):
    weight = parameters([shape])[0]
    start = weight.detach().clone()
    optimizer = Dion([weight], lr=0.1, rank=4)
    for step in STEPS:
        weight.grad = gradient(shape, step, 0)
        weight.grad[3], weight.grad[:, 2] = 0, 0
        optimizer.step()
    moved = (weight - start).abs()
    assert moved[3].max() < 1e-12 and moved[:, 2].max() < 1e-12 and moved[4].max() > 1e-3


@pytest.mark.parametrize(("scale", "tolerance"), [(1e6, 1e-5), (1e-3, 1e-3)])
def test_the_gradients_scale_is_felt_through_eps_alone(scale, tolerance):
    plain = train(Dion(parameters(dtype=torch.float32), rank=4), STEPS)
    assert largest_difference(plain, train(Dion(parameters(dtype=torch.float32), rank=4), STEPS, scale)) < tolerance


def test_equals_its_plain_form_with_other_options():
    options = options_of("dion", rank=3, momentum=0.5, eps=1e-2, seed=3, weight_decay=0.2)
    expected = reference(Dion, parameters(), options, STEPS, lr=0.02)
    assert largest_difference(train(Dion(parameters(), lr=0.02, **options), STEPS), expected) < 1e-9


def test_the_momentum_of_bfloat16_weights_is_float32():
    optimizer = Dion(parameters(dtype=torch.bfloat16), rank=4)
    optimizer.allocate_state()
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {torch.float32}
