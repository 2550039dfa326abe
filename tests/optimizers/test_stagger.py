"""Refreshes spread over the interval."""

import pytest
import torch

from optimizers import registry

from .harness import SHAPES, gradient, largest_difference, options_of, parameters, reference, train

STAGGERED = [name for name in registry.names() if "stagger" in registry.options(name)]
BASES = ("basis", "left_basis", "right_basis", "left_root", "right_root")


def make(name, weights, **changes):
    return registry.get(name)[0](weights, lr=0.01, **options_of(name, stagger=True, **changes))


def test_every_method_that_refreshes_can_stagger():
    refreshing = [name for name in registry.names() if "update_interval" in registry.options(name)]
    assert refreshing == STAGGERED


@pytest.mark.parametrize("name", STAGGERED)
def test_equals_its_plain_form(name):
    # Stacks of one, two and three matrices, some of which are due while others are not.
    weights, steps = parameters(), range(1, 14)
    cls, changes = registry.get(name)[0], {"update_interval": 4}
    expected = reference(cls, weights, options_of(name, stagger=True, **changes), steps, 0.01)
    moved = train(make(name, weights, **changes), steps)
    assert largest_difference(moved, expected) <= cls.traits.reference_tolerance


@pytest.mark.parametrize("name", STAGGERED)
def test_the_first_step_refreshes_all_and_later_ones_a_share(name):
    weights = parameters()
    optimizer = make(name, weights, update_interval=4)
    seen = refreshes(optimizer, weights, 1)
    assert seen == len(SHAPES)
    counts = [refreshes(optimizer, weights, step) for step in range(2, 12)]
    assert max(counts[1:]) <= 2  # five matrices in four steps
    assert sum(counts[1:9]) == 2 * len(SHAPES)


def refreshes(optimizer, weights, step) -> int:
    """Steps once; the number of matrices whose basis has changed."""
    before = [bases(optimizer, weight) for weight in weights]
    for index, weight in enumerate(weights):
        weight.grad = gradient(tuple(weight.shape), step, index)
    optimizer.step()
    changed = [old is None or not all(map(torch.equal, old, bases(optimizer, weight)))
               for old, weight in zip(before, weights, strict=True)]  # fmt: skip
    return sum(changed)


def bases(optimizer, weight) -> list[torch.Tensor] | None:
    state = optimizer.state.get(weight)
    return [state[key].clone() for key in BASES if key in state] if state else None
