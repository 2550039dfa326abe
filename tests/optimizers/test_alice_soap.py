"""AliceSOAP: its switches against the plain form, and what is true of it alone."""

import math
import typing

import pytest
import torch
from torch import Tensor

from optimizers import AliceSOAP, registry

from .harness import gradient, largest_difference, options_of, parameters, reference, train

MOMENTS, COMPENSATION = (
    typing.get_args(registry.options("alice_soap")[option].annotation) for option in ("moments", "compensation")
)
SCALES = {"two_sided": {}, "projected": {"project": True}, "blocks": {"compensation": "blocks"},
          "scalar": {"compensation": "scalar"}}  # fmt: skip

every_form = pytest.mark.usefixtures("form")


def trained(steps: int, shape=(16, 24), dtype=torch.float64, **options) -> tuple[Tensor, dict]:
    """The weight after `steps` of options_of, and its state."""
    weight = parameters([shape], dtype)[0]
    optimizer = AliceSOAP([weight], **options_of("alice_soap", **options))
    train(optimizer, range(1, steps + 1))
    return weight.detach(), optimizer.state[weight]


@every_form
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("compensation", COMPENSATION)
def test_every_switch_equals_its_plain_form(moments, compensation):
    options = options_of("alice_soap", moments=moments, compensation=compensation)
    weights = parameters()
    expected = reference(AliceSOAP, weights, options, range(1, 10), lr=0.02)
    assert largest_difference(train(AliceSOAP(weights, lr=0.02, **options), range(1, 10)), expected) < 1e-9


@pytest.mark.parametrize("changes", [{"switching": "none"}, {"tracking": False}, {"stagger": True}], ids=str)
def test_every_switch_of_the_bases_equals_its_plain_form(changes):
    options = options_of("alice_soap", moments="centred", **changes)
    weights = parameters()
    expected = reference(AliceSOAP, weights, options, range(1, 10), lr=0.02)
    assert largest_difference(train(AliceSOAP(weights, lr=0.02, **options), range(1, 10)), expected) < 1e-9


@pytest.mark.parametrize("rank", [6, 8, 20])
@pytest.mark.parametrize("options", SCALES.values(), ids=SCALES)
def test_rank_up_to_the_smaller_side_equals_the_plain_form(options, rank):
    """A rank of m leaves one block outside; a square matrix then has nothing outside."""
    options = options_of("alice_soap", rank=rank, moments="centred", **options)
    weights = parameters([(8, 12), (12, 8), (8, 8)])
    expected = reference(AliceSOAP, weights, options, range(1, 8), lr=0.02)
    assert largest_difference(train(AliceSOAP(weights, lr=0.02, **options), range(1, 8)), expected) < 1e-9


@every_form
@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e6])
@pytest.mark.parametrize("options", SCALES.values(), ids=SCALES)
def test_trajectory_does_not_depend_on_the_gradients_scale(scale, options):
    options = options_of("alice_soap", **options)
    plain = train(AliceSOAP(parameters(dtype=torch.float32), **options), range(1, 8))
    scaled = train(AliceSOAP(parameters(dtype=torch.float32), **options), range(1, 8), scale=scale)
    assert largest_difference(plain, scaled) < 2e-4


def test_the_first_step_sets_bases_and_grams_alone():
    weight, state = trained(1, leading=6)
    assert torch.equal(weight, parameters([(16, 24)])[0])
    U, V, G = state["basis"], state["right_basis"], gradient((16, 24), 1, 0)
    left, values, right = torch.linalg.svd(G)
    # The six leading singular vectors of either side: r - l = 0 columns are drawn.
    for basis, vectors in ((U, left), (V, right.T)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=G.dtype), atol=1e-12, rtol=0)
        torch.testing.assert_close((basis * vectors[:, :6]).sum(0).abs(), torch.ones(6, dtype=G.dtype))
    for tracked in ("tracked", "right_tracked"):
        torch.testing.assert_close(state[tracked], 0.001 * values[:6].square().diag(), atol=1e-12, rtol=1e-9)
    assert not any(state[key].any() for key in ("exp_avg", "exp_avg_sq", "column_scale", "row_scale", "phi"))


def test_columns_of_both_bases_are_drawn_from_their_complements():
    _, state = trained(1, leading=2)
    left, _, right = torch.linalg.svd(gradient((16, 24), 1, 0))
    for basis, vectors in ((state["basis"], left), (state["right_basis"], right.T)):
        assert (vectors[:, :6].T @ basis[:, 2:]).abs().max() < 1e-10
        torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=basis.dtype), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("basis_dtype", "rounding"), [("parameter", 2**-7), ("float32", 1e-5)])
def test_wide_bases_of_bfloat16_weights_are_orthonormal_to_float32(basis_dtype, rounding):
    _, state = trained(7, dtype=torch.bfloat16, basis_dtype=basis_dtype)
    for basis in (state["basis"].double(), state["right_basis"].double()):
        error = (basis.T @ basis - torch.eye(6, dtype=basis.dtype)).abs().max()
        assert rounding / 1000 < error < rounding
    assert state["exp_avg"].dtype == torch.bfloat16


def test_moments_follow_the_bases_where_they_are_asked_to():
    """A refresh at full rank on both sides: U m V^T stays the same matrix, and with `keep` it does not."""
    held = {}
    for moments in MOMENTS:
        weight = parameters([(8, 8)])[0]
        options = options_of("alice_soap", rank=8, update_interval=3, moments=moments)
        optimizer = AliceSOAP([weight], **options)
        train(optimizer, range(1, 4))
        state = optimizer.state[weight]
        held[moments] = state["basis"] @ state["exp_avg"] @ state["right_basis"].T
    mean = 0.9 * 0.1 * gradient((8, 8), 2, 0) + 0.1 * gradient((8, 8), 3, 0)
    torch.testing.assert_close(held["rotate"], mean)
    torch.testing.assert_close(held["centred"], mean)
    assert (held["keep"] - mean).norm() > 0.1 * mean.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{"compensation": "none"}, *SCALES.values()], ids=["none", *SCALES])
def test_a_gradient_between_the_bases_has_no_compensation(options, dtype):
    """What is left of it is rounding, which the scales would raise to full size. In bfloat16 it is that of the
    bases."""
    source = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(k, 12, generator=source, dtype=torch.float64)).Q for k in (100, 150))
    weight = torch.nn.Parameter(torch.zeros(100, 150, dtype=dtype))
    optimizer = AliceSOAP([weight], lr=1.0, rank=12, leading=12, alpha_c=1e3, update_interval=3, **options)
    for _ in range(7):
        inner = torch.eye(12, dtype=torch.float64) + 0.1 * torch.randn(12, 12, generator=source, dtype=torch.float64)
        weight.grad = (left @ inner @ right.T).to(dtype)
        optimizer.step()
    assert weight.isfinite().all()
    moved = weight.detach().double()
    assert (moved - left @ left.T @ moved @ right @ right.T).norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("options", SCALES.values(), ids=SCALES)
def test_a_row_and_a_column_of_rounding_stay_small(options):
    """A row that is 1e-9 of the others is not raised to their size. It may move as part of a drawn column."""
    weight = torch.nn.Parameter(torch.zeros(40, 60))
    optimizer = AliceSOAP([weight], lr=1.0, rank=8, leading=8, alpha=1.0, alpha_c=1.0, **options)
    source = torch.Generator().manual_seed(0)
    for _ in range(4):
        weight.grad = torch.randn(40, 60, generator=source)
        weight.grad[3] *= 1e-9
        weight.grad[:, 5] *= 1e-9
        optimizer.step()
    sizes = weight.detach()
    assert sizes[3].norm() < 1e-4 * sizes[4].norm() and sizes[:, 5].norm() < 1e-4 * sizes[:, 6].norm()


def test_zero_gradients_wait_and_later_leave_the_moments_to_move():
    weight = parameters([(16, 24)])[0]
    optimizer = AliceSOAP([weight], **options_of("alice_soap"))

    def moved(grad: Tensor) -> float:
        before, weight.grad = weight.detach().clone(), grad
        optimizer.step()
        return (weight - before).norm().item()

    nothing = torch.zeros(16, 24, dtype=torch.float64)
    assert moved(nothing) == moved(nothing) == 0 and optimizer.state[weight]["step"] == 0
    assert moved(gradient((16, 24), 1, 0)) == 0 and optimizer.state[weight]["step"] == 1
    assert moved(gradient((16, 24), 2, 0)) > 0.01 and moved(nothing) > 0.01


def test_nan_comes_through():
    weight = parameters([(16, 24)])[0]
    for options in SCALES.values():
        optimizer = AliceSOAP([weight], **options_of("alice_soap", update_interval=100, **options))
        train(optimizer, range(1, 3))
        weight.grad[0, 0] = math.nan
        optimizer.step()
        assert weight.isnan().any()
        weight.data = parameters([(16, 24)])[0].data


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"^leading must not exceed rank 4, got 5"):
        AliceSOAP(parameters(), rank=4, leading=5)
    with pytest.raises(ValueError, match=r"^project needs compensation=two_sided, got 'blocks'"):
        AliceSOAP(parameters(), project=True, compensation="blocks")
    with pytest.raises(ValueError, match=r"^switching must be one of complement, none, got 'gaussian'"):
        AliceSOAP(parameters(), switching="gaussian")


@pytest.mark.parametrize(("options", "wide"), [
    ({}, 16 + 40 + 1), ({"compensation": "blocks"}, 2 * 6 + 2), ({"compensation": "scalar"}, 2),
    ({"compensation": "none"}, 0), ({"compensation": "none", "basis_dtype": "float32"}, 6 * (16 + 40)),
], ids=["two_sided", "blocks", "scalar", "none", "wide bases"])  # fmt: skip
def test_state_is_what_the_formula_counts(options, wide):
    """r (m + n) + 4 r^2 numbers and the compensation's. In float32 are 2 r^2, the compensation's, and the bases where
    that is asked."""
    weight = parameters([(40, 16)], torch.bfloat16)[0]
    optimizer = AliceSOAP([weight], rank=6, leading=2, **options)
    optimizer.allocate_state()
    tensors = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    m, n, r = 16, 40, 6
    narrow = 2 * r * r + (0 if "basis_dtype" in options else r * (m + n))
    assert sum(each.numel() for each in tensors if each.dtype == torch.bfloat16) == narrow
    assert sum(each.numel() for each in tensors if each.dtype == torch.float32) == 2 * r * r + wide
