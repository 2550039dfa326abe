"""The kernels: when they are used, when they are not, and what they compute."""

import functools
import time
from types import SimpleNamespace

import pytest
import torch

from optimizers import kernels
from optimizers.functional.limiter import reference_limit
from optimizers.functional.moments import adam_moments, adam_moments_with_sumsq, adam_sumsq, column_sumsq
from optimizers.functional.newton_schulz import CUBIC, QUINTIC, newton_schulz_iterations
from optimizers.functional.residual import residual_scales
from optimizers.functional.subspace import project_with_sumsq
from optimizers.kernels.cpu import compiled, threads

compile_anew = compiled.compile_or_warn


def test_without_a_compiler_or_with_one_that_fails_torch_does_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert compile_anew("racs_scales.cpp") is None
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "/bin/false")
    with pytest.warns(UserWarning, match="racs_scales.cpp was not compiled"):
        assert compile_anew("racs_scales.cpp") is None
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_home_or_the_source_torch_does_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="missing.cpp was not compiled"):
        assert compile_anew("missing.cpp") is None
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled.Path, "home", homeless)
    with pytest.warns(UserWarning, match="home directory"):
        assert compile_anew("racs_scales.cpp") is None


def test_threads_that_ask_at_once_wait_for_one_compilation(monkeypatch, set_threads):
    calls = []

    def compile_slowly(source):
        calls.append(source)
        time.sleep(0.1)

    monkeypatch.setattr(compiled, "_kept", functools.cache(compile_slowly))
    set_threads(3)
    threads.for_each(compiled.library, [("racs_scales.cpp",)] * 6)
    assert calls == ["racs_scales.cpp"]


def test_only_plain_dense_matrices_by_rows_are_handed_over(monkeypatch):
    file = SimpleNamespace(sums_down_float=SimpleNamespace(), sums_down_double=SimpleNamespace())
    monkeypatch.setattr(compiled, "_declared", lambda loaded, symbol, signature: getattr(loaded, symbol))
    monkeypatch.setattr(compiled, "library", lambda source: file)  # whether there is a compiler or not
    matrix = torch.ones(4, 6)
    assert compiled.function("adam_moments.cpp", "sums_down", "ppppllll", matrix)
    assert compiled.function("adam_moments.cpp", "sums_down", "ppppllll", matrix.double())
    for other in (matrix.mT, matrix[:, ::2], matrix.bfloat16(), matrix.to("meta")):
        assert compiled.function("adam_moments.cpp", "sums_down", "ppppllll", other) is None
    assert compiled.function("adam_moments.cpp", "sums_down", "ppppllll", matrix, matrix.double()) is None


@pytest.mark.parametrize(("count", "used"), [(3, 1), (3, 2), (1, 2), (1, 5)])
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_moments_equal_the_formula(form, eps, by_columns, count, used, set_threads):
    def ordered(tensor):
        return tensor.mT.contiguous().mT if by_columns else tensor

    b1, b2 = 0.9, 0.99
    state = {key: ordered(torch.zeros(count, 5, 1100, dtype=torch.float64)) for key in ("exp_avg", "exp_avg_sq")}
    first, second = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
    set_threads(used)
    for step in range(4):
        source = torch.Generator().manual_seed(step)
        sigma = torch.randn(count, 5, 1100, generator=source, dtype=torch.float64)
        sigma[:, 2, 7] = 0.0
        got = adam_moments_with_sumsq(ordered(sigma), *state.values(), (b1, b2), eps)
        first, second = b1 * first + (1 - b1) * sigma, b2 * second + (1 - b2) * sigma**2
        expected = torch.where(second > 0, first / (second.sqrt() + eps), 0.0)
        assert (got.normalized - expected).abs().max() < 1e-13
        assert (got.sigma_sumsq - sigma.square().sum(1)).abs().max() < 1e-12
        assert (got.normalized_sumsq - expected.square().sum(1)).abs().max() < 1e-12
    assert (state["exp_avg"] - first).abs().max() < 1e-14
    assert (state["exp_avg_sq"] - second).abs().max() < 1e-14


def test_the_forms_of_the_moments_agree(form):
    """GaLore takes N alone, Fira and Alice the sums of squares too, APOLLO only these."""
    sigma = torch.randn(2, 4, 700, generator=torch.Generator().manual_seed(0))
    results = []
    for function in (adam_moments_with_sumsq, adam_moments, adam_sumsq):
        state = [torch.zeros(2, 4, 700) for _ in range(2)]
        results.append((function(sigma, *state, (0.9, 0.99), 1e-8), state))
    (whole, state), (normalized, same), (sums, again) = results
    assert torch.equal(normalized, whole.normalized)
    assert torch.equal(sums[0], whole.sigma_sumsq) and torch.equal(sums[1], whole.normalized_sumsq)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(state, same, again, strict=True))


def test_moments_whose_squares_underflow_are_finite(form):
    state = {key: torch.zeros(1, 2, 9) for key in ("exp_avg", "exp_avg_sq")}
    assert adam_moments(torch.full((1, 2, 9), 1e-30), *state.values(), (0.9, 0.999), 0.0).isfinite().all()


def test_slow_averages_keep_their_digits(form):
    """1 - b2 of a b2 that was rounded to float32 is off by 1e-3 of itself."""
    state = {key: torch.zeros(1, 4, 8) for key in ("exp_avg", "exp_avg_sq")}
    sigma = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    adam_moments(sigma, *state.values(), (0.9, 0.99999), 1e-8)
    expected = 1e-5 * sigma.double().square()
    assert ((state["exp_avg_sq"] - expected) / expected).abs().max() < 1e-6


def test_an_average_with_decay_zero_is_the_new_value(form):
    """mean + 1 (value - mean), in this order, would be 0 where value is less than the rounding of mean."""
    moments = {key: torch.ones(1, 2, 9) for key in ("exp_avg", "exp_avg_sq")}
    adam_moments(torch.full((1, 2, 9), 1e-5), *moments.values(), (0.0, 0.0), 1e-8)
    assert torch.allclose(moments["exp_avg"], torch.tensor(1e-5), rtol=1e-6, atol=0)
    assert torch.allclose(moments["exp_avg_sq"], torch.tensor(1e-10), rtol=1e-6, atol=0)
    average, sums = torch.ones(1, 3), [torch.full((1, 3), 1e-10), torch.zeros(1, 3), None]
    residual_scales(*sums, torch.zeros(1), 1.01, share=1.0, average=average, decay=0.0)
    assert torch.allclose(average, torch.tensor(1e-10), rtol=1e-6, atol=0)


@pytest.mark.parametrize("integers", [(0, 0.999), (0.9, 0)])
def test_options_may_be_whole_numbers(form, integers):
    """C passes integers and fractions in different registers, so an int must be converted on the way."""
    sigma = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for betas in (integers, tuple(map(float, integers))):
        state = {key: torch.zeros(1, 4, 8) for key in ("exp_avg", "exp_avg_sq")}
        for eps in (0, 1):
            results.append(adam_moments_with_sumsq(sigma, *state.values(), betas, eps).normalized_sumsq)
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


@pytest.mark.parametrize("used", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_sums_of_squares_keep_their_digits(form, transposed, used, set_threads):
    if form == "cuda":
        pytest.skip("a CPU's norm adds one row after the other, a GPU's adds many at once")
    set_threads(used)
    matrices = torch.randn(1, 3000, 70, generator=torch.Generator().manual_seed(0))
    sums = column_sumsq(matrices.mT.contiguous().mT if transposed else matrices)
    expected = matrices.double().square().sum(1)
    # What counts as a residual is eight units of rounding (numerics.above_rounding).
    assert ((sums - expected) / expected).abs().max() < 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("used", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_column_is_projected_in_the_pass_that_sums_squares(form, transposed, used, set_threads):
    set_threads(used)
    source = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 30, 700, generator=source, dtype=torch.float64)
    basis = torch.randn(4, 30, 1, generator=source, dtype=torch.float64)
    given = matrices.mT.contiguous().mT if transposed else matrices
    sigma, power = project_with_sumsq(basis, given)
    assert sigma.shape == (4, 1, 700) and (sigma - basis.mT @ matrices).abs().max() < 1e-13
    assert (power - matrices.square().sum(1)).abs().max() < 1e-12


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("eps", "size", "strength"), [(0.0, 3.0, 1.5), (1e-2, 1.0, 1.0)])
def test_columns_of_a_residual_are_scaled_as_a_matrix_is(form, averaged, share, eps, size, strength):
    source = torch.Generator().manual_seed(0)
    draw = {"generator": source, "dtype": torch.float64}
    U, phi, expected_phi = torch.linalg.qr(torch.randn(3, 8, 2, **draw)).Q, torch.zeros(3).double(), [0.0] * 3
    average, p = torch.zeros(3, 700).double(), torch.zeros(3, 700).double()
    for growth in (0.0, 1.0, 1.005, 5.0, 0.1):
        G, N = growth * torch.randn(3, 8, 700, **draw), torch.randn(3, 2, 700, **draw)
        G[:, :, 5] = 0.0
        G[:, :, 6] = U[:, :, 0]  # no residual at share 1
        sigma = U.mT @ G
        sums = (matrix.square().sum(1) for matrix in (G, sigma, N))
        options = {"average": average, "decay": 0.9} if averaged else {}
        got = residual_scales(*sums, phi, 1.01, share=share, eps=eps, size=size, strength=strength, **options)
        R = G - share * U @ sigma
        R[:, :, 6] = 0.0 if share == 1 else R[:, :, 6]
        p = 0.9 * p + 0.1 * R.square().sum(1)
        f = p.rsqrt() if averaged else N.norm(dim=1) / (sigma.norm(dim=1) + eps)
        f = torch.where(R.square().sum(1) > 0, f, 0.0)
        for b in range(3):
            eta, expected_phi[b] = reference_limit((size * R[b] * f[b]).norm().item(), expected_phi[b], 1.01, eps)
            assert torch.allclose(got[b], strength * eta * f[b], rtol=1e-10, atol=0)
            assert phi[b].item() == pytest.approx(expected_phi[b], rel=1e-12)
        assert not averaged or torch.allclose(average, p, rtol=1e-10, atol=1e-30)


@pytest.mark.parametrize("place", range(3))
def test_nan_is_not_scaled_away(form, place):
    sums = [torch.ones(1, 3) for _ in range(3)]
    sums[place][0, 1] = float("nan")
    phi = torch.ones(1)
    assert residual_scales(*sums, phi, 1.01, share=0.0)[0, 1].isnan() and phi.isnan().all()


def test_squares_that_overflow_are_not_scaled_away(form):
    phi = torch.ones(1)
    residual_scales(torch.full((1, 3), float("inf")), torch.ones(1, 3), torch.ones(1, 3), phi, 1.01, share=0.0)
    assert not phi.isfinite().any()


def test_a_changed_average_is_noticed_by_autograd(form):
    state = {key: torch.zeros(1, 2, 3) for key in ("exp_avg", "exp_avg_sq")}
    versions = [tensor._version for tensor in state.values()]
    adam_moments(torch.ones(1, 2, 3), *state.values(), (0.9, 0.999), 1e-8)
    assert all(tensor._version > version for tensor, version in zip(state.values(), versions, strict=True))


@pytest.mark.parametrize("coefficients", [QUINTIC, CUBIC])
@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 5, 9), (1, 7, 7)])
@pytest.mark.parametrize("by_columns", [False, True])
def test_newton_schulz_equals_its_plain_form(coefficients, shape, by_columns):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix /= matrix.norm(dim=(-2, -1), keepdim=True)
    given = matrix.mT.contiguous().mT if by_columns else matrix.clone()
    for steps in (0, 1, 2, 5):
        with kernels.disabled():
            expected = newton_schulz_iterations(matrix, coefficients, steps)
        found = newton_schulz_iterations(given.clone(), coefficients, steps)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
