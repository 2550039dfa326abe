"""The option state_bits: who has it, what is refused, and checkpoints of other bits."""

import copy

import pytest
import torch

from optimizers import Adam, GaLore, Muon, registry
from optimizers.engine.matrix import MatrixOptimizer

from .harness import largest_difference, parameters, train
from .test_eight_bit_states import LR, SHAPES, every_method, make, options


def test_a_group_may_have_bits_of_its_own():
    narrow, wide = parameters([(64, 70)] * 2, torch.float32)
    optimizer = Muon([{"params": [narrow], "state_bits": 8}, {"params": [wide]}])
    train(optimizer, range(1, 3))
    assert optimizer.state[narrow]["exp_avg"].dtype == torch.uint8
    assert optimizer.state[wide]["exp_avg"].dtype == torch.float32


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match=r"^state_bits must be one of 32, 8, got 4"):
        Muon(parameters(SHAPES), state_bits=4)
    with pytest.raises(ValueError, match=r"^state_bits"):
        registry.check("racs", state_bits=16)


@pytest.mark.parametrize(("saved", "wanted"), [(8, 32), (32, 8)])
def test_a_checkpoint_of_other_bits_is_refused_in_a_sentence(saved, wanted):
    optimizer, other = (Muon(parameters(SHAPES), state_bits=bits) for bits in (saved, wanted))
    train(optimizer, range(1, 3))
    with pytest.raises(ValueError, match=f"saved with state_bits={saved}, this Muon has state_bits={wanted}"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", ["adam_8bit", "galore_8bit", "galore"])
def test_checkpoints_from_before_the_option_load(name):
    changes = {"state_bits": 32} if name == "galore" else {}
    weights = parameters(SHAPES, torch.float32)
    optimizer = make(name, weights, **changes)
    train(optimizer, range(1, 4))
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["state_bits"]
    again = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = make(name, again, **changes)
    resumed.load_state_dict(copy.deepcopy(saved))
    assert largest_difference(train(optimizer, range(4, 6)), train(resumed, range(4, 6))) == 0


def test_the_8_bit_names_are_names_for_the_option():
    for name, cls in (("adam_8bit", Adam), ("galore_8bit", GaLore)):
        given = {key: value for key, value in options(name).items() if key != "state_bits"}
        one, other = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
        named = train(registry.get(name)[0](one, lr=LR, **given), range(1, 6))
        assert registry.options(name)["state_bits"].default == 8
        assert largest_difference(named, train(cls(other, lr=LR, **given, state_bits=8), range(1, 6))) == 0


@every_method
def test_every_method_has_the_option_and_says_so(name):
    cls = registry.get(name)[0]
    assert "state_bits" in registry.options(name) and "state_bits: 8: moments" in cls.__doc__
    assert issubclass(cls, MatrixOptimizer) == cls.by_matrix
