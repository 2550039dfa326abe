"""Loading checks everything before it changes anything."""

import copy
import pickle

import pytest
import torch

from optimizers import RACS, Adam, Adam8bit, AdamMini, Alice, GaLore, Muon, registry
from optimizers.parallel.state_dicts import RENAMED

from .harness import options_of, parameters, train


def stepped(cls, shape=(8, 16), lr=0.01, **options):
    weight = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    optimizer = cls([weight], lr=lr, **options)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return weight, optimizer


@pytest.mark.parametrize(
    ("cls", "foreign", "sentence"),
    [
        (Muon, lambda: stepped(torch.optim.AdamW, lr=5.0), "saved by another optimizer, not by Muon"),
        (Alice, lambda: stepped(torch.optim.AdamW, lr=5.0), "saved by another optimizer, not by Alice"),
        (Muon, lambda: stepped(Adam, lr=5.0), "holds exp_avg, exp_avg_sq, step; Muon holds exp_avg"),
        (Muon, lambda: stepped(Muon, (8, 20), lr=5.0), r"exp_avg has the shape \(8, 20\)"),
        (GaLore, lambda: stepped(Muon, lr=5.0), "holds exp_avg; GaLore holds basis"),
    ],
)
def test_a_refused_state_changes_nothing(cls, foreign, sentence):
    weight, optimizer = stepped(cls)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(foreign()[1].state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(value, after["state"][0][key]) for key, value in tensors(before).items())
    optimizer.step()
    assert weight.isfinite().all()


@pytest.mark.parametrize(
    ("cls", "made", "option", "value"),
    [
        (Alice, {"rank": 6, "leading": 2}, "rank", 8),
        (Alice, {"rank": 6, "leading": 2, "tracking": True}, "tracking", False),
        (Alice, {"rank": 6, "leading": 2}, "compensation", "two_sided"),
        (RACS, {"ema": True}, "ema", False),
        (Adam8bit, {}, "state_bits", 32),
    ],
)
def test_an_option_that_state_was_made_by_cannot_change(cls, made, option, value):
    """It would be ignored, or crash in a step, and what is saved would fit no optimizer."""
    weight, optimizer = stepped(cls, (64, 80), **made)
    before, saved = weight.detach().clone(), copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0][option] = value
    with pytest.raises(ValueError, match=rf"^{option} cannot change once there is state that was made by it"):
        optimizer.step()
    assert torch.equal(weight, before)
    edited = copy.deepcopy(optimizer.state_dict())
    _, other = stepped(cls, (64, 80), **made)
    with pytest.raises(ValueError, match=r"was saved with"):
        other.load_state_dict(edited)
    other.load_state_dict(saved)
    assert len(other.state_dict()["state"][0]) == len(saved["state"][0]) > 0
    optimizer.param_groups[0][option] = made.get(option, saved["param_groups"][0][option])
    optimizer.step()


@pytest.mark.parametrize("shapes", [[(4, 8), (64, 80)], [(64, 80), (4, 8)]])
@pytest.mark.parametrize(("option", "value"), [("rank", 8), ("compensation", "two_sided")])
def test_an_option_is_asked_about_for_every_parameter(shapes, option, value):
    """Rank 6 and rank 8 are the same to a matrix of four rows."""
    weights = parameters(shapes, torch.float32)
    optimizer = Alice(weights, rank=6, leading=2)
    train(optimizer, range(1, 3))
    before = [weight.detach().clone() for weight in weights]
    optimizer.param_groups[0][option] = value
    with pytest.raises(ValueError, match=rf"^{option} cannot change once there is state that was made by it"):
        optimizer.step()
    assert all(map(torch.equal, weights, before))
    edited = copy.deepcopy(optimizer.state_dict())
    other = Alice(parameters(shapes, torch.float32), rank=6, leading=2)
    with pytest.raises(ValueError, match=r"was saved with"):
        other.load_state_dict(edited)
    optimizer.param_groups[0] |= {"rank": 6, "compensation": "optimal", "update_interval": 0}
    with pytest.raises(ValueError, match=r"^update_interval must be"):
        optimizer.step()


def test_the_heads_that_state_was_made_for_cannot_change():
    weights = parameters([(8, 12)], torch.float32)
    optimizer = AdamMini([{"params": weights, "heads": 2, "role": "query"}])
    train(optimizer, range(1, 2))
    optimizer.param_groups[0]["heads"] = 4
    with pytest.raises(ValueError, match=r"^heads cannot change"):
        optimizer.step()


def test_a_group_that_takes_the_place_of_another_has_its_own_options():
    """Python may give a new group the address of one that is gone."""
    first, second = parameters([(16, 32), (16, 32)], torch.float32)
    optimizer = Alice([first], rank=4, leading=2)
    train(optimizer, range(1, 2))
    for _ in range(20):
        optimizer.param_groups.pop()
        optimizer.add_param_group({"params": [torch.nn.Parameter(second.detach().clone())], "rank": 6})
        train(optimizer, range(1, 3))


def test_state_of_other_code_loads_beside_a_method_that_cannot_be_made(monkeypatch):
    """What belongs to methods is asked of all that are registered, one of which may want square matrices."""

    class SquareOnly(Muon):
        def check_parameter(self, parameter, group):
            raise ValueError("SquareOnly steps square matrices")

    monkeypatch.setitem(registry._METHODS, "square_only", (SquareOnly, {}))
    (_, optimizer), (_, other) = stepped(Muon), stepped(Muon)
    saved = optimizer.state_dict()
    saved["state"][0]["slow_buffer"] = torch.ones(8, 16)
    other.load_state_dict(saved)
    assert torch.equal(other.state_dict()["state"][0]["slow_buffer"], torch.ones(8, 16))


def test_what_other_code_puts_into_the_state_is_saved_and_loaded(tmp_path):
    """As timm's Lookahead does."""
    (weight, optimizer), (_, other) = stepped(Muon), stepped(Muon)
    optimizer.state[weight]["slow_buffer"] = torch.arange(3, dtype=torch.int32)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    (state,) = other.state.values()
    assert torch.equal(state["slow_buffer"], torch.arange(3)) and state["slow_buffer"].dtype == torch.int32
    other.step()


def test_other_options_may_change_at_any_step():
    _, optimizer = stepped(Alice, (64, 80), rank=6, leading=2)
    optimizer.param_groups[0] |= {"lr": 0.5, "update_interval": 3, "leading": 1, "weight_decay": 0.1, "alpha": 0.1}
    optimizer.step()


def without(*path):
    def damage(saved):
        for key in path[:-1]:
            saved = saved[key]
        del saved[path[-1]]

    return damage


def holding(value, *path):
    def damage(saved):
        for key in path[:-1]:
            saved = saved[key]
        saved[path[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without("state"), "not the state_dict of an optimizer"),
        (without("param_groups"), "not the state_dict of an optimizer"),
        (holding(None, "state"), "not the state_dict of an optimizer"),
        (without("param_groups", 0, "params"), 'no list "params"'),
        (holding({}, "state", 7), "parameter 7 belongs to no group"),
        (holding([], "state", 0), "not a dict"),
        (without("state", 0, "exp_avg"), "state of parameter 0 holds basis, exp_avg_sq"),
        (without("state", 0, "step"), "lacks step"),
        (holding({"step": 1}, "state", 0), "holds no tensor"),
        (holding(torch.zeros(2), "state", 0, "row_scale"), "holds basis, exp_avg, exp_avg_sq, row_scale"),
        (holding(-1, "state", 0, "step"), "step is -1"),
        (holding(float("nan"), "state", 0, "step"), "step is nan"),
        (holding(torch.full((4, 16), float("nan")), "state", 0, "exp_avg"), "exp_avg holds NaN"),
        (holding(torch.zeros(4, 16, dtype=torch.complex64), "state", 0, "exp_avg"), "exp_avg is torch.complex64"),
        (holding(torch.zeros(4, 16, dtype=torch.int64), "state", 0, "exp_avg"), "exp_avg is torch.int64"),
        (holding(float("nan"), "param_groups", 0, "lr"), "^lr must"),
        (holding(float("nan"), "param_groups", 1, "lr"), "^lr must"),
        (holding((0.9, 2.0), "param_groups", 1, "betas"), "^betas must"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage, sentence):
    weight, vector = (torch.nn.Parameter(torch.ones(shape)) for shape in ((8, 16), (8,)))
    optimizer = GaLore([{"params": [weight]}, {"params": [vector], "algorithm": "adam"}], lr=0.01, rank=4)
    for p in (weight, vector):
        p.grad = torch.ones_like(p)
    optimizer.step()
    before, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(value, after["state"][0][key]) for key, value in tensors(before).items())
    optimizer.step()


def test_tensors_are_read_one_after_the_other_when_all_are_checked():
    """The state dict has shapes alone; values come when they are asked for."""
    weights, gradients = [torch.zeros(8, 16), torch.zeros(6, 4)], torch.randn(8, 16)
    saved, fresh = (Adam([torch.nn.Parameter(weight.clone()) for weight in weights], lr=0.1) for _ in range(2))
    for parameter in saved.param_groups[0]["params"]:
        parameter.grad = gradients[: parameter.shape[0], : parameter.shape[1]].clone()
    saved.step()
    live, asked = saved.full_state_dict(), []
    flat = {(i, key): value for i, state in live["state"].items() for key, value in state.items()}
    hidden = {place: value.to("meta") for place, value in flat.items()}
    places = {id(tensor): place for place, tensor in hidden.items()}
    state = {i: {key: hidden[i, key] for key in held} for i, held in live["state"].items()}

    def read(tensor):
        asked.append(places[id(tensor)])
        return flat[asked[-1]].clone()

    wrong = {**state, 1: {**state[1], "exp_avg": torch.empty(6, 5, device="meta")}}
    with pytest.raises(ValueError, match=r"exp_avg has the shape \(6, 5\)"):
        fresh.load_full_state_dict({**live, "state": wrong}, read)
    assert not asked and not fresh.state
    fresh.load_full_state_dict({**live, "state": state}, read)
    assert sorted(asked) == sorted(flat)
    loaded = fresh.full_state_dict()["state"]
    assert all(torch.equal(loaded[i][key], value) for (i, key), value in flat.items())


def test_another_number_of_parameters_is_refused():
    _, optimizer = stepped(Muon)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(ValueError, match="group 0 was saved with 2 parameters and has 1"):
        optimizer.load_state_dict(saved)
    saved["param_groups"] *= 2
    with pytest.raises(ValueError, match="has 2 groups of parameters, this one has 1"):
        optimizer.load_state_dict(saved)


def test_an_impossible_option_is_refused():
    _, optimizer = stepped(GaLore)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["rank"] = 0
    with pytest.raises(ValueError, match=r"^rank must"):
        optimizer.load_state_dict(saved)


def test_a_method_may_hold_a_former_name_beside_todays():
    @registry.register("two_averages")
    class TwoAverages(Muon):
        """Muon with a second average under torch's name."""

        def state_shapes(self, m, n, dtype, group):
            return super().state_shapes(m, n, dtype, group) | {"momentum_buffer": ((m, n), dtype)}

    optimizer, other = (TwoAverages(parameters(), lr=0.01) for _ in range(2))
    train(optimizer, range(1, 4))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for held, loaded in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert loaded.keys() == held.keys() and torch.equal(loaded["exp_avg"], held["exp_avg"])


@pytest.mark.parametrize(
    ("name", "changes"), [*((name, {}) for name in registry.names()), ("alice", {"compensation": "two_sided"})]
)
def test_state_under_its_former_names_loads(name, changes):
    """Checkpoints from before 0.2 say m1, v, momentum_buffer, column_power and row_power."""
    cls, options = registry.get(name)[0], options_of(name, **changes)
    optimizer = cls(parameters(), lr=0.01, **options)
    train(optimizer, range(1, 4))
    saved = copy.deepcopy(optimizer.state_dict())
    if name != "adam":  # whose names have not changed
        muon = name == "muon"
        former = {new: old for old, news in RENAMED.items() for new in news if muon or old != "momentum_buffer"}
        if not muon:
            former["exp_avg"] = "m1"
        else:
            former["exp_avg"] = "momentum_buffer"
        if "row_scale" in former and name == "racs":
            del former["row_scale"], former["column_scale"]  # these were its names before too
        saved["state"] = {
            i: {former.get(key, key): value for key, value in state.items()} for i, state in saved["state"].items()
        }
    resumed = cls(
        [p.detach().clone().requires_grad_() for p in optimizer.param_groups[0]["params"]], lr=0.01, **options
    )
    resumed.load_state_dict(saved)
    ahead, resumed_ahead = train(optimizer, range(4, 8)), train(resumed, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(ahead, resumed_ahead, strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_continues_as_the_original(duplicate):
    """Stochastic rounding included."""
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = Muon([weight], lr=1e-4)
    optimizer.round_stochastically(0)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    copied_weight, copied = duplicate((weight, optimizer))
    for w, o in ((weight, optimizer), (copied_weight, copied)):
        for _ in range(5):
            w.grad = torch.ones_like(w)
            o.step()
    assert torch.equal(weight, copied_weight)
    assert not torch.equal(weight, torch.ones_like(weight))


def tensors(state_dict):
    return {key: value for key, value in state_dict["state"][0].items() if isinstance(value, torch.Tensor)}
