"""Methods that hold a full basis of one side or of both: Eigen-Adam, Shampoo and SOAP."""

import pytest
import torch

from optimizers import SOAP, EigenAdam, Shampoo, build

from .harness import SHAPES, gradient, largest_difference, options_of, parameters, reference, train


def rank_two(shape, step, scale=1.0):
    """A gradient of rank 2, as a layer sees that has met two tokens."""
    rows, columns = shape
    return scale * gradient((rows, 2), step, 0) @ gradient((2, columns), step, 1)


@pytest.mark.parametrize("cls", [EigenAdam, Shampoo, SOAP])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_rank_deficient_gradients_move_float32_as_they_move_float64(cls, scale):
    """Rounding in the empty directions is not divided by its own square, nor by eps."""
    weights = [[torch.nn.Parameter(torch.zeros(s, dtype=d)) for s in SHAPES] for d in (torch.float32, torch.float64)]
    for matrices in weights:
        optimizer = cls(matrices, lr=1.0, update_interval=1)
        for step in range(1, 7):
            for weight in matrices:
                weight.grad = rank_two(tuple(weight.shape), step, scale).to(weight.dtype)
            optimizer.step()
    for narrow, wide in zip(*weights, strict=True):
        assert narrow.isfinite().all()
        assert narrow.norm() < 1.5 * wide.norm()


def test_eigen_adam_is_adam_on_the_rotated_rows():
    """Turning gradients and weights from the left turns the whole trajectory; Adam's would not follow."""
    turn = torch.linalg.qr(gradient((16, 16), 0, 9)).Q
    straight = torch.nn.Parameter(parameters([(16, 24)])[0].detach())
    turned = torch.nn.Parameter(turn @ straight.detach())
    a, b = (EigenAdam([weight], lr=0.01, update_interval=3) for weight in (straight, turned))
    for step in range(1, 10):
        straight.grad = gradient((16, 24), step, 0)
        turned.grad = turn @ straight.grad
        a.step(), b.step()
    assert torch.allclose(turned, turn @ straight, rtol=0, atol=1e-9)


def test_eigen_adam_basis_is_sorted_and_of_the_steps_own_average():
    weight = parameters([(24, 16)])[0]
    optimizer = EigenAdam([weight], update_interval=4)
    changed, previous = [], torch.zeros(16, 16, dtype=torch.float64)
    for step in range(1, 10):
        train(optimizer, range(step, step + 1))
        state = optimizer.state[weight]
        if not torch.equal(state["basis"], previous):
            changed.append(step)
            previous = state["basis"].clone()
            inside = previous.T @ state["tracked"] @ previous  # only this step's average is diagonal in it
            values = inside.diagonal()
            assert torch.allclose(inside, torch.diag(values), atol=1e-12)
            assert (values.diff() < 0).all()
    assert changed == [1, 4, 8]


def test_eigen_adam_does_not_rotate_its_first_moment():
    weight = parameters([(16, 24)])[0]
    optimizer = EigenAdam([weight], update_interval=2)
    train(optimizer, range(1, 6))
    expected = sum(0.1 * 0.9 ** (5 - step) * gradient((16, 24), step, 0) for step in range(1, 6))
    assert torch.allclose(optimizer.state[weight]["exp_avg"], expected)


def test_eigen_adam_bfloat16_keeps_average_and_basis_whole():
    weight = parameters([(16, 24)], torch.bfloat16)[0]
    optimizer = EigenAdam([weight], update_interval=2)
    train(optimizer, range(1, 5))
    state = optimizer.state[weight]
    assert state["tracked"].dtype == state["basis"].dtype == torch.float32
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    assert torch.allclose(state["basis"].T @ state["basis"], torch.eye(16), atol=1e-5)


def test_shampoo_of_diagonal_gradients_is_adagrad():
    """By hand: L = R = diag(sum of g^2), so each element moves by g / sqrt(sum of g^2)."""
    weight = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    optimizer = Shampoo([weight], lr=0.5, eps=1e-20)
    for diagonal in ([3.0, -1.0, 2.0], [4.0, 1.0, 0.0]):
        weight.grad = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        optimizer.step()
    expected = torch.tensor([-(1 + 4 / 5), 1 - 1 / 2**0.5, -1.0], dtype=torch.float64) * 0.5
    assert torch.allclose(weight, torch.diag(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_first_shampoo_update_is_the_gradient_with_singular_values_one(scale):
    for shape in [(16, 24), (24, 16), (16, 16)]:
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = gradient(shape, 1, 0, scale).float()
        Shampoo([weight], lr=1.0, eps=1e-12).step()
        assert torch.allclose(torch.linalg.svdvals(-weight), torch.ones(16), atol=0.02)


def test_shampoo_renews_roots_at_step_one_and_each_interval():
    weight = parameters([(16, 24)])[0]
    optimizer = Shampoo([weight], update_interval=3)
    changed, previous = [], torch.zeros(24, 24, dtype=torch.float64)
    for step in range(1, 8):
        train(optimizer, range(step, step + 1))
        root = optimizer.state[weight]["right_root"]
        if not torch.equal(root, previous):
            changed.append(step)
        previous = root.clone()
    assert changed == [1, 3, 6]


def test_only_a_basis_of_the_vocabulary_is_refused_for_the_last_layer():
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(8, 64, bias=False)})
    with pytest.raises(ValueError, match=r"last_layer=method is refused for shampoo: .*vocabulary"):
        build(model, "shampoo", lr=0.1, last_layer="method")
    for name in ("eigen_adam", "soap"):
        build(model, name, lr=0.1, last_layer="method")


@pytest.mark.parametrize("bases", ["official", "exact"])
@pytest.mark.parametrize("update_interval", [1, 3])
@pytest.mark.parametrize("max_precond_dim", [10000, 20, 0])
def test_soap_equals_its_plain_form(bases, update_interval, max_precond_dim):
    """20 leaves the longer side of the wide and tall matrices alone; 8 x 40 has a null space of R for long."""
    changes = {"bases": bases, "update_interval": update_interval, "max_precond_dim": max_precond_dim}
    weights, options = parameters(), options_of("soap", **changes)
    expected = reference(SOAP, weights, options, range(1, 10), lr=0.01)
    assert largest_difference(train(SOAP(weights, lr=0.01, **options), range(1, 10)), expected) < 1e-6


def test_official_soap_only_builds_bases_at_its_first_step():
    weight = parameters([(16, 24)])[0]
    before, g = weight.detach().clone(), gradient((16, 24), 1, 0)
    optimizer = SOAP([weight])
    train(optimizer, range(1, 2))
    assert torch.equal(weight, before)
    state = optimizer.state[weight]
    assert not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    for gram, basis in ((g @ g.T, state["left_basis"]), (g.T @ g, state["right_basis"])):
        inside = basis.T @ gram @ basis
        assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-9)
        assert (inside.diagonal().diff() < 1e-9).all()
    train(optimizer, range(2, 3))
    assert not torch.equal(weight, before)


def test_exact_soap_with_one_side_is_eigen_adam():
    weights, twins = parameters(), parameters()
    soap = SOAP(weights[:2], lr=0.01, betas=(0.9, 0.99), bases="exact", update_interval=3, max_precond_dim=16)
    eigen_adam = EigenAdam(twins[:2], lr=0.01, betas=(0.9, 0.99, 0.99), update_interval=3)
    assert largest_difference(train(soap, range(1, 10)), train(eigen_adam, range(1, 10))) < 1e-9


def test_official_soap_without_bases_is_adam_one_step_late():
    weight, twin = parameters([(16, 24)])[0], parameters([(16, 24)])[0]
    soap = SOAP([weight], lr=0.01, betas=(0.9, 0.95), eps=1e-16, max_precond_dim=15)
    assert soap.param_groups[0]["weight_decay"] == 0  # the authors' default is 0.01
    adam = torch.optim.Adam([twin], lr=0.01, betas=(0.9, 0.95), eps=1e-16)
    assert largest_difference(train(soap, range(1, 8)), train(adam, range(2, 8))) < 1e-9
    assert soap.state[weight].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_official_soap_moves_second_moments_with_their_eigenvectors():
    """Diagonal gradients keep the bases on the axes, where SOAP is Adam - even when a refresh swaps two of them."""
    weight, twin = (torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64)) for _ in range(2))
    soap = SOAP([weight], lr=0.01, betas=(0.9, 0.8), eps=1e-12, update_interval=2)
    adam = torch.optim.Adam([twin], lr=0.01, betas=(0.9, 0.8), eps=1e-12)
    source = torch.Generator().manual_seed(0)
    orders = set()
    for step in range(1, 10):
        sizes = torch.tensor([3.0, 2.0, 1.0] if step == 1 else [0.1, 1.0, 5.0], dtype=torch.float64)
        weight.grad = torch.diag(sizes * (1 + torch.rand(3, generator=source, dtype=torch.float64)))
        soap.step()
        orders.add(tuple(soap.state[weight]["left_basis"].abs().argmax(0).tolist()))
        if step > 1:
            twin.grad = weight.grad.clone()
            adam.step()
            assert torch.allclose(weight.diagonal(), twin.diagonal(), rtol=0, atol=1e-9)
    assert {(0, 1, 2), (2, 1, 0)} <= orders


def test_soap_keeps_a_long_side_without_a_basis():
    weight = torch.nn.Parameter(torch.empty(10001, 8, device="meta"))
    optimizer = SOAP([weight])
    optimizer.allocate_state()
    assert optimizer.state[weight]["left_basis"].shape == (8, 8)
    assert "right_basis" not in optimizer.state[weight]
