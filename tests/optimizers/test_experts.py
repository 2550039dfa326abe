"""Parameters that are stacks of matrices, as models hold their experts: [experts, rows, columns]."""

import copy

import pytest
import torch

from optimizers import AdamMini, Muon, registry
from optimizers.engine.matrix import MatrixOptimizer

from .harness import gradient, options_of

pytestmark = pytest.mark.slow

NAMES = [name for name in registry.names() if issubclass(registry.get(name)[0], MatrixOptimizer)]
EXPERTS = 3


def whole(shape, dtype=torch.float64) -> torch.nn.Parameter:
    source = torch.Generator().manual_seed(3)
    return torch.nn.Parameter(torch.randn(EXPERTS, *shape, generator=source, dtype=torch.float64).to(dtype))


def gradients(shape, step: int) -> torch.Tensor:
    return torch.stack([gradient(shape, step, index) for index in range(EXPERTS)])


def make(name: str, parameters, stacked: bool, **changes):
    cls, _ = registry.get(name)
    options = options_of(name, **{"lr": 0.01, "weight_decay": 0.1, **changes})
    return cls([{"params": parameters, "stacked": stacked}], **options)


def step(optimizer, parameter: torch.Tensor, steps: range) -> None:
    for t in steps:
        parameter.grad = gradients(tuple(parameter.shape[1:]), t).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_stack_is_stepped_as_its_matrices_one_by_one_are(name, shape):
    """Random draws too: matrix i of the only parameter draws what the i-th of as many parameters does."""
    together = whole(shape)
    apart = [torch.nn.Parameter(matrix.clone()) for matrix in together.detach()]
    stack, single = make(name, [together], stacked=True), make(name, apart, stacked=False)
    for t in range(1, 8):
        for parameter, matrix in zip(apart, gradients(shape, t), strict=True):
            parameter.grad = matrix
        single.step()
        step(stack, together, range(t, t + 1))
    torch.testing.assert_close(together.detach(), torch.stack([p.detach() for p in apart]), rtol=1e-9, atol=1e-9)
    for key, value in stack.state[together].items():
        assert value == single.state[apart[0]][key] if key == "step" else value.shape[0] == EXPERTS


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_stack_ends_with_the_same_bits(name):
    straight, resumed = whole((12, 8), torch.float32), whole((12, 8), torch.float32)
    step(make(name, [straight], stacked=True), straight, range(1, 9))
    first = make(name, [resumed], stacked=True)
    step(first, resumed, range(1, 5))
    second = make(name, [resumed], stacked=True)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(second, resumed, range(5, 9))
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_added_later_changes_no_draw_of_a_resumed_stack(name):
    def both(later: torch.nn.Parameter, optimizer, steps: range, stack: torch.nn.Parameter) -> None:
        for t in steps:
            later.grad = gradient((8, 12), t, 7)
            step(optimizer, stack, range(t, t + 1))

    weights = [[whole((12, 8)), torch.nn.Parameter(gradient((8, 12), 0, 5))] for _ in range(2)]
    grown = [make(name, [stack], stacked=True) for stack, _ in weights]
    for optimizer, (stack, later) in zip(grown, weights, strict=True):
        step(optimizer, stack, range(1, 3))
        optimizer.add_param_group({"params": [later]})
        both(later, optimizer, range(3, 5), stack)
    resumed = make(name, [weights[1][0]], stacked=True)
    resumed.add_param_group({"params": [weights[1][1]]})
    resumed.load_state_dict(copy.deepcopy(grown[1].state_dict()))
    for optimizer, (stack, later) in zip((grown[0], resumed), weights, strict=True):
        both(later, optimizer, range(5, 15), stack)
    assert all(map(torch.equal, *weights))


def test_matrices_of_a_stack_are_rounded_by_draws_of_their_own():
    weight = torch.nn.Parameter(torch.ones(2, 8, 12, dtype=torch.bfloat16))
    optimizer = Muon([{"params": [weight], "stacked": True}], lr=1e-3)
    optimizer.round_stochastically(0)
    weight.grad = gradient((8, 12), 1, 0).bfloat16().expand(2, 8, 12).clone()
    optimizer.step()
    assert (weight != 1).any(-1).any(-1).all() and not torch.equal(weight[0], weight[1])


@pytest.mark.parametrize("name", NAMES)
def test_an_expert_that_no_token_reached_yet_stays(name):
    weight = whole((8, 12))
    optimizer, start = make(name, [weight], stacked=True, weight_decay=0.0), weight.detach().clone()
    for t in range(1, 8):
        weight.grad = gradients((8, 12), t)
        weight.grad[1] *= t > 4
        optimizer.step()
        assert torch.equal(weight[1], start[1]) == (t <= 4)
    assert weight.isfinite().all() and not torch.equal(weight[0], start[0])


def test_heads_are_counted_by_the_rows_of_each_matrix_of_a_stack():
    group = {"stacked": True, "role": "query", "heads": 4}
    AdamMini([{"params": [whole((8, 12))], **group}])
    with pytest.raises(ValueError, match=r"^heads must divide the 6 rows of a query matrix, got 4"):
        AdamMini([{"params": [whole((6, 12))], **group}])


def test_only_a_group_of_stacks_takes_three_dimensions():
    with pytest.raises(ValueError, match=r"Muon steps matrices; a parameter of shape \(3, 8, 12\)"):
        Muon([whole((8, 12))])
    with pytest.raises(ValueError, match=r"Muon steps stacks of matrices; a parameter of shape \(8, 12\)"):
        Muon([{"params": [torch.nn.Parameter(torch.ones(8, 12))], "stacked": True}])
