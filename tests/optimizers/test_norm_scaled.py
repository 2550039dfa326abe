"""LARS and LAMB: updates whose size is the weight's."""

import pytest
import torch

from optimizers import LAMB, LARS

from .harness import gradient, largest_difference, parameters, train


def tensors(sizes=(1.0, 40.0, 3.0), dtype=torch.float64):
    """A vector, a matrix and a 3-D tensor with the given norms."""
    shapes = [(7,), (6, 10), (2, 3, 4)]
    source = torch.Generator().manual_seed(3)
    drawn = [torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
    return [torch.nn.Parameter((size * x / x.norm()).to(dtype)) for size, x in zip(sizes, drawn, strict=True)]


def drawn_gradient(weight, step):
    return gradient((weight.numel(), 1), step, 0).reshape(weight.shape).to(weight.dtype)


@pytest.mark.parametrize("cls", [LARS, LAMB])
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


def test_lamb_goes_where_adam_goes():
    """Adam's steps do not depend on its weights, so those of a twin show the direction."""
    weight, twin = tensors()[1], tensors()[1]
    options = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}  # large enough to be felt
    lamb, adam = LAMB([weight], **options), torch.optim.Adam([twin], **options)
    for step in range(1, 6):
        old, old_twin = weight.detach().clone(), twin.detach().clone()
        weight.grad = 0.01 * drawn_gradient(weight, step)
        twin.grad = weight.grad.clone()
        lamb.step(), adam.step()
        ours, theirs = old - weight, old_twin - twin
        assert torch.allclose(ours / ours.norm(), theirs / theirs.norm(), rtol=0, atol=1e-9)


def test_lamb_depends_on_the_gradients_scale_only_through_eps():
    plain = train(LAMB(parameters(), eps=1e-30), range(1, 5))
    assert largest_difference(plain, train(LAMB(parameters(), eps=1e-30), range(1, 5), scale=1e-6)) < 1e-9
    assert largest_difference(plain, train(LAMB(parameters(), eps=1e-3), range(1, 5), scale=1e-6)) > 1e-3


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_lars_does_not_depend_on_the_gradients_scale(scale):
    plain = train(LARS(parameters(dtype=torch.float32)), range(1, 5))
    assert largest_difference(plain, train(LARS(parameters(dtype=torch.float32)), range(1, 5), scale=scale)) < 1e-5


@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_a_zero_parameter_stays_and_a_zero_gradient_moves_nothing(cls):
    zero, other = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(5))
    optimizer = cls([zero, other], lr=0.1)
    zero.grad, other.grad = torch.ones(5), torch.zeros(5)
    optimizer.step()
    assert torch.equal(zero, torch.zeros(5))
    assert torch.equal(other, torch.ones(5))


@pytest.mark.parametrize("cls", [LARS, LAMB])
@pytest.mark.parametrize("at_once", [False, True])
def test_mixed_precisions_keep_their_own(cls, at_once):
    """One parameter after the other, as on a CPU, or all in one list, as on a GPU and where they are sharded."""
    weights = [*tensors(dtype=torch.bfloat16), *tensors(dtype=torch.float32)]
    optimizer = cls(weights, lr=0.02)
    optimizer.allocate_state()
    for step in range(1, 4):
        for weight in weights:
            weight.grad = drawn_gradient(weight, step)
        if at_once:
            with torch.no_grad():
                optimizer._step_list(optimizer.param_groups[0], weights)
        else:
            optimizer.step()
    for narrow, wide in zip(weights[:3], weights[3:], strict=True):
        assert narrow.dtype == optimizer.state[narrow]["exp_avg"].dtype == torch.bfloat16
        assert wide.dtype == optimizer.state[wide]["exp_avg"].dtype == torch.float32
        assert torch.allclose(narrow.float(), wide, rtol=0.03, atol=0.03 * wide.abs().max().item())


@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_a_list_is_stepped_as_its_parameters_alone(cls):
    alone, together = (cls(tensors(dtype=torch.float32), lr=0.02) for _ in range(2))
    together.allocate_state()
    for step in range(1, 4):
        for optimizer in (alone, together):
            for weight in optimizer.param_groups[0]["params"]:
                weight.grad = drawn_gradient(weight, step)
        alone.step()
        with torch.no_grad():
            together._step_list(together.param_groups[0], together.param_groups[0]["params"])
    for one, other in zip(alone.param_groups[0]["params"], together.param_groups[0]["params"], strict=True):
        assert torch.equal(one, other)
