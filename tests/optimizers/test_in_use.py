"""What programs do with torch's optimizers: they schedule, reset, roll back and cast. Every registered method."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch

import optimizers
from optimizers import Muon, registry
from optimizers.engine.base import BaseOptimizer
from optimizers.engine.direction import Direction

from .harness import gradient, largest_difference, options_of, parameters, train
from .test_partition import llama

SHAPES = [(16, 24)]  # one matrix, which C++ steps where it can
every_optimizer = pytest.mark.parametrize("name", registry.names())


def make(name: str, shapes=SHAPES, dtype=torch.float32, **changes) -> BaseOptimizer:
    return registry.get(name)[0](parameters(shapes, dtype), **options_of(name, **{"lr": 0.01, **changes}))


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_options_may_be_tensors(name, dtype):
    """Of one element, as a learning rate is where a schedule changes it in place."""
    plain, tensors = make(name, dtype=dtype), make(name, dtype=dtype)
    for key, value in tensors.param_groups[0].items():
        if key in ("lr", "weight_decay", "alpha", "alpha_c", "gamma") and isinstance(value, float):
            tensors.param_groups[0][key] = torch.tensor(value, dtype=torch.float64)
        elif key == "betas":
            tensors.param_groups[0][key] = tuple(torch.tensor(beta, dtype=torch.float64) for beta in value)
    steps = range(1, 6)
    assert largest_difference(train(plain, steps), train(tensors, steps)) <= 1e-6
    with pytest.raises(ValueError, match=r"^lr must be a finite number at least 0, got tensor\(\[0\.1000\]\)"):
        make(name, lr=torch.tensor([0.1]))
    with pytest.raises(ValueError, match=r"^lr must be a finite number at least 0, got tensor\(nan\)"):
        make(name, lr=torch.tensor(float("nan")))


@every_optimizer
def test_numbers_of_numpy_are_saved_as_plain_ones(name, tmp_path):
    optimizer = make(name, lr=np.float64(0.01))
    for key, value in optimizer.param_groups[0].items():
        if isinstance(value, float):
            optimizer.param_groups[0][key] = np.float64(value)
        elif key == "betas":
            optimizer.param_groups[0][key] = list(np.array(value)) if name == "adam" else tuple(np.array(value))
    train(optimizer, range(1, 3))
    torch.save(optimizer.state_dict(), tmp_path / "saved.pt")
    loaded = torch.load(tmp_path / "saved.pt", weights_only=True)
    make(name).load_state_dict(loaded)
    assert loaded["param_groups"] == optimizer.state_dict()["param_groups"]


class Broadcasting(Muon):
    """A method whose direction lacks the stack's dimension."""

    def update(self, gradient, state, group, t):
        return Direction(dense=gradient[0])


def test_a_direction_of_another_shape_is_refused():
    optimizer = Broadcasting(parameters([(16, 24), (16, 24)]), lr=0.01)
    with pytest.raises(ValueError, match=r"Broadcasting.update returned dense of shape \(16, 24\); for gradients "):
        train(optimizer, range(1, 2))


@every_optimizer
@pytest.mark.parametrize("shapes", [SHAPES, [(16, 24), (16, 24)]], ids=["one", "stack"])
def test_cleared_state_begins_anew(name, shapes):
    used = make(name, shapes)
    weights = train(used, range(1, 4))
    used.state.clear()
    fresh = make(name, shapes)
    for parameter, weight in zip(fresh.param_groups[0]["params"], weights, strict=True):
        parameter.data.copy_(weight)
    assert largest_difference(train(used, range(4, 8)), train(fresh, range(4, 8))) == 0
    saved, expected = used.state_dict()["state"], fresh.state_dict()["state"]
    for key, value in ((key, value) for i in expected for key, value in expected[i].items() if torch.is_tensor(value)):
        assert all(torch.equal(saved[i][key], expected[i][key]) for i in expected), key
        assert value.any()


@every_optimizer
def test_state_put_back_by_hand_counts(name):
    optimizer = make(name, [(16, 24), (16, 24)])
    train(optimizer, range(1, 4))
    kept = [(p, p.detach().clone(), copy.deepcopy(optimizer.state[p])) for p in optimizer.param_groups[0]["params"]]
    first = train(optimizer, range(4, 8))
    for parameter, weight, state in kept:
        parameter.data.copy_(weight)
        optimizer.state[parameter] = state
    assert largest_difference(first, train(optimizer, range(4, 8))) == 0


@pytest.mark.parametrize("option", ["alpha", "adjust_lr_fn", "adjust_lr"])
def test_an_option_changed_in_its_group_counts(option):
    """Those that make a factor of the learning rate or of the decay."""
    name, old, new = {
        "alpha": ("sinkgd", 0.1, 0.2),
        "adjust_lr_fn": ("muon", "original", "match_rms_adamw"),
        "adjust_lr": ("normuon", "match_rms", "spectral"),
    }[option]
    changed, fresh = (make(name, [(24, 16)], weight_decay=0.5, **{option: value}) for value in (old, new))
    train(changed, range(1, 3))
    changed.param_groups[0][option] = new
    fresh.load_state_dict(changed.state_dict())
    (weight,), (other,) = (optimizer.param_groups[0]["params"] for optimizer in (changed, fresh))
    other.data.copy_(weight)
    assert largest_difference(train(changed, range(3, 5)), train(fresh, range(3, 5))) == 0


@every_optimizer
def test_a_step_is_the_same_inside_autocast_and_with_coarse_products(name):
    """A program may allow bfloat16 for its model, by autocast or for all float32 products of a CPU."""
    expected = train(make(name), range(1, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_difference(train(make(name), range(1, 6)), expected) == 0
        assert torch.is_autocast_enabled("cpu")
    with coarse_products():
        assert largest_difference(train(make(name), range(1, 6)), expected) == 0
        assert torch.get_float32_matmul_precision() == "medium"


@contextlib.contextmanager
def coarse_products():
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before, kept = torch.get_float32_matmul_precision(), [backend.fp32_precision for backend in backends]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for backend, precision in zip(backends, kept, strict=True):
            backend.fp32_precision = precision


@every_optimizer
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_is_seen_in_the_weights_or_refused(name, bad):
    optimizer = make(name, [(16, 24), (24, 16)])
    train(optimizer, range(1, 3))
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad[3, 5] = bad
    try:
        optimizer.step()
    except ValueError as error:
        assert "holds NaN or infinity" in str(error)
    else:
        assert all(not p.isfinite().all() for p in optimizer.param_groups[0]["params"])


@every_optimizer
def test_steps_whatever_the_default_device_is(name):
    expected, optimizer = train(make(name), range(1, 6)), make(name)
    (weight,) = optimizer.param_groups[0]["params"]
    for step in range(1, 6):
        weight.grad = gradient(SHAPES[0], step, 0).to(weight.dtype)
        with torch.device("meta"):
            optimizer.step()
    assert torch.equal(weight, expected[0])


@pytest.mark.parametrize("name", ["adam", "muon", "galore"])
def test_hooks_of_loading_see_the_state(name):
    """The first may change it, the second finds it."""
    optimizer, seen = make(name), []
    train(optimizer, range(1, 4))
    saved = optimizer.state_dict()

    def halve(_, state_dict):
        state = {i: {**held, "exp_avg": held["exp_avg"] / 2} for i, held in state_dict["state"].items()}
        return {**state_dict, "state": state}

    other = make(name)
    other.register_load_state_dict_pre_hook(halve)
    other.register_load_state_dict_post_hook(lambda loaded: seen.extend(loaded.state.values()))
    for _ in range(2):  # hooks stay
        other.load_state_dict(saved)
    assert len(seen) == 2 and all(torch.equal(held["exp_avg"] * 2, saved["state"][0]["exp_avg"]) for held in seen)


@pytest.mark.parametrize("name", ["adam", "muon", "galore"])
@pytest.mark.parametrize("full", [False, True])
def test_hooks_may_change_the_form_of_what_is_saved(name, full):
    """Those of saving get all that is saved, and those of loading come before it is checked."""
    optimizer = make(name)
    train(optimizer, range(1, 4))
    optimizer.register_state_dict_post_hook(lambda _, state_dict: {"wrapped": state_dict})
    other = make(name)
    other.register_load_state_dict_pre_hook(lambda _, state_dict: state_dict["wrapped"])
    if full:
        other.load_full_state_dict(optimizer.full_state_dict())
    else:
        other.load_state_dict(optimizer.state_dict())
    weight, loaded = (one.param_groups[0]["params"][0] for one in (optimizer, other))
    assert torch.equal(optimizer.state[weight]["exp_avg"], other.state[loaded]["exp_avg"])


@pytest.mark.parametrize("name", ["adam", "racs", "muon"])
def test_a_refused_step_has_moved_nothing(name):
    """Whichever group holds what is refused."""
    matrix, embedding = parameters(SHAPES)[0], torch.nn.Embedding(10, 4, sparse=True)
    cls, before = registry.get(name)[0], matrix.detach().clone()
    optimizer = cls([{"params": [matrix]}, {"params": embedding.parameters()}], lr=0.01, **options_of(name))
    matrix.grad = gradient(SHAPES[0], 1, 0).to(matrix.dtype)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="reads dense gradients"):
        optimizer.step()
    assert torch.equal(matrix, before) and not optimizer.state[matrix]


@pytest.mark.parametrize("name", ["alice", "galore", "soap"])
def test_a_refresh_that_is_refused_in_one_group_has_moved_no_other(name):
    cls = registry.get(name)[0]
    first, second = parameters([(16, 24), (24, 16)])
    optimizer = cls([{"params": [first]}, {"params": [second]}], lr=0.01, **options_of(name))
    before = first.detach().clone()
    first.grad, second.grad = torch.ones_like(first), torch.full_like(second, float("nan"))
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        optimizer.step()
    assert torch.equal(first, before) and not optimizer.state


@pytest.mark.parametrize("change", [lambda w: w.double(), lambda w: w.half(), lambda w: w[:, :20], lambda w: w.mT])
@pytest.mark.parametrize("name", ["adam", "muon", "alice", "lion", "adam_8bit"])
def test_a_parameter_of_another_form_than_its_state_is_refused_before_anything_moves(name, change):
    """torch's fused Adam and passes in C++ would write outside of their moments."""
    optimizer = make(name, [SHAPES[0], (8, 4)])
    train(optimizer, range(1, 2))
    changed, other = optimizer.param_groups[0]["params"]
    changed.data = change(changed.data).contiguous()
    before = other.detach().clone()
    for weight in (changed, other):
        weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match="its state was made for"):
        optimizer.step()
    assert torch.equal(other, before)
    optimizer.state.clear()
    if changed.dtype != torch.float16:
        optimizer.step()
    else:
        with pytest.raises(ValueError, match="does not step float16 parameters"):
            optimizer.step()


@pytest.mark.parametrize("known", [lambda o: o.load_state_dict(o.state_dict()), BaseOptimizer.allocate_state, None])
@pytest.mark.parametrize("name", ["adam", "racs", "muon"])
def test_another_form_is_refused_after_loading_copying_and_allocating_too(name, known):
    optimizer = make(name)
    if known is not BaseOptimizer.allocate_state:
        train(optimizer, range(1, 2))
    if known is None:
        optimizer = copy.deepcopy(optimizer)
    else:
        known(optimizer)
    (weight,) = optimizer.param_groups[0]["params"]
    weight.data = torch.cat([weight.data] * 8)
    weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match="its state was made for"):
        optimizer.step()


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["adam_8bit", "soap", "alice"])
def test_steps_whatever_the_default_dtype_is(name, default):
    changes = {"state_bits": 8} if name == "adam_8bit" else {}
    expected, optimizer = train(make(name, **changes), range(1, 6)), make(name, **changes)
    (weight,) = optimizer.param_groups[0]["params"]
    for step in range(1, 6):
        weight.grad = gradient(SHAPES[0], step, 0).to(weight.dtype)
        torch.set_default_dtype(default)
        try:
            optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(weight, expected[0])


def test_groups_of_build_have_learning_rates_of_their_own():
    """A scheduler multiplies each in place: a shared tensor would be multiplied once for each group."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 8))
    for rate in (1.0, torch.tensor(1.0)):
        optimizer = optimizers.build(model, "lion", lr=rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        schedule.step(1.0)
        schedule.step(1.0)
        assert {float(group["lr"]) for group in optimizer.param_groups if group["label"] == "method"} == {0.5}


def test_a_stack_of_another_shape_is_made_anew():
    """SWAN has no state to be refused by, and steps matrices along their short side."""
    weight, fresh = torch.nn.Parameter(torch.randn(8, 12)), torch.nn.Parameter(torch.randn(12, 8))
    optimizer = optimizers.SWAN([weight], lr=0.1)
    weight.grad = torch.randn(8, 12)
    optimizer.step()
    weight.data = fresh.detach().clone()
    weight.grad = fresh.grad = torch.randn(12, 8)
    optimizer.step()
    optimizers.SWAN([fresh], lr=0.1).step()
    assert torch.equal(weight, fresh)


def test_a_copy_compiles_steps_where_the_original_does():
    optimizer = optimizers.RACS(parameters(SHAPES), lr=0.1)
    optimizer.compile_steps(on=("cuda",))
    assert copy.deepcopy(optimizer).compiled_on == pickle.loads(pickle.dumps(optimizer)).compiled_on == ("cuda",)


@pytest.mark.parametrize("name", ["adam", "racs", "lion"])
def test_what_no_method_can_step_is_refused_with_a_sentence(name):
    cls = registry.get(name)[0]
    with pytest.raises(ValueError, match="does not step float16 parameters"):
        cls([torch.nn.Parameter(torch.ones(4, 8, dtype=torch.float16))], lr=0.01)
    with pytest.raises(ValueError, match="maximize is no option"):
        cls([{"params": parameters(SHAPES), "maximize": True}], lr=0.01)
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = cls(embedding.parameters(), lr=0.01)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="reads dense gradients"):
        optimizer.step()
    with pytest.raises(ValueError, match="is in no group of this optimizer"):
        optimizer.step_parameter(torch.nn.Parameter(torch.ones(4, 8)))


def test_weights_rounded_stochastically_stay_the_only_kind():
    optimizer = make("racs", dtype=torch.bfloat16)
    optimizer.round_stochastically(seed=0)
    with pytest.raises(ValueError, match="for bfloat16 parameters"):
        optimizer.add_param_group({"params": parameters(SHAPES, torch.float32)})
    assert len(optimizer.param_groups) == 1


def test_the_rate_of_adams_part_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"^adam_lr must be"):
        optimizers.build(llama(), "racs", lr=0.01, adam_lr=-1.0)
