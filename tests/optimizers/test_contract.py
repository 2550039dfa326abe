"""The contract of every registered optimizer, and of the template. New ones are found in the registry by themselves."""

import copy
import functools
import importlib
import io

import pytest
import torch

import optimizers
from optimizers import registry
from optimizers.engine.matrix import MatrixOptimizer

from .harness import (
    SHAPES,
    assert_follows_in_bfloat16,
    gradient,
    largest_difference,
    options_of,
    parameters,
    reference,
    train,
)

NAMES = [*registry.names(), "template"]
LR = 0.01
# These decay the weights before the update, by their papers or official codes or, as alice_soap, by the rule of AdamW;
# the others after it.
DECAY_FIRST = {
    *("adafactor", "adam", "adam_8bit", "adam_mini", "alice_soap", "dion", "ldadam", "lion"),
    *("flip_flop", "muon", "normuon", "octave", "racs_muon", "scale", "sinkgd"),
}
ELSEWHERE = {  # of --optimizer-file: their trait is their word
    name for name in registry.names() if registry.get(name)[0].__name__ not in optimizers.__all__
}
every_optimizer = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def template_is_registered(monkeypatch):
    """optimizers/TEMPLATE.py is registered only here: it fulfils the contract of the methods that are copied from
    it."""
    monkeypatch.setattr(registry, "_METHODS", {**registry._METHODS, "template": (template(), {})})


@functools.cache
def template():
    methods = dict(registry._METHODS)
    try:
        return importlib.import_module("optimizers.TEMPLATE").Template
    finally:
        registry._METHODS.clear()
        registry._METHODS.update(methods)


def make(name, weights, lr=LR, **changes):
    return registry.get(name)[0](weights, lr=lr, **options_of(name, **changes))


def tolerance(name):
    """The allowed distance of the fast form from the plain one: rounding, and more where state is quantised."""
    return registry.get(name)[0].traits.reference_tolerance


@every_optimizer
def test_equals_its_plain_form_in_float64(name):
    weights = parameters()
    expected = reference(registry.get(name)[0], weights, options_of(name), range(1, 10), LR)
    moved = train(make(name, weights), range(1, 10))
    assert largest_difference(moved, expected) <= tolerance(name)
    assert all(not torch.equal(after, before) for after, before in zip(moved, parameters(), strict=True))


@every_optimizer
def test_weight_decay_equals_its_plain_form(name):
    weights, changes = parameters(), {"weight_decay": 0.3}
    expected = reference(registry.get(name)[0], weights, options_of(name, **changes), range(1, 5), LR)
    decayed = train(make(name, weights, **changes), range(1, 5))
    assert largest_difference(decayed, expected) <= tolerance(name)
    assert largest_difference(decayed, train(make(name, parameters()), range(1, 5))) > 1e-3


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_decay_before_or_after_the_update(name, dtype):
    """Two steps without decay, then one with a decay of a half: only the update differs between the two orders."""
    free, decayed, before = parameters(dtype=dtype), parameters(dtype=dtype), None
    for weights, decay in ((free, 0.0), (decayed, 1.0)):
        optimizer = make(name, weights, lr=0.5)
        before = train(optimizer, range(1, 3))
        factor = 0.5 * getattr(optimizer, "decay_factor", lambda group: 1.0)(optimizer.param_groups[0])
        optimizer.param_groups[0]["weight_decay"] = decay * 0.5 / factor
        train(optimizer, range(3, 4))
    for weight, plain, start in zip(decayed, free, before, strict=True):
        update = start - plain
        first, after = 0.5 * start - update, 0.5 * (start - update)
        decays_first = registry.get(name)[0].traits.decays_first if name in ELSEWHERE else name in DECAY_FIRST
        expected, other = (first, after) if decays_first else (after, first)
        assert (weight - expected).norm() < 0.01 * (weight - other).norm()


@every_optimizer
def test_float32_follows_float64(name):
    weights = parameters(dtype=torch.float32)
    expected = reference(registry.get(name)[0], weights, options_of(name), range(1, 10), LR)
    moved = train(make(name, weights), range(1, 10))
    assert largest_difference(moved, expected) <= max(5e-4, tolerance(name))


@every_optimizer
def test_bfloat16_parameters_stay_close_and_finite(name):
    weights = parameters(dtype=torch.bfloat16, scale=0.02)
    start = [weight.detach().clone() for weight in weights]
    expected = reference(registry.get(name)[0], weights, options_of(name), range(1, 10), LR)
    moved = train(make(name, weights), range(1, 10))
    assert all(weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in moved)
    assert_follows_in_bfloat16(name, moved, expected, start)


@every_optimizer
def test_deterministic_and_touches_no_gradient_or_global_generator(name):
    first, second = make(name, parameters()), make(name, parameters())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(first, range(1, 6))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert largest_difference(one, train(second, range(1, 6))) == 0
    for index, weight in enumerate(first.param_groups[0]["params"]):
        assert torch.equal(weight.grad, gradient(tuple(weight.shape), 5, index))


@every_optimizer
def test_wide_and_tall_are_transposes_of_each_other(name):
    if not registry.get(name)[0].traits.oriented:
        pytest.skip("rows and columns are not alike to this method")
    wide = parameters([(8, 20)])[0]
    tall = torch.nn.Parameter(wide.detach().T.contiguous())
    a, b = make(name, [wide]), make(name, [tall])
    if isinstance(a, MatrixOptimizer):  # the factor of the learning rate may differ
        b.param_groups[0]["lr"] *= a.lr_factor(8, 20, a.param_groups[0]) / a.lr_factor(20, 8, a.param_groups[0])
    for step in range(1, 8):
        wide.grad = gradient((8, 20), step, 0)
        tall.grad = wide.grad.T.contiguous()
        a.step(), b.step()
    assert (wide - tall.T).abs().max() <= tolerance(name)


@every_optimizer
def test_a_tall_matrix_arrives_as_the_traits_say(name, monkeypatch):
    cls, shapes = registry.get(name)[0], []
    if not issubclass(cls, MatrixOptimizer):
        pytest.skip("any shape is stepped as it is")

    def update(self, gradient, *rest, original=cls.update):
        shapes.append(tuple(gradient.shape[-2:]))
        return original(self, gradient, *rest)

    monkeypatch.setattr(cls, "update", update)
    train(make(name, parameters([(20, 8)])), range(1, 2))
    assert shapes == [(8, 20) if cls.traits.oriented else (20, 8)]


@every_optimizer
def test_parameters_without_gradient_are_left_alone(name):
    weights = parameters()
    optimizer = make(name, weights)
    train(optimizer, range(1, 3))
    before = weights[1].detach().clone()
    state = {k: copy.deepcopy(v) for k, v in optimizer.state[weights[1]].items()}
    for index, weight in enumerate(weights):
        weight.grad = None if index == 1 else gradient(tuple(weight.shape), 3, index)
    optimizer.step()
    assert torch.equal(weights[1], before)
    assert state.keys() == optimizer.state[weights[1]].keys()
    assert all(same(state[key], optimizer.state[weights[1]][key]) for key in state)


@every_optimizer
def test_a_first_gradient_may_come_late(name):
    late, early = parameters([(16, 24), (16, 24)]), parameters([(16, 24), (16, 24)])
    optimizer = make(name, late)
    late[0].grad = gradient((16, 24), 1, 0)
    optimizer.step()
    alone = make(name, [early[0], early[1]])
    for step in (2, 3, 4, 5):
        for index, weight in enumerate(late):
            weight.grad = gradient((16, 24), step, index)
        optimizer.step()
        early[1].grad = gradient((16, 24), step, 1)
        alone.step()
    assert torch.allclose(late[1], early[1], rtol=0, atol=1e-12)


@every_optimizer
def test_survives_zero_gradients(name):
    weights = parameters()
    optimizer = make(name, weights)
    for _ in range(4):
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert all(weight.isfinite().all() for weight in weights)
    before = [weight.detach().clone() for weight in weights]
    after = train(optimizer, range(5, 8))
    assert all(weight.isfinite().all() for weight in after)
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.get(name)[0].traits.awaits_gradient])
@pytest.mark.parametrize("matrices", [1, 3])
def test_a_basis_waits_for_a_gradient(name, matrices):
    """That of zeros would be any. A layer behind one that starts at zero gets such, and torch's get_state_dict makes
    them."""
    shapes = [(16, 24)] * matrices
    late, early = parameters(shapes), parameters(shapes)
    waiting, other = make(name, late), make(name, early)
    for weight in late:
        weight.grad = torch.zeros_like(weight)
    waiting.step()
    assert all(torch.equal(a, b) for a, b in zip(late, early, strict=True))
    moved, expected = (train(optimizer, range(1, 5)) for optimizer in (waiting, other))
    assert all(torch.equal(a, b) for a, b in zip(moved, expected, strict=True))


@every_optimizer
def test_zero_rows_and_columns_give_finite_updates(name):
    weights = parameters()
    optimizer = make(name, weights)
    for step in range(1, 6):
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), step, index)
            weight.grad[3] = 0
            weight.grad[:, 2] = 0
        optimizer.step()
    assert all(weight.isfinite().all() for weight in weights)


@every_optimizer
@pytest.mark.parametrize("rank", [5, 8, 100])
def test_rank_at_and_above_the_smaller_side(name, rank):
    changes = {"rank": rank} if "rank" in registry.options(name) else {}
    weights = parameters([(8, 20), (20, 8), (5, 5)])
    expected = reference(registry.get(name)[0], weights, options_of(name, **changes), range(1, 8), LR)
    moved = train(make(name, weights, **changes), range(1, 8))
    assert largest_difference(moved, expected) <= tolerance(name)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_bitwise_and_keeps_dtypes(name, dtype):
    weights = parameters(dtype=dtype)
    optimizer = make(name, weights)
    train(optimizer, range(1, 6))
    file = io.BytesIO()
    torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    again = [torch.nn.Parameter(weight.clone()) for weight in saved["weights"]]
    resumed = make(name, again)
    resumed.load_state_dict(saved["optimizer"])
    for weight, copy_ in zip(weights, again, strict=True):
        for key, value in optimizer.state[weight].items():
            assert same(value, resumed.state[copy_][key]), key
    ahead, resumed_ahead = train(optimizer, range(6, 11)), train(resumed, range(6, 11))
    assert largest_difference(ahead, resumed_ahead) == 0


@every_optimizer
def test_state_is_tensors_and_plain_numbers_and_counted_on_meta(name):
    weights = parameters(dtype=torch.bfloat16)
    optimizer = make(name, weights)
    train(optimizer, range(1, 5))
    for state in optimizer.state.values():
        assert all(isinstance(value, (torch.Tensor, int, float)) for value in state.values())
    planned = make(name, [torch.nn.Parameter(torch.empty(s, dtype=torch.bfloat16, device="meta")) for s in SHAPES])
    planned.allocate_state()
    assert optimizers.state_bytes(planned) == optimizers.state_bytes(optimizer)


@every_optimizer
def test_adam_groups_are_torch_adamw(name):
    matrix, vector, twin = parameters([(8, 16)])[0], *(torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    adam = {"params": [vector], "algorithm": "adam", "lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}
    optimizer = registry.get(name)[0]([{"params": [matrix]}, adam], lr=LR, **options_of(name))
    plain = torch.optim.AdamW([twin], lr=0.03, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0, fused=True)
    for step in range(1, 5):
        matrix.grad = gradient((8, 16), step, 0)
        vector.grad = torch.sin(step * torch.arange(7.0))
        twin.grad = vector.grad.clone()
        optimizer.step(), plain.step()
    assert torch.equal(vector, twin)


@every_optimizer
def test_learning_rate_of_the_group_counts(name):
    weights = parameters()
    optimizer = make(name, weights)
    optimizer.param_groups[0]["lr"] = 0.0
    assert largest_difference(train(optimizer, range(1, 4)), parameters()) == 0


@every_optimizer
def test_bad_options_are_refused_by_name(name):
    for option, bad in {"rank": 0, "update_interval": 0, "weight_decay": -1.0, "gamma": 0.5}.items():
        if option in registry.options(name):
            with pytest.raises(ValueError, match=f"^{option}"):
                make(name, parameters(), **{option: bad})
            with pytest.raises(ValueError, match=f"^{option}"):
                registry.check(name, **{option: bad})
    with pytest.raises(ValueError, match="lr"):
        make(name, parameters(), lr=-1.0)
    with pytest.raises(ValueError, match="rnak is not an option"):
        registry.check(name, rnak=3)


@every_optimizer
def test_state_of_another_shape_or_dtype_is_computed_right_or_refused(name):
    weights = parameters([(16, 24)], dtype=torch.float32)
    optimizer = make(name, weights)
    train(optimizer, range(1, 3))
    saved = optimizer.state_dict()
    if any(isinstance(value, torch.Tensor) for value in optimizer.state[weights[0]].values()):
        with pytest.raises(ValueError, match=r"needs|holds"):
            make(name, parameters([(16, 400)], dtype=torch.float32)).load_state_dict(saved)
    wider = make(name, parameters([(16, 24)], dtype=torch.float64))
    wider.load_state_dict(saved)
    assert all(weight.isfinite().all() for weight in train(wider, range(3, 5)))


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ({"lr": -1.0}, "^lr must"),
        ({"lr": float("nan"), "algorithm": "adam"}, "^lr must"),
        ({"eps": -1e-8, "algorithm": "adam"}, "^eps must"),
        ({"weight_decay": -0.1, "algorithm": "adam"}, "^weight_decay must"),
        ({"algorithm": "Adam"}, "^algorithm must be one of method, adam, got 'Adam'"),
        ({"weight_decy": 0.1}, "^weight_decy is no option of GaLore; did you mean 'weight_decay'"),
        ({"beta": (0.9, 0.9), "algorithm": "adam"}, "^beta is no option of GaLore; did you mean 'betas'"),
        ({"rank": 2, "algorithm": "adam"}, "^rank is no option of a group that Adam steps"),
        ({"state_bits": 8, "algorithm": "adam"}, "^state_bits is no option of a group that Adam steps"),
        ({"rank": 2, "update_proj_gap": 200}, "^update_proj_gap is no option of GaLore; it is update_interval here"),
    ],
)
def test_bad_options_of_a_group_are_refused_by_name(group, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("galore", [{"params": parameters(), **group}])


def test_adams_options_are_refused_in_a_group_of_a_method_without_them():
    with pytest.raises(ValueError, match=r"^betas is no option of RACS$"):
        make("racs", [{"params": parameters(), "betas": (0.9, 0.9)}])
    make("racs", [{"params": parameters(), "betas": (0.9, 0.9), "algorithm": "adam"}])


def test_a_callers_own_tags_stay_in_the_group():
    tags = {"name": "x", "lr_scale": 0.5, "weight_decay_mult": 2.0, "initial_lr": 0.1}
    group = make("racs", [{"params": parameters(), **tags}]).param_groups[0]
    assert {key: group[key] for key in tags} == tags


@every_optimizer
def test_shapes_it_cannot_hold_are_refused(name):
    vector = torch.nn.Parameter(torch.ones(5))
    cls = registry.get(name)[0]
    if issubclass(cls, MatrixOptimizer) and not cls.traits.also_steps:
        with pytest.raises(ValueError, match=r"\(5,\)"):
            make(name, [vector])
    else:
        optimizer = make(name, [vector])
        vector.grad = torch.ones(5)
        optimizer.step()
        assert (vector < 1).all()


@every_optimizer
def test_closure_is_evaluated_with_gradients(name):
    weight = parameters([(8, 16)])[0]
    optimizer = make(name, [weight])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for _ in range(15):
        last = optimizer.step(closure)
    assert last < first


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b
