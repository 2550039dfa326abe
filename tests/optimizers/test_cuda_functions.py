"""What kernels/cuda.py computes, held on a CPU against the plain code and the plain float64 forms."""

import itertools
import math

import pytest
import torch

from optimizers import kernels, registry
from optimizers.engine.direction import Direction
from optimizers.engine.stack import gradient_dtype
from optimizers.engine.weights import subtract_stacked
from optimizers.functional import history
from optimizers.functional.moments import unit_momentum
from optimizers.functional.moving_basis import followed_basis, left_out
from optimizers.functional.newton_schulz import CUBIC, newton_schulz
from optimizers.functional.residual import residual_sumsq
from optimizers.functional.scaling import fixed_point, reference_fixed_point
from optimizers.functional.subspace import leading_left_singular_vectors, project
from optimizers.kernels import cuda

from .conftest import cuda_functions
from .harness import SHAPES, largest_difference, options_of, parameters, reference, train

EPS = torch.finfo(torch.float32).eps


def drawn(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_method_follows_its_plain_form(name, dtype):
    cls, start = registry.get(name)[0], parameters(dtype=dtype)
    expected = reference(cls, start, options_of(name), range(1, 10), 0.01)
    with cuda_functions():
        moved = train(cls(start, lr=0.01, **options_of(name)), range(1, 10))
    limit = cls.traits.reference_tolerance if dtype == torch.float64 else 5e-4
    assert largest_difference(moved, expected) <= max(limit, cls.traits.reference_tolerance)


@pytest.mark.parametrize("name", registry.names())
def test_bfloat16_steps_are_as_far_from_float64_as_the_plain_code(name):
    cls, distances = registry.get(name)[0], []
    for form in (kernels.disabled, cuda_functions):
        start = parameters([(16, 24), (24, 16)] * 2 + SHAPES[2:], dtype=torch.bfloat16, scale=0.02)
        expected = reference(cls, start, options_of(name), range(1, 6), 0.01)
        with form():
            moved = train(cls(start, lr=0.01, **options_of(name)), range(1, 6))
        distances.append(sum((a.double() - b).square().sum() for a, b in zip(moved, expected, strict=True)).sqrt())
    assert distances[1] <= 1.02 * distances[0]


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("iterations", [1, 5])
def test_scales_of_rows_and_columns_at_any_size(scale, iterations):
    squares = scale * drawn(3, 6, 9).square()
    squares[1] = 0.0
    with cuda_functions():
        columns, rows = fixed_point(squares.float(), iterations)
    for i, P in enumerate(squares):
        s, q = reference_fixed_point(P, iterations)
        assert torch.allclose(columns[i].double(), s, rtol=1e-5, atol=0)
        assert torch.allclose(rows[i].double(), q, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("smallest", [1e-2, 1e-6])
def test_singular_vectors_without_an_svd(smallest, scale):
    """Against float64's, at singular values in equal ratios. An eigenproblem in float32 would lose those below 3e-4."""
    m, n, rank = 24, 40, 12
    left, right = torch.linalg.qr(drawn(2, m, m)).Q, torch.linalg.qr(drawn(2, n, m)).Q
    matrix = (scale * (left * torch.logspace(0, math.log10(smallest), m, dtype=torch.float64)) @ right.mT).float()
    expected = torch.linalg.svd(matrix.double()).U[..., :rank]
    svd = leading_left_singular_vectors(matrix, rank)
    with cuda_functions():
        got = leading_left_singular_vectors(matrix, rank)
    assert got.dtype == torch.float32 and got.shape == (2, m, rank)
    assert (got.mT @ got - torch.eye(rank)).abs().max() < 1e-6
    errors = [1 - (each.double() * expected).sum(-2).abs() for each in (got, svd)]
    assert errors[0].max() <= max(errors[1].max(), 1e-7)


def test_singular_vectors_of_float64_and_of_no_gradient():
    assert cuda.leading_left_singular_vectors(drawn(1, 4, 6), 2) is NotImplemented  # squares would lose half the digits
    basis = cuda.leading_left_singular_vectors(torch.zeros(2, 4, 6), 3)
    assert torch.allclose(basis.mT @ basis, torch.eye(3))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_residual_of_a_rounded_basis(share):
    """Against G - k U U^T G formed in float64. A basis taken for orthonormal would be off by its rounding, 1e-3."""
    basis = torch.linalg.qr(drawn(2, 96, 32)).Q.bfloat16().float()
    gradient = drawn(2, 96, 200, dtype=torch.float32)
    gradient[..., 7] = basis[..., 3]  # almost nothing of it is outside at share 1
    sigma = basis.mT @ gradient
    sums = [matrix.square().sum(-2) for matrix in (gradient, sigma)]
    with cuda_functions():
        got = residual_sumsq(sums[0], basis, sigma, sums[1], share, rounded=True)
    exact = basis.double()
    direct = (gradient.double() - share * exact @ (exact.mT @ gradient.double())).square().sum(-2)
    assert ((got - direct).abs() / sums[0]).max() < 16 * EPS


@pytest.mark.parametrize("shape", [(2, 48, 64), (2, 64, 64)])
@pytest.mark.parametrize("by_columns", [False, True])
def test_iterations_whose_polynomial_is_on_the_small_side(shape, by_columns):
    """In bfloat16 they stay where they were: joined with a, the small terms would lose their digits."""
    matrix = drawn(*shape)
    matrix /= matrix.norm(dim=(-2, -1), keepdim=True)
    matrix = matrix.mT.contiguous().mT if by_columns else matrix
    for coefficients, steps in ((CUBIC, 10), ((3.4445, -4.7750, 2.0315), 5)):
        with kernels.disabled():
            exact = newton_schulz(matrix.clone(), coefficients, steps)
            rounded = newton_schulz(matrix.bfloat16(), coefficients, steps)
        assert torch.allclose(
            cuda.newton_schulz_iterations(matrix.clone(), coefficients, steps), exact, rtol=0, atol=1e-12
        )
        again = cuda.newton_schulz_iterations(matrix.bfloat16(), coefficients, steps)
        assert (again.double() - exact).norm() < 1.05 * (rounded.double() - exact).norm()


@pytest.mark.parametrize("present", [p for p in itertools.product([False, True], repeat=4) if any(p)], ids=str)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_direction_is_subtracted(present, by_columns, dtype):
    m, n, k = 6, 9, 2
    gradient = drawn(3, n, m, dtype=torch.float32).mT if by_columns else drawn(3, m, n, dtype=torch.float32)
    rows, columns, product, dense = present
    direction = Direction(
        rows=drawn(3, m, 1, dtype=torch.float32) if rows else None,
        columns=drawn(3, 1, n, dtype=torch.float32) if columns else None,
        left=drawn(3, m, k, dtype=torch.float32) if product else None,
        right=drawn(3, k, n, dtype=torch.float32) if product else None,
        dense=drawn(3, m, n + 1, dtype=torch.float32)[..., :n] if dense else None,
    )
    whole = torch.zeros(3, m, n, dtype=torch.float64)
    if rows or columns:
        scaled = gradient.double() * (direction.rows if rows else 1)
        whole += scaled * (direction.columns if columns else 1)
    whole += direction.left.double() @ direction.right.double() if product else 0
    whole += direction.dense if dense else 0
    kept = gradient.clone()
    weights = [weight.clone() for weight in drawn(3, m, n, dtype=dtype).unbind()]
    expected = [weight.double() - 0.1 * change for weight, change in zip(weights, whole, strict=True)]
    with cuda_functions():
        formed = direction.formed(gradient)
        subtract_stacked(gradient, weights, *direction[:-1], 0.1)
    assert torch.allclose(formed.double(), whole, rtol=1e-5, atol=1e-5)
    assert formed.stride() == gradient.stride() or not product
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5  # half of the distance between two bfloat16 numbers
    for weight, each in zip(weights, expected, strict=True):
        assert torch.allclose(weight.double(), each, rtol=rounding, atol=1e-5)
    assert torch.equal(gradient, kept)


def test_a_single_projection_has_the_order_of_its_gradient():
    basis, gradient = drawn(1, 9, 4), drawn(1, 12, 9).mT
    with cuda_functions():
        assert project(basis, gradient).stride() == basis.new_empty(1, 12, 4).mT.stride()
        assert torch.allclose(project(basis, gradient), basis.mT @ gradient)


def test_a_history_in_few_digits_is_converted_in_pieces(monkeypatch):
    held, weights = drawn(2, 5, 700, dtype=torch.bfloat16), drawn(2, 5, dtype=torch.float32)
    whole = history.products_with_row(held, 3, torch.float32), history.combined_rows(held, weights)
    monkeypatch.setattr(history, "PIECE", 2 * 5 * 99)
    pieces = history.products_with_row(held, 3, torch.float32), history.combined_rows(held, weights)
    assert torch.allclose(whole[0], pieces[0], rtol=1e-5) and torch.allclose(whole[1], pieces[1], rtol=1e-5)
    assert torch.allclose(whole[0].double(), (held.double() @ held[:, 3].double().unsqueeze(-1)).squeeze(-1), rtol=1e-5)


def test_moments_of_another_dtype_where_torch_has_no_kernel_for_them(monkeypatch):
    """Fused Adam of float32 gradients and bfloat16 moments is new, and CUDA's alone."""
    cuda._fused_adam_takes.cache_clear()
    sigma, moments = drawn(2, 4, 8, dtype=torch.float32), [torch.zeros(2, 4, 8, dtype=torch.bfloat16) for _ in range(2)]
    monkeypatch.setattr(torch, "_fused_adam_", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such dtype")))
    assert cuda.adam_moments(sigma, *moments, (0.9, 0.999), 1e-8) is NotImplemented
    cuda._fused_adam_takes.cache_clear()


WIDE = [(256, 261), (261, 256)]  # large enough for a gradient to stay narrow, and not of whole blocks of 8
TINY = {"muon": {"eps": 1e-30}}
NARROW = [name for name in registry.names() if registry.get(name)[0].traits.takes_narrow]


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shapes", [WIDE, WIDE * 2], ids=["single", "stacks"])
@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_narrow_gradients_keep_a_step_as_close_to_float64(name, shapes, lr, monkeypatch):
    """Also where it is the update that is rounded, and not the weight."""
    cls, distances, dtypes = registry.get(name)[0], [], set()
    update = cls.update
    monkeypatch.setattr(cls, "update", lambda self, G, *args: (dtypes.add(G.dtype), update(self, G, *args))[1])
    for form in (kernels.disabled, cuda_functions):
        start = parameters(shapes, dtype=torch.bfloat16, scale=0.02)
        expected = reference(cls, start, options_of(name), range(1, 4), lr)
        with form():
            moved = train(cls(start, lr=lr, **options_of(name)), range(1, 4))
        distances.append(sum((a.double() - b).square().sum() for a, b in zip(moved, expected, strict=True)).sqrt())
    assert dtypes == {torch.float32, torch.bfloat16}
    assert distances[1] <= 1.02 * distances[0]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_a_narrow_gradient_may_be_of_any_size_and_is_left_as_it_is(name, shape):
    """By powers of two, so that nothing is rounded otherwise."""
    moved = []
    for scale in (2.0**-50, 1.0, 2.0**50):
        weight = parameters([shape], dtype=torch.bfloat16)[0]
        start, weight.grad = weight.detach().clone(), drawn(*shape).mul(scale).bfloat16()
        kept = weight.grad.clone()
        with cuda_functions():
            registry.get(name)[0]([weight], lr=0.1, **options_of(name, **TINY.get(name, {}))).step()
        assert torch.equal(weight.grad, kept) and not torch.equal(weight, start)
        moved.append(weight.detach())
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[1], moved[2])


def test_small_matrices_and_other_methods_get_their_working_precision():
    for shape, takes, narrow in [((256, 300), True, True), ((255, 300), True, False), ((256, 300), False, False)]:
        with cuda_functions():
            got = gradient_dtype(torch.zeros(shape, dtype=torch.bfloat16), takes)
        assert got == (torch.bfloat16 if narrow else torch.float32)
    with cuda_functions():
        assert gradient_dtype(torch.zeros(256, 300), True) == torch.float32
        assert gradient_dtype(torch.zeros(256, 300, dtype=torch.float16), True) == torch.float32  # of too small a range
    assert gradient_dtype(torch.zeros(256, 300, dtype=torch.bfloat16), True) == torch.float32


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.95, 0.0])
@pytest.mark.parametrize("form", [kernels.disabled, cuda_functions])
def test_momentum_in_few_digits(form, momentum, nesterov):
    """Of gradients that float16 would take for zero."""
    held, mean, norm = torch.zeros(1, 256, 264, dtype=torch.bfloat16), 0.0, torch.linalg.matrix_norm
    for step in range(3):
        gradient = (1e-9 * drawn(1, 256, 264 + step)[..., :264]).bfloat16()
        before = held.double()
        mean = momentum * before + (1 - momentum) * gradient.double()
        ahead = momentum * mean + (1 - momentum) * gradient.double() if nesterov else mean
        given = gradient if form is cuda_functions else gradient.float()
        with form():
            unit = unit_momentum(given, held, momentum, 1e-20, nesterov=nesterov, dtype=torch.float16)
        assert unit.dtype == torch.float16
        assert norm(unit.double() - ahead / norm(ahead)) < 2**-10
        assert ((held.double() - mean).abs() <= 2**-8 * mean.abs() + 1e-15).all()  # a sum may cancel


@pytest.mark.parametrize("coefficients", [CUBIC, (3.4445, -4.7750, 2.0315)])
def test_iterations_in_float16_are_closer_than_in_bfloat16(coefficients):
    """Also where a few rows are most of a matrix, or singular values are spread over four decades."""
    gauss = drawn(64, 96)
    left, _, right = torch.linalg.svd(gauss, full_matrices=False)
    outlier = gauss.clone()
    outlier[:4] *= 1e4
    for matrix in (gauss, outlier, (left * torch.logspace(0, -4, 64, dtype=torch.float64)) @ right):
        matrix = (matrix / matrix.norm()).unsqueeze(0)
        with kernels.disabled():
            exact = newton_schulz(matrix.clone(), coefficients, 5)
            rounded = newton_schulz(matrix.bfloat16(), coefficients, 5)
        got = cuda.newton_schulz_iterations(matrix.half(), coefficients, 5)
        assert (got.double() - exact).norm() < 0.9 * (rounded.double() - exact).norm()


def test_a_moved_basis_and_what_it_leaves_out():
    """LDAdam's, from a basis that is rounded, against float64."""
    basis = torch.linalg.qr(drawn(2, 24, 6)).Q.bfloat16()
    total, first, sigma, carried = (drawn(2, *shape) for shape in ((24, 40), (6, 40), (6, 41), (6, 42)))
    sigma, carried = sigma[..., :40], carried[..., :40]
    found = []
    for form, dtype in ((kernels.disabled, torch.float64), (cuda_functions, torch.float32)):
        A, P_, m, s, c = (each.to(dtype, copy=True) for each in (total, basis, first, sigma, carried))
        with form():
            P, before = followed_basis(A, P_, m, 1.7, 0.1)
            rest = left_out(A.clone(), P_, s, c, before, 9.0)
            outside = left_out(A, P_, s, c, None, 9.0)
        found.append([each.double() for each in (P @ P.mT, rest, outside)])
    for expected, got in zip(*found, strict=True):
        assert torch.allclose(expected, got, rtol=1e-4, atol=1e-4)
