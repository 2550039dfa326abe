"""RACS: Alg. 1 and Eq. 16, and what the public re-implementations get wrong."""

import itertools

import pytest
import torch

from optimizers import RACS
from optimizers.functional.scaling import fixed_point

from .harness import gradient, largest_difference, options_of, parameters, reference, train

pytestmark = pytest.mark.usefixtures("form")


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_its_plain_form(ema, weight_decay):
    shapes = [(3, 200), (200, 3), (130, 70), (70, 130), (64, 64), (1, 5)]
    options = options_of("racs", ema=ema, weight_decay=weight_decay)
    weights = parameters(shapes)
    expected = reference(RACS, weights, options, range(1, 10), lr=0.1)
    assert largest_difference(train(RACS(weights, lr=0.1, **options), range(1, 10)), expected) < 1e-12


def test_a_gradient_of_one_element_does_not_overflow():
    weight = torch.nn.Parameter(torch.zeros(512, 700))
    weight.grad = torch.zeros_like(weight)
    weight.grad[3, 5] = 1e4
    RACS([weight], lr=1.0, alpha=1.0).step()
    assert weight[3, 5].isfinite() and weight[3, 5] < 0
    assert weight.count_nonzero() == 1


def test_infinity_and_nan_reach_the_weights():
    weight = parameters([(8, 12)], torch.float32)[0]
    weight.grad = torch.ones_like(weight)
    weight.grad[1, 2] = torch.nan
    RACS([weight]).step()
    assert weight.isnan().any()


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-2, 1e6])
@pytest.mark.parametrize("ema", [True, False])
def test_trajectory_does_not_depend_on_the_gradients_scale(scale, ema):
    plain = train(RACS(parameters(dtype=torch.float32), ema=ema), range(1, 8))
    scaled = train(RACS(parameters(dtype=torch.float32), ema=ema), range(1, 8), scale=scale)
    for a, b in zip(plain, scaled, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_fixed_point_is_the_leading_singular_pair_of_the_squares():
    squares = gradient((12, 30), 1, 0).square()
    s, q = fixed_point(squares[None], iterations=200)
    u, sigma, vh = torch.linalg.svd(squares)
    assert torch.allclose(torch.outer(q[0], s[0]), sigma[0] * torch.outer(u[:, 0], vh[0]), rtol=1e-9)


def test_iterations_start_with_s():
    """One iteration tells the order of s and q: they differ by tens of per cent."""
    squares = gradient((12, 30), 1, 0).square()
    s, q = fixed_point(squares[None], iterations=1)
    expected_s = squares.T @ torch.ones(12, dtype=torch.float64) / 12
    assert torch.allclose(s[0], expected_s)
    assert torch.allclose(q[0], squares @ expected_s / (expected_s @ expected_s))


def test_first_update_is_ten_times_larger_and_growth_is_limited():
    """The averages begin at 0, so the first update is 1 / (1 - beta) times larger than later ones."""
    weight = torch.nn.Parameter(torch.zeros(32, 48, dtype=torch.float64))
    optimizer = RACS([weight], lr=1.0, alpha=1.0)
    sizes = []
    for step in range(1, 60):
        before = weight.detach().clone()
        weight.grad = torch.randn(32, 48, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.step()
        sizes.append((weight - before).norm().item() / weight.numel() ** 0.5)
    assert 8 < sizes[0] / sizes[-1] < 12
    assert sizes[-1] == pytest.approx(1.0, rel=0.1)
    assert all(later <= 1.01 * earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(sizes))


def test_limiter_holds_a_sudden_growth_and_keeps_the_limited_norm():
    weight = torch.nn.Parameter(torch.zeros(8, 12, dtype=torch.float64))
    optimizer = RACS([weight], lr=1.0, alpha=1.0)
    norms = []
    for step in range(1, 8):
        before = weight.detach().clone()
        weight.grad = gradient((8, 12), step, 0, scale=1.0 if step < 4 else 100.0 ** (step - 3))
        optimizer.step()
        norms.append((weight - before).norm().item())
    assert norms[3] == pytest.approx(1.01 * norms[2], rel=1e-9)
    assert norms[4] == pytest.approx(1.01 * norms[3], rel=1e-9)
    assert optimizer.state[weight]["phi"].item() == pytest.approx(norms[-1], rel=1e-9)


def test_a_zero_gradient_leaves_weights_and_state_as_they_are():
    weights = parameters(dtype=torch.float32)
    optimizer = RACS(weights)
    train(optimizer, range(1, 4))
    before = [w.detach().clone() for w in weights]
    state = {w: {k: v.clone() for k, v in optimizer.state[w].items()} for w in weights}
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert torch.equal(weight, old)
        assert all(torch.equal(optimizer.state[weight][k], v) for k, v in state[weight].items())


def test_zero_rows_and_columns_stay_when_their_scales_have_decayed():
    weight = parameters([(8, 12)], torch.float32)[0]
    optimizer = RACS([weight])
    train(optimizer, range(1, 3))
    before = weight.detach().clone()
    for step in range(3, 1203):  # 0.9^1200 is far below the smallest float32
        weight.grad = gradient((8, 12), step, 0).float()
        weight.grad[2] = 0
        weight.grad[:, 5] = 0
        optimizer.step()
    assert weight.isfinite().all()
    assert torch.equal(weight[2], before[2])
    assert torch.equal(weight[:, 5], before[:, 5])


def test_state_is_m_plus_n_plus_one_numbers():
    weight = parameters([(24, 16)], torch.bfloat16)[0]
    optimizer = RACS([weight])
    optimizer.allocate_state()
    state = optimizer.state[weight]
    assert sum(value.numel() for value in state.values()) == 24 + 16 + 1
    assert all(value.dtype == torch.float32 for value in state.values())


def test_scales_with_decay_zero_are_the_new_ones():
    """mean + 1 (value - mean), in this order, would be 0 where value is less than the rounding of mean."""
    weight, anew = parameters([(8, 12)] * 2, torch.float32)
    first, second = RACS([weight], beta=0.0), RACS([anew], beta=0.0)
    train(first, range(1, 2), scale=1.0)
    for each, optimizer in ((weight, first), (anew, second)):
        each.grad = 1e-6 * gradient((8, 12), 2, 0).float()
        optimizer.step()
    scales = (optimizer.state[each]["column_scale"] for each, optimizer in ((weight, first), (anew, second)))
    assert torch.allclose(*scales, rtol=1e-5, atol=0)


def test_options_may_be_whole_numbers():
    """C passes integers and fractions in different registers, so an int must be converted on the way."""
    weights = parameters([(6, 9), (9, 6)])
    results = []
    for options in ({"gamma": 1, "beta": 0}, {"gamma": 1.0, "beta": 0.0}):
        copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
        results.append(train(RACS(copies, lr=1, alpha=1, **options), range(1, 4)))
    for whole, fraction in zip(*results, strict=True):
        assert torch.equal(whole, fraction)


@pytest.mark.parametrize("size", [1e-19, 1e-20, 1e-21, 1e-22, 1e-30])
def test_updates_recover_after_squares_underflow(size):
    weight = torch.nn.Parameter(torch.zeros(40, 60))
    source = torch.Generator().manual_seed(0)
    optimizer = RACS([weight])
    weight.grad = size * torch.randn(40, 60, generator=source)
    optimizer.step()
    assert weight.isfinite().all()
    for value in optimizer.state[weight].values():
        assert value.isfinite().all()
    before = weight.detach().clone()
    for _ in range(5):
        weight.grad = torch.randn(40, 60, generator=source)
        optimizer.step()
    assert (weight - before).abs().mean() > 1e-5
