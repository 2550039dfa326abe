"""Steps taken one parameter at a time, as gradients arrive during backward."""

import copy

import pytest
import torch

from optimizers import registry

from .harness import gradient, options_of, parameters

NAMES = registry.names()


def make(name, weights):
    vector = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    groups = [{"params": weights}, {"params": [vector], "algorithm": "adam"}]
    return registry.get(name)[0](groups, lr=0.01, **options_of(name))


def arrivals(optimizer, step):
    """(parameter, its gradient), the last parameter first as in a backward pass."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for index, weight in reversed(list(enumerate(weights))):
        shape = tuple(weight.shape) if weight.ndim == 2 else (1, len(weight))
        yield weight, gradient(shape, step, index).to(weight.dtype).view_as(weight)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_step_to_the_bit_and_holds_no_gradient(name, dtype):
    together, released = make(name, parameters(dtype=dtype)), make(name, parameters(dtype=dtype))
    for step in range(1, 8):
        for weight, arrived in arrivals(together, step):
            weight.grad = arrived
        together.step()
        for weight, arrived in arrivals(released, step):
            weight.grad = arrived
            released.step_parameter(weight)
        assert all(weight.grad is None for weight, _ in arrivals(released, step))
        if step == 4:  # a resume in between
            released.load_state_dict(released.state_dict())
    for (one, _), (other, _) in zip(arrivals(together, 1), arrivals(released, 1), strict=True):
        assert torch.equal(one, other)
        for key, value in together.state[one].items():
            same = torch.equal if isinstance(value, torch.Tensor) else type(value).__eq__
            assert same(value, released.state[other][key]), key


def trained(name, missing, steps, released=()):
    """The optimizer after `steps` on two matrices, `missing`: step -> the one without a gradient. In those `released`
    matrices are stepped one by one."""
    optimizer = registry.get(name)[0](parameters([(64, 70)] * 2, torch.float32), lr=0.01, **options_of(name))
    go_on(optimizer, missing, steps, released)
    return optimizer


def go_on(optimizer, missing, steps, released=()):
    weights = optimizer.param_groups[0]["params"]
    for step in steps:
        for index in (1, 0):
            if missing.get(step) != index:
                weights[index].grad = gradient((64, 70), step, index).to(weights[index])
                if step in released:
                    optimizer.step_parameter(weights[index])
        optimizer.step()
        optimizer.zero_grad()


def same_weights(one, other):
    return all(map(torch.equal, one.param_groups[0]["params"], other.param_groups[0]["params"]))


@pytest.mark.parametrize("name", NAMES)
def test_equals_step_also_after_a_step_without_one_of_the_gradients(name):
    steps = range(1, 6)
    assert same_weights(trained(name, {1: 0}, steps), trained(name, {1: 0}, steps, released=steps[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_was_missing_leaves_no_trace_in_later_stacks(name):
    """Afterwards both matrices are of one age: a resumed run steps them together."""
    missing = {1: 1, 3: 0}
    undisturbed = trained(name, missing, range(1, 4))
    resumed = copy.deepcopy(undisturbed)
    for optimizer in (undisturbed, resumed):
        go_on(optimizer, missing, range(4, 7))
    assert same_weights(undisturbed, resumed)


def test_a_stack_waits_for_its_last_gradient():
    first, second, alone = weights = parameters([(8, 12), (8, 12), (12, 8)])
    before = [weight.detach().clone() for weight in weights]
    optimizer = make("galore", weights)
    for index, weight in enumerate((second, alone)):
        weight.grad = gradient(tuple(weight.shape), 1, index)
        optimizer.step_parameter(weight)
    assert second.grad is not None and torch.equal(second, before[1])
    assert alone.grad is None and not torch.equal(alone, before[2])
    first.grad = gradient((8, 12), 1, 3)
    optimizer.step_parameter(first)
    assert first.grad is None and second.grad is None
    assert not torch.equal(first, before[0]) and not torch.equal(second, before[1])


def test_step_takes_the_parameters_that_are_left():
    weights = parameters([(8, 12), (8, 12)])
    optimizer = make("galore", weights)
    weights[1].grad = gradient((8, 12), 1, 1)
    optimizer.step_parameter(weights[1])  # the other one gets no gradient in this step
    alone = parameters([(8, 12), (8, 12)])[1]
    alone.grad = weights[1].grad
    make("galore", [alone]).step()
    optimizer.step()
    assert torch.allclose(weights[1], alone, rtol=0, atol=1e-12)
    assert torch.equal(weights[0], parameters([(8, 12), (8, 12)])[0])


@pytest.mark.parametrize("name", ["galore", "muon"])
def test_a_matrix_that_was_frozen_is_not_waited_for(name):
    weights, alone = parameters([(8, 12), (8, 12), (8, 12)]), parameters([(8, 12), (8, 12), (8, 12)])
    stacked, single = make(name, weights), make(name, alone)
    for step in (1, 2, 3):
        if step == 2:
            weights[1].requires_grad_(False)
        if step == 3:
            weights[1].requires_grad_(True)
        for index in (2, 1, 0):
            if step != 2 or index != 1:
                weights[index].grad = gradient((8, 12), step, index)
                alone[index].grad = gradient((8, 12), step, index)
                stacked.step_parameter(weights[index])
        single.step()
        single.zero_grad()
        assert all(weight.grad is None for weight in weights)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-12) for one, other in zip(weights, alone, strict=True))


def test_a_gradient_given_to_a_frozen_matrix_is_stepped():
    weights = parameters([(8, 12), (8, 12)])
    optimizer, before = make("galore", weights), weights[0].detach().clone()
    weights[0].requires_grad_(False)
    weights[0].grad = gradient((8, 12), 1, 0)
    optimizer.step_parameter(weights[0])
    optimizer.step()  # it waited for the other one of its stack
    assert not torch.equal(weights[0], before)


@pytest.mark.parametrize("name", ["alice", "alice_soap", "eigen_adam", "shampoo", "fira"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_gradient_that_is_not_finite_at_a_refresh_changes_nothing(name, bad):
    """The averages that a refresh reads would keep it, and a solver's own error does not name the cause."""
    (undisturbed,), (disturbed,) = parameters([(8, 12)]), parameters([(8, 12)])
    options = options_of(name) | {"update_interval": 1}
    one, other = (registry.get(name)[0]([weight], lr=0.01, **options) for weight in (undisturbed, disturbed))
    for step in (1, 2, 3):
        disturbed.grad = gradient((8, 12), step, 0).to(disturbed)
        disturbed.grad[3, 5] = bad
        with pytest.raises(ValueError, match=r"of shape \(8, 12\) holds NaN or infinity: skip the step"):
            other.step_parameter(disturbed)
        for optimizer, weight in ((one, undisturbed), (other, disturbed)):
            weight.grad = gradient((8, 12), step, 0).to(weight)
            optimizer.step_parameter(weight)
    assert torch.equal(undisturbed, disturbed) and undisturbed.isfinite().all()
