"""LDAdam: its error, its moments when the basis moves, its first step, and the limit of full rank."""

import pytest
import torch

from optimizers import Adam, LDAdam

from .harness import gradient, largest_difference, options_of, parameters, reference, train

STEPS = range(1, 9)


@pytest.mark.parametrize(
    "changes",
    [{"error_feedback": False}, {"rho": 0.0}, {"betas": (0.0, 0.9)}, {"rank": 3, "eps": 1e-3, "weight_decay": 0.2}],
)
def test_equals_its_plain_form(changes):
    options = options_of("ldadam", **changes)
    expected = reference(LDAdam, parameters(), options, STEPS, lr=0.02)
    assert largest_difference(train(LDAdam(parameters(), lr=0.02, **options), STEPS), expected) < 1e-8


def test_in_a_basis_that_does_not_move_it_is_adam_there():
    """Gradients of one row alone: a basis of one column is that row from the first step on."""
    weight, twin = (torch.nn.Parameter(torch.zeros(8, 20, dtype=torch.float64)) for _ in range(2))
    ours, adam = LDAdam([weight], lr=0.02, rank=1), Adam([twin], lr=0.02, betas=(0.908, 0.99))
    for step in STEPS:
        weight.grad = torch.zeros(8, 20, dtype=torch.float64)
        weight.grad[2] = gradient((1, 20), step, 0)[0]
        twin.grad = weight.grad.clone()
        ours.step(), adam.step()
    assert torch.allclose(weight, twin, rtol=0, atol=1e-9)
    assert ours.state[weight]["error"].abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (8, 8)])
def test_what_the_basis_leaves_out_comes_back(shape):
    """Nothing is lost: errors and momentum together are the sum of all gradients and momenta that were applied.

    With E the error and m the momentum, E_t + b1 / (1 - b1) P m = sum of G - sum of P m / (1 - b1) over the steps.
    """
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer, beta1 = LDAdam([weight], rank=3), 0.908
    given = applied = torch.zeros(min(shape), max(shape), dtype=torch.float64)
    for step in STEPS:
        G = gradient(shape, step, 0)
        weight.grad = G.clone()
        optimizer.step()
        state = optimizer.state[weight]
        momentum = state["basis"] @ state["exp_avg"]
        given = given + (G.T if shape[0] > shape[1] else G)
        applied = applied + momentum
        assert torch.allclose(state["error"] + beta1 / (1 - beta1) * momentum, given - applied, rtol=0, atol=1e-9)


def test_the_basis_is_orthonormal_and_follows_the_gradient():
    source = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(8, 2, generator=source, dtype=torch.float64)).Q
    weight = torch.nn.Parameter(torch.zeros(8, 20, dtype=torch.float64))
    optimizer = LDAdam([weight], rank=2)
    train(optimizer, range(1, 3), scale=0.01)
    for _ in range(60):
        weight.grad = U @ torch.randn(2, 20, generator=source, dtype=torch.float64)
        optimizer.step()
    basis = optimizer.state[weight]["basis"]
    assert torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (basis - U @ (U.T @ basis)).norm() < 1e-2


def test_nothing_happens_before_the_first_gradient_that_is_not_zero():
    waiting, fresh = parameters([(16, 24), (16, 24)]), parameters([(16, 24), (16, 24)])
    late = LDAdam(waiting, lr=0.02, rank=6, weight_decay=0.5)
    for step in range(3):
        waiting[0].grad = torch.zeros_like(waiting[0])
        waiting[1].grad = gradient((16, 24), step, 1)
        late.step()
    assert torch.equal(waiting[0], fresh[0])
    assert late.state[waiting[0]]["step"] == 0 and late.state[waiting[1]]["step"] == 3
    early = LDAdam([fresh[0]], lr=0.02, rank=6, weight_decay=0.5)
    for step in STEPS:
        waiting[1].grad = None
        waiting[0].grad, fresh[0].grad = gradient((16, 24), step, 0), gradient((16, 24), step, 0)
        late.step(), early.step()
    assert torch.equal(waiting[0], fresh[0])


def test_later_zero_gradients_leave_momentum_and_error_to_move():
    weight = parameters([(16, 24)])[0]
    optimizer = LDAdam([weight], lr=0.02, rank=3)
    train(optimizer, range(1, 4))
    for _ in range(3):
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        assert (weight - before).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [({}, torch.bfloat16), ({"error_dtype": "float32"}, torch.float32), ({"error_feedback": False}, None)],
)
def test_the_error_is_held_as_asked(changes, dtype):
    weight = parameters([(16, 24)], dtype=torch.bfloat16)[0]
    optimizer = LDAdam([weight], rank=3, **changes)
    optimizer.allocate_state()
    error = optimizer.state[weight].get("error")
    assert (None if error is None else error.dtype) == dtype
    assert error is None or error.shape == (16, 24)
