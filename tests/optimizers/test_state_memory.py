"""Where the state of stacked matrices lies: moved by its users, left by matrices that are stepped no longer."""

import pytest
import torch

from optimizers import registry

from .harness import gradient, options_of, parameters, train

every_optimizer = pytest.mark.parametrize("name", registry.names())


def make(name: str, matrices: int, dtype=torch.float32):
    return registry.get(name)[0](parameters([(16, 24)] * matrices, dtype), **options_of(name, lr=0.01))


def held(optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


@every_optimizer
@pytest.mark.parametrize("matrices", [1, 3])
def test_state_that_is_moved_by_its_data_stays_the_state(name, matrices):
    """As programs do that put it aside between steps: `value.data = value.data.to(device)`."""
    plain, moved = make(name, matrices), make(name, matrices)
    for optimizer in (plain, moved):
        train(optimizer, range(1, 4))
    for value in held(moved):
        value.data = value.data.clone()
    for optimizer in (plain, moved):
        train(optimizer, range(4, 7))
    saved, expected = (optimizer.state_dict()["state"] for optimizer in (moved, plain))
    for i, state in expected.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(saved[i][key]), torch.as_tensor(value)), key


@every_optimizer
@pytest.mark.parametrize("steps", [range(4), (0, 5)])
def test_matrices_that_are_stepped_no_longer_hold_no_more_than_their_own_state(name, steps):
    """Each one frozen leaves a stack, whose memory its state would keep, and so would the last one; a file would hold
    it too."""
    optimizer = make(name, 6)
    weights = optimizer.param_groups[0]["params"]
    for frozen in steps:
        for i, weight in enumerate(weights):
            weight.grad = gradient((16, 24), frozen + 1, i).float() if i >= frozen else None
        optimizer.step()
    memory = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in held(optimizer)}
    assert sum(memory.values()) == sum(value.nbytes for value in held(optimizer))


@pytest.mark.parametrize("name", ["adam", "muon", "alice", "racs"])
def test_what_others_keep_beside_the_state_is_left_alone(name):
    """Wrappers put slow weights and averages there, of some parameters only."""
    optimizer, plain = make(name, 2), make(name, 2)
    for one in (optimizer, plain):
        train(one, range(1, 2))
    first, second = optimizer.param_groups[0]["params"]
    optimizer.state[first]["slow"] = torch.full((2, 2), 3.0)
    for one in (optimizer, plain):
        weights = one.param_groups[0]["params"]
        weights[0].grad, weights[1].grad = gradient((16, 24), 2, 0).float(), None
        one.step()
        train(one, range(3, 5))
    assert torch.equal(optimizer.state[first]["slow"], torch.full((2, 2), 3.0))
    assert "slow" not in optimizer.state[second]
    assert all(torch.equal(a, b) for a, b in zip((first, second), plain.param_groups[0]["params"], strict=True))
