"""LARS: updates whose size is the weight's."""

import pytest
import torch

from optimizers import LARS

from .harness import gradient, largest_difference, parameters, train


def tensors(sizes=(1.0, 40.0, 3.0), dtype=torch.float64):
    """A vector, a matrix and a 3-D tensor with the given norms."""
    shapes = [(7,), (6, 10), (2, 3, 4)]
    source = torch.Generator().manual_seed(3)
    drawn = [torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
    return [torch.nn.Parameter((size * x / x.norm()).to(dtype)) for size, x in zip(sizes, drawn, strict=True)]


def drawn_gradient(weight, step):
    return gradient((weight.numel(), 1), step, 0).reshape(weight.shape).to(weight.dtype)


@pytest.mark.parametrize("cls", [LARS])
def test_update_is_a_share_of_the_weights_norm_up_to_ten(cls):
    weights = tensors()
    optimizer = cls(weights, lr=0.02)
    for step in range(1, 5):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = drawn_gradient(weight, step)
        optimizer.step()
        for weight, old in zip(weights, before, strict=True):
            assert torch.allclose((weight - old).norm(), 0.02 * old.norm().clamp(max=10), rtol=1e-9)


def test_lars_goes_along_the_average_of_gradients():
    weight = tensors()[1]
    optimizer = LARS([weight], lr=0.02, momentum=0.7)
    for step in range(1, 5):
        before = weight.detach().clone()
        weight.grad = drawn_gradient(weight, step)
        optimizer.step()
    mean = sum(0.3 * 0.7 ** (4 - step) * drawn_gradient(weight, step) for step in range(1, 5))
    assert torch.allclose((before - weight) / (before - weight).norm(), mean / mean.norm())


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_lars_does_not_depend_on_the_gradients_scale(scale):
    plain = train(LARS(parameters(dtype=torch.float32)), range(1, 5))
    assert largest_difference(plain, train(LARS(parameters(dtype=torch.float32)), range(1, 5), scale=scale)) < 1e-5


@pytest.mark.parametrize("cls", [LARS])
def test_a_zero_parameter_stays_and_a_zero_gradient_moves_nothing(cls):
    zero, other = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(5))
    optimizer = cls([zero, other], lr=0.1)
    zero.grad, other.grad = torch.ones(5), torch.zeros(5)
    optimizer.step()
    assert torch.equal(zero, torch.zeros(5))
    assert torch.equal(other, torch.ones(5))


@pytest.mark.parametrize("cls", [LARS])
def test_mixed_precisions_keep_their_own(cls):
    weights = [*tensors(dtype=torch.bfloat16), *tensors(dtype=torch.float32)]
    optimizer = cls(weights, lr=0.02)
    for step in range(1, 4):
        for weight in weights:
            weight.grad = drawn_gradient(weight, step)
        optimizer.step()
    for narrow, wide in zip(weights[:3], weights[3:], strict=True):
        assert narrow.dtype == optimizer.state[narrow]["m1"].dtype == torch.bfloat16
        assert wide.dtype == optimizer.state[wide]["m1"].dtype == torch.float32
        assert torch.allclose(narrow.float(), wide, rtol=0.03, atol=0.03 * wide.abs().max().item())
