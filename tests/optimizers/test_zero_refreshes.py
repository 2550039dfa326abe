"""Refreshes by a gradient that is all zero, which no basis follows from."""

import pytest
import torch

from optimizers import registry

from .harness import gradient, largest_difference, options_of, parameters, reference_step

LR = 0.01
UNTRACKED = {"tracking": False}
REFRESHING = [
    (name, {})
    for name in registry.names()
    if registry.get(name)[0].traits.awaits_gradient and name != "ldadam"  # which has one refresh, its first
]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *REFRESHING,
        ("alice", {"betas": (0.9, 0.9, 0.0)}),
        ("alice", {**UNTRACKED, "switching": "full_basis"}),
        ("alice_soap", {**UNTRACKED, "moments": "rotate"}),
    ],
)
def test_a_zero_gradient_at_a_refresh_drops_no_basis(name, changes):
    """It follows the plain form, which keeps a basis that nothing but this gradient would make."""
    cls, options, weights = registry.get(name)[0], options_of(name, **changes), parameters()
    optimizer = cls(weights, lr=LR, **options)
    plain, states = [weight.detach().clone() for weight in weights], [{} for _ in weights]
    due = [t for t in range(2, 12) if cls.refresh_due(optimizer, t, optimizer.param_groups[0])]
    assert due
    for step in range(1, 14):
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), step, index) * (step not in due)
            plain[index] = reference_step(
                cls, plain[index], weight.grad, states[index], t=step, index=index, lr=LR, **options
            )
        before = {weight: optimizer.state[weight].get("basis", weight).clone() for weight in weights}
        optimizer.step()
        if step in due and (changes or name in ("galore", "fira", "apollo_svd", "natural_galore", "alice_0")):
            assert all(torch.equal(optimizer.state[weight]["basis"], before[weight]) for weight in weights)
    assert largest_difference(weights, plain) <= cls.traits.reference_tolerance
