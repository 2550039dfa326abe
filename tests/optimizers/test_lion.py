"""Lion, against lion-pytorch."""

import lion_pytorch
import pytest
import torch

from optimizers import Lion

from .harness import gradient, largest_difference, parameters, train

STEPS = range(1, 9)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_follows_the_public_package(betas, weight_decay):
    options = {"lr": 0.02, "betas": betas, "weight_decay": weight_decay}
    ours = train(Lion(parameters(), **options), STEPS)
    theirs = train(lion_pytorch.Lion(parameters(), **options), STEPS)
    assert largest_difference(ours, theirs) < 1e-14


def test_vectors_are_stepped_as_rows_of_a_matrix():
    matrix = parameters([(3, 20)])[0]
    vectors = [torch.nn.Parameter(row.clone()) for row in matrix.detach()]
    whole, apart = Lion([matrix], lr=0.02, weight_decay=0.3), Lion(vectors, lr=0.02, weight_decay=0.3)
    for step in STEPS:
        matrix.grad = gradient((3, 20), step, 0)
        for vector, row in zip(vectors, matrix.grad, strict=True):
            vector.grad = row.clone()
        whole.step(), apart.step()
    assert torch.equal(matrix, torch.stack(vectors))
    assert apart.state[vectors[0]]["exp_avg"].shape == (1, 20)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_does_not_depend_on_the_gradients_scale(scale):
    plain = train(Lion(parameters(dtype=torch.float32)), STEPS)
    assert largest_difference(plain, train(Lion(parameters(dtype=torch.float32)), STEPS, scale=scale)) == 0


def test_a_row_that_becomes_zero_moves_on_and_one_that_was_always_zero_stays():
    weight = parameters([(3, 8)])[0]
    start = weight.detach().clone()
    optimizer = Lion([weight], lr=0.02)
    for step in (1, 2, 3):
        weight.grad = torch.ones(3, 8, dtype=torch.float64)
        weight.grad[0] = 0
        weight.grad[1] = 0 if step > 1 else 1
        optimizer.step()
    moved = (start - weight) / 0.02
    assert torch.allclose(moved, torch.tensor([0.0, 3.0, 3.0], dtype=torch.float64)[:, None].expand(3, 8))


def test_a_bfloat16_weight_has_a_momentum_that_follows_small_changes():
    """A bfloat16 average would stick where the rest of the way is less than half a unit in the last place."""
    weight = parameters([(4, 8)], dtype=torch.bfloat16)[0]
    optimizer = Lion([weight])
    for size in (1.0, 0.9):
        for _ in range(1000):
            weight.grad = torch.full_like(weight, size)
            optimizer.step()
    momentum = optimizer.state[weight]["exp_avg"]
    assert momentum.dtype == torch.float32
    assert (momentum - 0.9).abs().max() < 2e-3


@pytest.mark.parametrize("shape", [(20, 8), (8, 20)])
def test_the_momentum_lies_as_the_weight_does(shape):
    weight = parameters([shape])[0]
    optimizer = Lion([weight], lr=0.02, betas=(0.9, 0.5))
    weight.grad = gradient(shape, 1, 0)
    optimizer.step()
    assert torch.allclose(optimizer.state[weight]["exp_avg"], weight.grad / 2, rtol=0, atol=1e-15)
