"""SinkGD: Alg. 3 and 4 of arXiv 2502.06742, rows = out for every shape."""

import pytest
import torch

import optimizers
from optimizers import SinkGD

from .harness import gradient, largest_difference, options_of, parameters, reference, train

pytestmark = pytest.mark.usefixtures("form")

SHAPES = [(8, 40), (40, 8), (16, 16)]


def update(g, **options):
    """X: what one step with lr alpha = 1 subtracts from a zero weight."""
    weight = torch.nn.Parameter(torch.zeros_like(g))
    weight.grad = g
    SinkGD([weight], lr=1.0, alpha=1.0, **options).step()
    return -weight.detach()


def balanced(g, iterations):
    """The algorithm once more, by division."""
    rows, columns = g.shape
    for _ in range(iterations):
        g = g * columns**0.5 / g.norm(dim=1, keepdim=True)
        g = g * rows**0.5 / g.norm(dim=0, keepdim=True)
    return g


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_equals_its_plain_form(iterations, weight_decay):
    shapes = [(3, 200), (200, 3), (130, 70), (70, 130), (64, 64), (1, 5), (5, 1)]
    options = options_of("sinkgd", iterations=iterations, weight_decay=weight_decay)
    weights = parameters(shapes)
    expected = reference(SinkGD, weights, options, range(1, 6), lr=0.1)
    assert largest_difference(train(SinkGD(weights, lr=0.1, **options), range(1, 6)), expected) < 1e-12


@pytest.mark.parametrize("iterations", [1, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_column_norms_are_exact_after_the_last_pass(shape, iterations):
    x = update(gradient(shape, 1, 0), iterations=iterations)
    assert torch.allclose(x.norm(dim=0), torch.full((shape[1],), shape[0] ** 0.5, dtype=x.dtype), rtol=1e-12)
    assert x.square().mean().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_row_norms_come_closer_with_every_pass(shape):
    g = gradient(shape, 1, 0)
    off = [
        (update(g, iterations=k).norm(dim=1) - shape[1] ** 0.5).abs().max().item() / shape[1] ** 0.5 for k in (1, 3, 30)
    ]
    assert off[0] > 1e-2 and off[0] > off[1] > off[2]
    assert off[2] < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stacked", [False, True])
def test_tall_matrices_are_not_transposed(shape, stacked):
    """One pass tells the order: rows are outputs, and come first, whatever the shape."""
    weights = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for _ in range(1 + stacked)]
    for index, weight in enumerate(weights):
        weight.grad = gradient(shape, 1, index)
    SinkGD(weights, lr=1.0, alpha=1.0, iterations=1).step()
    for weight in weights:
        assert torch.allclose(-weight, balanced(weight.grad, 1), rtol=1e-12)
        turned = balanced(weight.grad.T, 1).T
        assert (weight + turned).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_trajectory_does_not_depend_on_the_gradients_scale(scale):
    """float32, gradients of RMS `scale` and 1."""
    trajectories = []
    for size in (1.0, scale):
        weights = parameters(dtype=torch.float32)
        optimizer = SinkGD(weights)
        for step in range(1, 8):
            for index, weight in enumerate(weights):
                g = gradient(tuple(weight.shape), step, index)
                weight.grad = (size * g / g.square().mean().sqrt()).float()
            optimizer.step()
        trajectories.append([weight.detach().clone() for weight in weights])
    assert largest_difference(trajectories[0], parameters()) > 1e-3
    assert largest_difference(*trajectories) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_rows_and_columns_do_not_move_and_count_as_absent(shape, dtype):
    g = gradient(shape, 1, 0).to(dtype)
    g[2], g[:, 5] = 0, 0
    x = update(g)
    assert not x[2].any() and not x[:, 5].any()
    rows, columns = (torch.arange(size) for size in shape)
    live = torch.outer(rows != 2, columns != 5)
    alone = balanced(g[live].reshape(shape[0] - 1, shape[1] - 1).double(), 5) * (shape[0] / (shape[0] - 1)) ** 0.5
    assert torch.allclose(x[live].double(), alone.flatten(), rtol=1e-5)
    norms = x.norm(dim=0)[columns != 5]
    assert torch.allclose(norms, torch.full_like(norms, shape[0] ** 0.5), rtol=1e-5)


def test_a_zero_gradient_moves_nothing():
    weights = parameters(dtype=torch.float32)
    optimizer = SinkGD(weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(w, before) for w, before in zip(weights, parameters(dtype=torch.float32), strict=True))


def test_a_gradient_of_one_element_moves_that_element_alone():
    g = torch.zeros(512, 700)
    g[3, 5] = 1e4
    x = update(g)
    assert x.count_nonzero() == 1
    assert x[3, 5].item() == pytest.approx(512**0.5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_finite_reaches_the_weights(shape, bad):
    g = gradient(shape, 1, 0).float()
    g[1, 2] = bad
    assert not update(g).isfinite().all()


@pytest.mark.parametrize("size", [1e-30, 1e-37, 1e-42, 1e37])
def test_gradients_at_the_ends_of_float32_give_finite_updates(size):
    assert update((size * gradient((8, 12), 1, 0)).float()).isfinite().all()


def test_weight_decay_is_that_of_the_steps_size_and_comes_before_the_update():
    weights, steps = parameters(), range(1, 2)
    before = [weight.detach().clone() for weight in weights]
    decayed = train(SinkGD(weights, lr=0.5, alpha=0.2, weight_decay=0.3), steps)
    plain = train(SinkGD(parameters(), lr=0.5, alpha=0.2), steps)
    expected = [after - 0.5 * 0.2 * 0.3 * start for after, start in zip(plain, before, strict=True)]
    assert largest_difference(decayed, expected) < 1e-12


def test_it_holds_no_state():
    optimizer = SinkGD(parameters())
    train(optimizer, range(1, 3))
    assert optimizers.state_bytes(optimizer) == 0
