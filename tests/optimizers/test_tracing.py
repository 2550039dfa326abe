"""Updates are tensor code that a compiler can trace whole; a compiled `step` is the eager one."""

import copy

import pytest
import torch

from optimizers import kernels, registry
from optimizers.engine import stack_plans
from optimizers.engine.matrix import MatrixOptimizer

from .harness import gradient, options_of, parameters, train


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


METHODS = [name for name in registry.names() if issubclass(registry.get(name)[0], MatrixOptimizer)]


@pytest.mark.parametrize("name", METHODS)
def test_update_is_one_graph(name):
    """`fullgraph=True` refuses a graph break; two matrices of a stack, steps with and without a refresh before them."""
    optimizer = registry.get(name)[0](parameters([(16, 24)] * 2), lr=0.01, **options_of(name))
    train(optimizer, range(1, 6))
    group = optimizer.param_groups[0]
    (stack,) = stack_plans.stacks(optimizer, group, group["params"])

    def update(gradient, state):
        return optimizer.update(gradient, state, group, 6)

    given = torch.stack([gradient((16, 24), 6, index) for index in range(2)])
    with kernels.disabled(), torch.no_grad(), optimizer.inputs(stack, group) as state:
        eager_state, traced_state = copy.deepcopy(state), copy.deepcopy(state)
        eager = update(given, eager_state)
        traced = torch.compile(update, fullgraph=True, backend="eager")(given, traced_state)
    torch.testing.assert_close(tuple(traced), tuple(eager), rtol=1e-12, atol=1e-14)  # a trace may split one operator
    torch.testing.assert_close(traced_state, eager_state, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("muon", (8, 16)), ("racs", (8, 16)), ("fira", (520, 520))])
def test_compiled_step_is_the_eager_step(name, shape):
    """The large matrices are not stacked: each is handed to C++ by its address, which a trace would freeze."""
    weights = []
    for compiled in (False, True):
        optimizer = registry.get(name)[0](parameters([shape] * 2, dtype=torch.float32), lr=0.01)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        weights.append(train(optimizer, range(1, 4)))
    assert all(torch.equal(eager, compiled) for eager, compiled in zip(*weights, strict=True))
