"""Adafactor, against torch.optim.Adafactor."""

import pytest
import torch

from optimizers import Adafactor

from .harness import SHAPES, gradient, largest_difference, parameters, train

STEPS = range(1, 13)


def torchs(weights, **options):
    return torch.optim.Adafactor(weights, eps=(1e-16, 1e-3), **options)


@pytest.mark.parametrize("changes", [{}, {"d": 1.1, "beta2_decay": -0.5, "weight_decay": 0.3}, {"lr": 0.9}])
def test_follows_torch(changes):
    """With lr 0.9 its bound 1 / sqrt(t) is met from the second step on."""
    options = {"lr": 0.02, "weight_decay": 0.0, **changes}
    ours, theirs = train(Adafactor(parameters(), **options), STEPS), train(torchs(parameters(), **options), STEPS)
    assert largest_difference(ours, theirs) < 1e-12


def test_vectors_and_matrices_of_one_row_or_column_follow_torch():
    shapes = [(7,), (1, 7), (7, 1)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in shapes] for _ in range(2))
    a, b = Adafactor(ours, lr=0.05), torchs(theirs, lr=0.05, weight_decay=0.0)
    for step in STEPS:
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = gradient((7, 1), step, index).reshape(one.shape)
            other.grad = one.grad.clone()
        a.step(), b.step()
    assert largest_difference(ours, theirs) < 1e-12


@pytest.mark.parametrize("size", [0.0, 1e-5])
def test_small_weights_move_by_eps2(size):
    ours, theirs = parameters(scale=size), parameters(scale=size)
    moved = train(Adafactor(ours, lr=0.02), range(1, 2))
    assert largest_difference(moved, train(torchs(theirs, lr=0.02, weight_decay=0.0), range(1, 2))) < 1e-15
    for weight, start in zip(moved, parameters(scale=size), strict=True):
        assert 0 < (weight - start).square().mean().sqrt() <= 0.02 * 1e-3 * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_does_not_depend_on_the_gradients_scale_from_1e_minus_8_up(scale):
    plain = train(Adafactor(parameters(dtype=torch.float32)), STEPS)
    scaled = train(Adafactor(parameters(dtype=torch.float32)), STEPS, scale=scale)
    assert largest_difference(plain, scaled) < 1e-5


def test_bfloat16_weights_follow_the_float64_path_at_small_gradients():
    """torch's own defaults leave it there: eps1 of bfloat16 is 0.0078."""
    starts = [weight.double() for weight in parameters(dtype=torch.bfloat16)]
    exact = train(Adafactor([torch.nn.Parameter(start.clone()) for start in starts], lr=0.1), STEPS, scale=1e-4)
    errors = []
    for optimizer in (Adafactor, torch.optim.Adafactor):
        rounded = train(optimizer(parameters(dtype=torch.bfloat16), lr=0.1, weight_decay=0.0), STEPS, scale=1e-4)
        pairs = zip(rounded, exact, starts, strict=True)
        errors.append(max(((a.double() - b).norm() / (b - start).norm()).item() for a, b, start in pairs))
    assert errors[0] < 0.1 < 0.9 < errors[1]


def test_zero_rows_and_zero_gradients_move_nothing():
    weight = parameters([(16, 24)], dtype=torch.float32)[0]
    start = weight.detach().clone()
    optimizer = Adafactor([weight], lr=0.1)
    for step in range(4):
        weight.grad = gradient((16, 24), step, 0).float() if step else torch.zeros(16, 24)
        weight.grad[3] = 0
        optimizer.step()
        if step == 0:
            assert torch.equal(weight, start)
    assert torch.equal(weight[3], start[3])
    assert not torch.equal(weight[2], start[2]) and weight.isfinite().all()


def test_state_is_a_number_a_row_and_a_column():
    optimizer = Adafactor(parameters(dtype=torch.bfloat16))
    optimizer.allocate_state()
    for weight, (rows, columns) in zip(optimizer.param_groups[0]["params"], SHAPES, strict=True):
        tensors = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
        assert sum(tensor.numel() for tensor in tensors) == rows + columns
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
