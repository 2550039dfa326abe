"""SWAN: standardised rows, whitened."""

import pytest
import torch

import optimizers
from optimizers import SWAN

from .harness import gradient, largest_difference, parameters, train


def update(g, **options):
    """What one step with lr = 1 subtracts from the weight."""
    weight = torch.nn.Parameter(torch.zeros_like(g))
    weight.grad = g
    SWAN([weight], lr=1.0, **options).step()
    return -weight.detach()


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_update_is_the_whitened_standardised_gradient_at_its_norm(shape):
    g = gradient(shape, 1, 0)
    wide = g if shape[0] < shape[1] else g.T
    standard = (wide - wide.mean(1, keepdim=True)) / wide.std(1, correction=0, keepdim=True)
    U, _, Vh = torch.linalg.svd(standard, full_matrices=False)
    expected = U @ Vh * standard.norm() / len(U) ** 0.5
    assert torch.allclose(update(g), expected if shape[0] < shape[1] else expected.T, rtol=0, atol=1e-9)
    assert torch.allclose(update(g).square().mean(), torch.ones((), dtype=torch.float64))


def test_more_steps_bring_singular_values_closer_together():
    spread = [torch.linalg.svdvals(update(gradient((16, 24), 1, 0), ns_steps=steps)) for steps in (1, 5, 10)]
    ratios = [(values.max() / values.min()).item() for values in spread]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 1.01


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e6])
def test_trajectory_does_not_depend_on_the_gradients_scale(scale):
    plain = train(SWAN(parameters(dtype=torch.float32), lr=0.01), range(1, 4))
    scaled = train(SWAN(parameters(dtype=torch.float32), lr=0.01), range(1, 4), scale=scale)
    assert largest_difference(plain, scaled) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_gradient_loses_the_direction_that_centring_removed(dtype):
    values = torch.linalg.svdvals(update(gradient((16, 16), 1, 0).to(dtype)))
    assert values[-1] < 1e-4 * values[0]
    assert torch.allclose(values[:8], values[0], rtol=1e-2)


@pytest.mark.parametrize("constant", [0.1, 3e5])
def test_rows_of_one_value_get_no_update_and_do_not_touch_the_others(constant):
    g = gradient((6, 40), 1, 0).float()
    with_constant = torch.cat([g[:3], torch.full((1, 40), constant), g[3:]])
    moved = update(with_constant)
    assert not moved[3].any()
    assert torch.allclose(torch.cat([moved[:3], moved[4:]]), update(g), atol=1e-5)


def test_shift_of_a_row_changes_nothing():
    g = gradient((6, 40), 1, 0)
    assert torch.allclose(update(g), update(g + torch.arange(6.0)[:, None]), rtol=0, atol=1e-9)


def test_it_holds_no_state():
    optimizer = SWAN(parameters())
    train(optimizer, range(1, 3))
    assert optimizers.state_bytes(optimizer) == 0
