"""Options that are set in `param_groups` are checked as a constructor's are, also before the first step."""

import copy

import numpy as np
import pytest
import torch

from optimizers import AdamMini, Alice, BaseOptimizer, Muon, registry

from .harness import gradient, options_of, parameters, train

REFUSED = [
    (Alice, {"switching": "foo"}, r"^switching must be one of"),
    (Alice, {"switching": "gaussian"}, r"^switching=gaussian .* compensation=none"),
    (Alice, {"leading": 200}, r"^leading must not exceed rank"),
    (Alice, {"rank": -1}, r"^rank must be a whole number at least 1, got -1"),
    (Alice, {"betas": (1.5, 0.9, 0.9)}, r"^betas must be 3 numbers at least 0 and below 1"),
    (Muon, {"momentum": 2.0}, r"^momentum must be a finite number at least 0 and below 1, got 2.0"),
    (Muon, {"weight_decay": -1.0}, r"^weight_decay must be"),
    (Muon, {"state_bits": 16}, r"^state_bits must be one of 32, 8, got 16"),
]


def stepping(optimizer: BaseOptimizer, how: str) -> None:
    """The first call that makes state, by any of the three ways."""
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = gradient(tuple(weight.shape), 1, 0).to(weight)
    {"step": optimizer.step, "allocate": optimizer.allocate_state,
     "step_parameter": lambda: optimizer.step_parameter(weight)}[how]()  # fmt: skip


@pytest.mark.parametrize("how", ["step", "allocate", "step_parameter"])
@pytest.mark.parametrize(("cls", "changed", "sentence"), REFUSED, ids=lambda each: str(each)[:30])
def test_a_bad_option_is_refused_before_the_first_step(cls, changed, sentence, how):
    weights = parameters([(16, 24)])
    optimizer, before = cls(weights, lr=0.01), weights[0].detach().clone()
    optimizer.param_groups[0] |= changed
    with pytest.raises(ValueError, match=sentence):
        stepping(optimizer, how)
    assert torch.equal(weights[0], before) and not optimizer.state.get(weights[0])


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(("option", "value"), [("betas", (0.9, 1.5)), ("eps", 0.0), ("weight_decay", -1.0)])
def test_an_option_of_adams_group_is_checked(option, value, steps):
    matrix, vector = parameters([(16, 24), (4, 6)])
    optimizer = Muon([{"params": [matrix]}, {"params": [vector], "algorithm": "adam"}])
    train(optimizer, range(1, 1 + steps))
    optimizer.param_groups[1][option] = value
    before = vector.detach().clone()
    with pytest.raises(ValueError, match=rf"^{option} must be"):
        train(optimizer, range(1 + steps, 2 + steps))
    assert torch.equal(vector, before)


def test_options_that_are_set_before_the_first_step_are_those_of_the_constructor():
    changes = {"rank": 4, "leading": 1, "tracking": False, "compensation": "two_sided", "betas": (0.8, 0.8, 0.9)}
    given, later = (Alice(parameters(), lr=0.01, **options) for options in (changes, {}))
    later.param_groups[0] |= changes
    for one, other in zip(train(given, range(1, 5)), train(later, range(1, 5)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", registry.names())
def test_whole_numbers_of_numpy_are_whole_numbers(name):
    options = options_of(name)
    numbers = {key: np.int64(value) for key, value in options.items() if type(value) is int}
    plain, of_numpy = (registry.get(name)[0](parameters(), **chosen) for chosen in (options, options | numbers))
    for one, other in zip(train(plain, range(1, 4)), train(of_numpy, range(1, 4)), strict=True):
        assert torch.equal(one, other)


def test_heads_are_a_whole_number():
    weights = parameters([(8, 12)])
    AdamMini([{"params": weights, "role": "query", "heads": np.int64(2)}])
    with pytest.raises(ValueError, match="heads must divide the 8 rows of a query matrix, got True"):
        AdamMini([{"params": weights, "role": "query", "heads": True}])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 10**400}, "^lr must be a finite number at least 0"),
        ({"lr": torch.tensor(1j)}, "^lr must be a finite number at least 0"),
        ({"switching": np.zeros(3)}, "^switching must be one of"),
        ({"switching": torch.zeros(3)}, "^switching must be one of"),
        ({"state_bits": torch.zeros(3)}, "^state_bits must be one of"),
    ],
)
def test_what_is_no_number_and_no_name_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Alice(parameters(), **options)


def test_a_list_is_no_group():
    with pytest.raises(TypeError, match="a group of parameters must be a dict, got list"):
        Muon(parameters()).add_param_group(parameters())


@pytest.mark.parametrize("on", [None, "cuda", ("gpu",), (None,), ("cuda:0",)])
def test_steps_are_compiled_on_types_of_devices(on):
    with pytest.raises(ValueError, match=r"^on must be types of devices, as \(\"cuda\",\), got "):
        Muon(parameters()).compile_steps(on)


def test_a_share_of_dealt_steps_is_not_copied():
    """The others hold the rest of the state."""
    optimizer = Muon(parameters())
    optimizer._dealers = object()
    with pytest.raises(ValueError, match="copy by full_state_dict"):
        copy.deepcopy(optimizer)
