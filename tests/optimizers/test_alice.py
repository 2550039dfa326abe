"""Alice: Alg. 2-4 and 10, its options, and the mistakes of public re-implementations."""

import typing

import pytest
import torch

from optimizers import Alice, registry

from .harness import gradient, largest_difference, options_of, parameters, reference, train

COMPENSATION, SWITCHING = (
    typing.get_args(registry.options("alice")[option].annotation) for option in ("compensation", "switching")
)

pytestmark = pytest.mark.usefixtures("form")

RUNNABLE = [
    (switching, compensation)
    for switching in SWITCHING
    for compensation in COMPENSATION
    if not switching.startswith("gaussian") or compensation == "none"
]


@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize(("switching", "compensation"), RUNNABLE)
def test_every_switch_equals_its_plain_form(switching, compensation, tracking):
    options = options_of("alice", switching=switching, compensation=compensation, tracking=tracking)
    weights = parameters()
    expected = reference(Alice, weights, options, range(1, 10), lr=0.02)
    assert largest_difference(train(Alice(weights, lr=0.02, **options), range(1, 10)), expected) < 1e-9


@pytest.mark.parametrize("switching", SWITCHING)
@pytest.mark.parametrize("rank", [8, 20])
def test_full_rank_equals_the_plain_form_for_every_switch(switching, rank):
    options = options_of("alice", switching=switching, compensation="none", rank=rank, leading=3)
    weights = parameters([(8, 12), (12, 8), (8, 8)])
    expected = reference(Alice, weights, options, range(1, 8), lr=0.02)
    assert largest_difference(train(Alice(weights, lr=0.02, **options), range(1, 8)), expected) < 1e-9


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e6])
@pytest.mark.parametrize("compensation", ["optimal", "fira", "fira_plus", "two_sided"])
def test_trajectory_does_not_depend_on_the_gradients_scale(scale, compensation):
    options = options_of("alice", compensation=compensation)
    plain = train(Alice(parameters(dtype=torch.float32), **options), range(1, 8))
    scaled = train(Alice(parameters(dtype=torch.float32), **options), range(1, 8), scale=scale)
    assert largest_difference(plain, scaled) < 2e-4


def test_basis_is_orthonormal_and_begins_with_leading_eigenvectors():
    weight = parameters([(24, 16)])[0]
    optimizer = Alice([weight], rank=6, leading=2)
    train(optimizer, range(1, 2))
    basis = optimizer.state[weight]["basis"]
    assert basis.shape == (16, 6)
    assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64), atol=1e-12)
    left = torch.linalg.svd(gradient((24, 16), 1, 0).T).U
    assert torch.allclose((basis[:, :2] * left[:, :2]).sum(0).abs(), torch.ones(2, dtype=torch.float64))
    # The drawn columns are in the complement of all six leading vectors, not only of the two that were kept.
    assert (left[:, :6].T @ basis[:, 2:]).abs().max() < 1e-10


def test_drawn_columns_are_spread_over_the_whole_complement():
    """Not its first columns: over many draws every direction of the complement is taken as often."""
    m, r, leading = 12, 4, 1
    weight = torch.nn.Parameter(torch.zeros(m, 20, dtype=torch.float64))
    energy = torch.zeros(m, dtype=torch.float64)
    draws = 200
    for seed in range(draws):
        optimizer = Alice([weight], lr=0.0, rank=r, leading=leading, seed=seed)
        weight.grad = gradient((m, 20), 1, 0)
        optimizer.step()
        left = torch.linalg.svd(weight.grad).U
        drawn = optimizer.state[weight]["basis"][:, leading:]
        energy += (left.T @ drawn).square().sum(1)
    share = energy[r:] / draws
    assert energy[:r].max() < 1e-9
    expected = (r - leading) / (m - r)
    assert (share - expected).abs().max() < 0.35 * expected


def test_refreshes_at_one_and_at_multiples_of_the_interval():
    weight = parameters([(16, 24)])[0]
    optimizer = Alice([weight], rank=6, leading=2, update_interval=4)
    changed = []
    previous = torch.zeros(16, 6, dtype=torch.float64)
    for step in range(1, 10):
        train(optimizer, range(step, step + 1))
        basis = optimizer.state[weight]["basis"]
        if not torch.equal(basis, previous):
            changed.append(step)
        previous = basis.clone()
    assert changed == [1, 4, 8]


def test_weights_move_between_refreshes():
    weight = parameters([(16, 24)])[0]
    optimizer = Alice([weight], rank=6, leading=2, update_interval=100)
    for step in range(1, 5):
        before = weight.detach().clone()
        train(optimizer, range(step, step + 1))
        assert (weight - before).norm() > 1e-4


def test_columns_keep_their_sign_over_a_refresh():
    weight = parameters([(16, 24)])[0]
    optimizer = Alice([weight], rank=6, leading=6, update_interval=2, switching="none", alpha=0.0)
    train(optimizer, range(1, 2))
    old = optimizer.state[weight]["basis"].clone()
    weight.grad = gradient((16, 24), 1, 0)
    optimizer.step()
    new = optimizer.state[weight]["basis"]
    assert torch.allclose(new, old, atol=1e-6)


def test_seed_draws_other_columns_and_matrices_draw_their_own():
    bases = {}
    for seed in (0, 1):
        weights = parameters([(16, 24), (16, 24)])
        optimizer = Alice(weights, rank=6, leading=2, seed=seed)
        for weight in weights:
            weight.grad = gradient((16, 24), 1, 0)
        optimizer.step()
        bases[seed] = [optimizer.state[weight]["basis"] for weight in weights]
    assert not torch.allclose(bases[0][0], bases[1][0])
    assert not torch.allclose(bases[0][0], bases[0][1])


@pytest.mark.parametrize("basis_dtype", ["parameter", "float32"])
def test_bfloat16_keeps_the_digits_of_tracking_and_residual(basis_dtype):
    """A bfloat16 basis is orthonormal only to its own rounding, which is larger than the residual."""
    weight = parameters([(16, 24)], torch.bfloat16)[0]
    optimizer = Alice([weight], rank=12, leading=12, switching="none", basis_dtype=basis_dtype)
    # Nearly all of the gradient is in the basis; the residual has a share of about 1e-4.
    weight.grad = (gradient((16, 24), 1, 0) * torch.tensor([1.0] * 12 + [0.03] * 4)[:, None]).bfloat16()
    optimizer.step()
    state = optimizer.state[weight]
    assert state["basis"].dtype == (torch.bfloat16 if basis_dtype == "parameter" else torch.float32)
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    assert state["tracked"].dtype == state["residual_sumsq"].dtype == torch.float32
    basis, g = state["basis"].double(), weight.grad.double()
    residual = (g - basis @ (basis.T @ g)).square().sum(0)
    share = residual / g.square().sum(0)
    assert share.max() < 0.01  # where the naive difference is off by more than the residual itself
    assert torch.allclose(state["residual_sumsq"].double(), 0.1 * residual, rtol=0, atol=1e-6 * g.square().sum(0).max())


def test_gradient_inside_the_basis_has_no_compensation():
    weight = torch.nn.Parameter(torch.zeros(16, 24))
    optimizer = Alice([weight], rank=6, leading=6, alpha_c=1e3, lr=1.0)
    low_rank = (gradient((16, 3), 1, 0) @ gradient((3, 24), 1, 1)).float()
    for _ in range(5):
        weight.grad = low_rank
        optimizer.step()
    assert weight.isfinite().all()
    assert weight.abs().max() < 10


def test_state_is_what_table_3_counts():
    weight = parameters([(40, 16)], torch.bfloat16)[0]
    optimizer = Alice([weight], rank=6, leading=2)
    optimizer.allocate_state()
    m, n, r = 16, 40, 6
    tensors = [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)]
    in_parameter_dtype = sum(v.numel() for v in tensors if v.dtype == torch.bfloat16)
    in_float32 = sum(v.numel() for v in tensors if v.dtype == torch.float32)
    assert in_parameter_dtype == 2 * r * n + m * r
    assert in_float32 == r * r + n + 1


def test_impossible_combinations_are_refused():
    with pytest.raises(ValueError, match=r"^leading must not exceed rank 4, got 5"):
        Alice(parameters(), rank=4, leading=5)
    with pytest.raises(ValueError, match=r"^switching=gaussian .* compensation=none"):
        Alice(parameters(), switching="gaussian")
    with pytest.raises(ValueError, match=r"^compensation must be one of"):
        Alice(parameters(), compensation="best")
    with pytest.raises(ValueError, match=r"^betas must be 3 numbers"):
        Alice(parameters(), betas=(0.9, 0.99))


@pytest.mark.parametrize("ratio", [1e-5, 1e-6, 1e-7, 1e-8])
@pytest.mark.parametrize("compensation", [name for name in COMPENSATION if name != "none"])
def test_a_tiny_column_does_not_overflow(compensation, ratio):
    """1 / p reaches the largest float32 where the residual's sum of squares is near the smallest."""
    weight = torch.nn.Parameter(torch.zeros(400, 500))
    optimizer = Alice([weight], rank=8, leading=4, update_interval=2, compensation=compensation)
    source = torch.Generator().manual_seed(0)
    for _ in range(4):
        weight.grad = 1e-12 * torch.randn(400, 500, generator=source)
        weight.grad[:, 3] *= ratio
        optimizer.step()
        assert weight.isfinite().all()
