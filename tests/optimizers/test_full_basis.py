"""Methods that hold a full basis of one side or of both: Eigen-Adam."""

import pytest
import torch

from optimizers import EigenAdam

from .harness import SHAPES, gradient, parameters, train


def rank_two(shape, step, scale=1.0):
    """A gradient of rank 2, as a layer sees that has met two tokens."""
    rows, columns = shape
    return scale * gradient((rows, 2), step, 0) @ gradient((2, columns), step, 1)


@pytest.mark.parametrize("cls", [EigenAdam])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_rank_deficient_gradients_give_bounded_updates(cls, scale):
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    optimizer = cls(weights, lr=1.0, update_interval=2)
    for step in range(1, 7):
        for weight in weights:
            weight.grad = rank_two(tuple(weight.shape), step, scale).float()
        optimizer.step()
    for weight in weights:
        assert weight.isfinite().all()
        assert weight.abs().max() < 100  # rounding over eps or over its own square would be 1e6 and more


def test_eigen_adam_is_adam_on_the_rotated_rows():
    """Turning gradients and weights from the left turns the whole trajectory; Adam's would not follow."""
    turn = torch.linalg.qr(gradient((16, 16), 0, 9)).Q
    straight = torch.nn.Parameter(parameters([(16, 24)])[0].detach())
    turned = torch.nn.Parameter(turn @ straight.detach())
    a, b = (EigenAdam([weight], lr=0.01, update_interval=3) for weight in (straight, turned))
    for step in range(1, 10):
        straight.grad = gradient((16, 24), step, 0)
        turned.grad = turn @ straight.grad
        a.step(), b.step()
    assert torch.allclose(turned, turn @ straight, rtol=0, atol=1e-9)


def test_eigen_adam_basis_is_sorted_and_renewed_with_the_gradient_of_the_step():
    weight = parameters([(24, 16)])[0]
    optimizer = EigenAdam([weight], update_interval=4)
    changed, previous = [], torch.zeros(16, 16, dtype=torch.float64)
    for step in range(1, 10):
        train(optimizer, range(step, step + 1))
        state = optimizer.state[weight]
        if not torch.equal(state["basis"], previous):
            changed.append(step)
            previous = state["basis"].clone()
            inside = previous.T @ state["tracked"] @ previous  # only this step's average is diagonal in it
            values = inside.diagonal()
            assert torch.allclose(inside, torch.diag(values), atol=1e-12)
            assert (values.diff() < 0).all()
    assert changed == [1, 4, 8]


def test_eigen_adam_does_not_rotate_its_first_moment():
    weight = parameters([(16, 24)])[0]
    optimizer = EigenAdam([weight], update_interval=2)
    train(optimizer, range(1, 6))
    expected = sum(0.1 * 0.9 ** (5 - step) * gradient((16, 24), step, 0) for step in range(1, 6))
    assert torch.allclose(optimizer.state[weight]["m1"], expected)


def test_eigen_adam_bfloat16_keeps_average_and_basis_whole():
    weight = parameters([(16, 24)], torch.bfloat16)[0]
    optimizer = EigenAdam([weight], update_interval=2)
    train(optimizer, range(1, 5))
    state = optimizer.state[weight]
    assert state["tracked"].dtype == state["basis"].dtype == torch.float32
    assert state["m1"].dtype == state["v"].dtype == torch.bfloat16
    assert torch.allclose(state["basis"].T @ state["basis"], torch.eye(16), atol=1e-5)
