"""State in 8 bits, for every method: against a plain form that rounds its moments between steps, and in every state
that an optimizer can be in."""

import copy
import io
import math
import pickle

import bitsandbytes
import pytest
import torch

import optimizers
from optimizers import Muon, kernels, registry
from optimizers.engine.eight_bit import SMALLEST
from optimizers.engine.generators import moment_source
from optimizers.functional.quantisation import BLOCK, byte_map, dequantised, quantised

from .harness import gradient, largest_difference, options_of, parameters, reference_step, train

NAMES = registry.names()
# 70 x 60 moments do not fill their last block; two of the matrices make a stack.
SHAPES = [(64, 70), (70, 64), (64, 70)]
STEPS = range(1, 21)
LR = 0.01
# Moments in the plain forms' letters, and whether their map has signs.
LETTERS = {"m": True, "M": True, "B": True, "v": False}
# A step that is a sign flips where the momentum is near 0.
BY_SIGN = {"lion"}
every_method = pytest.mark.parametrize("name", NAMES)
# bitsandbytes' own step keeps its bytes by a search of its own (tests/optimizers/test_8bit.py).
FUSED = {"adam", "adam_8bit"}
# Two solvers agree to 1e-9 on the last singular vectors, which rounds a number to the next byte now and then.
BY_SVD = {"galore", "galore_8bit", "fira", "apollo_svd"}


def options(name, **changes):
    """Small, but with moments of 60 x 70: large enough for bytes. SOAP's official refresh would round moments twice."""
    given = options_of(name, state_bits=8)
    if given.get("rank", 1) != 1:
        given["rank"] = 60
    if name == "soap":
        given["update_interval"] = 50
    return {**given, **changes}


def make(name, weights, **changes):
    return registry.get(name)[0](weights, lr=LR, **options(name, **changes))


def dynamic_map(signed):
    return bitsandbytes.functional.create_dynamic_map(signed=signed)


def rounded(moment, signed, noise=None):
    """The documented rule, in float64: of each block of 256 numbers the nearest value of the map to the number over the
    block's maximum, times that maximum. With noise, of the moment's shape: one of the two values around it. A positive
    number does not become 0 where the map has no signs."""
    values, flat = dynamic_map(signed).double(), moment.float().flatten()
    found = torch.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        largest = block.abs().max()
        if noise is not None and signed:
            largest = torch.maximum(largest, block.min() / values[0].float())
        scaled = (block / largest if largest > 0 else block).double()[:, None]
        if noise is None:
            index = (scaled - values).abs().argmin(1)
        else:
            index = ((scaled >= values).sum(1) - 1).clamp(0, 254)
            place = (scaled[:, 0] - values[index]) / (values[index + 1] - values[index])
            index += noise.flatten()[start : start + BLOCK] < place
        if not signed:
            index = torch.where(block > 0, index.clamp(min=1), index)
        found[start : start + BLOCK] = values.float()[index] * largest
    return found.view(moment.shape).to(moment.dtype)


def signs(state, plain):
    """Where a solver has given a column of a basis the other sign than the plain form's: 1 and -1, for the moments
    inside that basis, whose map is not symmetric."""
    found = torch.ones((), dtype=torch.float64)
    for key, letters, axis in (("basis", "U P", -1), ("left_basis", "UL", -1), ("right_basis", "UR", -2)):
        for letter in letters.split():
            if key in state and letter in plain:
                found = found * (state[key] * plain[letter]).sum(0).sign().unsqueeze(axis)
    return found


def noise_of(name, signed, given, step, index, moment):
    """Of an average of decay 0.99 and more, in the order of its elements; None for others."""
    betas = given.get("betas", (given.get("momentum", 0), 0))
    decay = betas[registry.get(name)[0].traits.first_decay if signed else 1]
    if decay < 0.99:
        return None
    key = "exp_avg" if signed else "exp_avg_sq"
    source = moment_source(given.get("seed", 0), step, index, key, device=torch.device("cpu"))
    return torch.rand(moment.numel(), generator=source).view(moment.shape)


def rounded_state(name, plain, state, given, step, index):
    """The moments of a plain form as bytes would hold them after this step of the matrix with this index."""
    for letter, signed in LETTERS.items():
        moment = plain.get(letter)
        large = isinstance(moment, torch.Tensor) and moment.ndim == 2 and moment.numel() >= SMALLEST
        if large and ("exp_avg" if signed else "exp_avg_sq") not in registry.get(name)[0].traits.exact:
            turned = signs(state, plain) if signed and name != "eigen_adam" else 1  # its m is not in the basis
            plain[letter] = (
                rounded(moment * turned, signed, noise_of(name, signed, given, step, index, moment)) * turned
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FUSED])
def test_equals_a_plain_form_that_rounds_its_moments_between_steps(name):
    """The plain form of the methods is float64; a moment is rounded as a float32 number."""
    optimizer, cls, given = make(name, parameters(SHAPES)), registry.get(name)[0], options(name)
    del given["state_bits"]
    weights = [weight.detach() for weight in parameters(SHAPES)]
    states = [{} for _ in weights]
    for step in STEPS:
        moved = train(optimizer, range(step, step + 1))
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            g = gradient(SHAPES[index], step, index)
            weights[index] = reference_step(cls, weights[index], g, states[index], t=step, index=index, lr=LR, **given)
            rounded_state(name, states[index], optimizer.state[parameter], given, step, index)
    assert largest_difference(moved, weights) < (3e-4 if name in BY_SVD else 1e-6)


@pytest.mark.slow
@every_method
def test_stays_close_to_the_wide_path(name):
    """Within 5 % of the distance gone."""
    narrow, wide = (train(make(name, parameters(SHAPES), state_bits=bits), STEPS) for bits in (8, 32))
    for a, b, start in zip(narrow, wide, parameters(SHAPES), strict=True):
        assert (a - b).norm() <= (0.15 if name in BY_SIGN else 0.05) * (b - start).norm()
    changes = any(value.dtype == torch.uint8 for value in held_tensors(name).values())
    assert changes == (largest_difference(narrow, wide) > 0)


@pytest.mark.slow
@every_method
def test_stacks_are_rounded_matrix_by_matrix(name, monkeypatch):
    """A block that spans two matrices would make a difference of a per cent."""
    together = train(make(name, parameters(SHAPES)), STEPS)
    monkeypatch.setattr(kernels, "STACK_UP_TO", {})
    alone = train(make(name, parameters(SHAPES)), STEPS)
    assert largest_difference(together, alone) < 1e-7


@every_method
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_bitwise(name, dtype):
    weights = parameters(SHAPES, dtype)
    optimizer = make(name, weights)
    train(optimizer, range(1, 4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = make(name, again)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one, other in zip(weights, again, strict=True):
        assert held_dtypes(optimizer, one) == held_dtypes(resumed, other)
    assert largest_difference(train(optimizer, range(4, 7)), train(resumed, range(4, 7))) == 0


def held_dtypes(optimizer, parameter):
    return {k: v.dtype for k, v in optimizer.state[parameter].items() if isinstance(v, torch.Tensor)}


def held_tensors(name, shape=SHAPES[0], dtype=torch.float32, **changes):
    """The state of one matrix, on the meta device."""
    weight = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
    optimizer = make(name, [weight], **changes)
    optimizer.allocate_state()
    return {key: value for key, value in optimizer.state[weight].items() if isinstance(value, torch.Tensor)}


@every_method
def test_only_moments_that_are_large_matrices_are_bytes(name):
    for dtype in (torch.float32, torch.bfloat16):
        narrow, wide = (held_tensors(name, dtype=dtype, state_bits=bits) for bits in (8, 32))
        for key, value in wide.items():
            large = key in ("exp_avg", "exp_avg_sq") and value.ndim == 2 and value.numel() >= SMALLEST
            if large and name != "dion":
                assert narrow[key].dtype == torch.uint8 and narrow[key].shape == value.shape
                assert narrow[f"{key}_absmax"].shape == (math.ceil(value.numel() / BLOCK),)
            elif name not in FUSED:
                assert narrow[key].dtype == value.dtype and f"{key}_absmax" not in narrow


def test_small_moments_stay_as_the_method_holds_them():
    small = {"shape": (8, 16), "dtype": torch.bfloat16}
    for name in set(NAMES) - FUSED:
        narrow, wide = (held_tensors(name, **small, state_bits=bits) for bits in (8, 32))
        assert {k: v.dtype for k, v in narrow.items()} == {k: v.dtype for k, v in wide.items()}, name


# ---- the map


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", ["kernels", "plain"])
def test_every_number_becomes_its_nearest_value(signed, form):
    """Rows of 700 numbers have a short last block each. Sizes span ten decades; one block is zero, one has NaN."""
    source = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 700, generator=source) * torch.logspace(-10, 0, 700)
    numbers = numbers if signed else numbers.square()
    numbers[0, :256] = 0
    made = byte_map(dynamic_map(signed), signed=signed)
    with kernels.disabled() if form == "plain" else torch.no_grad():
        codes, maxima = quantised(numbers, made)
        again = dequantised(codes, maxima, made.values)
        expected = torch.stack([rounded(row, signed) for row in numbers])
        numbers[2, 300] = math.nan
        poisoned = dequantised(*quantised(numbers, made), made.values)
    assert torch.equal(again, expected)
    assert poisoned[2, 256:512].isnan().all() and poisoned[2, :256].isfinite().all()


def test_a_second_moment_does_not_become_zero_beside_a_first_that_does_not():
    """bitsandbytes' nearest value of 1e-8 of a block's maximum is 0, and a method without eps would divide by it."""
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = optimizers.Alice([weight], lr=1.0, rank=64, leading=64, alpha=1.0, compensation="none", state_bits=8)
    for step in range(1, 30):
        weight.grad = gradient((64, 64), step, 0).float() * torch.logspace(0, -6, 64)[:, None]
        before = weight.detach().clone()
        optimizer.step()
        assert (weight - before).abs().max() < 20  # an update of Adam's size, in 64 directions at once


# ---- what an optimizer can be asked for besides


@pytest.mark.parametrize("name", ["muon", "alice", "lamb", "lion", "adam"])
def test_copies_and_pickles_go_on_alike(name):
    optimizer = make(name, parameters(SHAPES, torch.float32))
    train(optimizer, range(1, 3))
    copied, thawed = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    expected = train(optimizer, range(3, 5))
    assert largest_difference(train(copied, range(3, 5)), expected) == 0
    assert largest_difference(train(thawed, range(3, 5)), expected) == 0


@pytest.mark.parametrize("name", ["muon", "alice", "lamb", "lion", "adam"])
def test_step_parameter_and_frozen_parameters(name):
    together, one_by_one = (make(name, parameters(SHAPES, torch.float32)) for _ in range(2))
    for step in range(1, 5):
        train(together, range(step, step + 1))
        weights = one_by_one.param_groups[0]["params"]
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), step, index).float()
        for weight in reversed(weights):
            one_by_one.step_parameter(weight)
    assert largest_difference(together.param_groups[0]["params"], one_by_one.param_groups[0]["params"]) == 0
    frozen, moving = together.param_groups[0]["params"][0], together.param_groups[0]["params"][2]
    held = {key: copy.deepcopy(value) for key, value in together.state[frozen].items()}
    frozen.requires_grad_(False)
    frozen.grad, before = None, moving.detach().clone()
    together.step()
    assert not torch.equal(moving, before)
    assert all(torch.equal(torch.as_tensor(held[k]), torch.as_tensor(together.state[frozen][k])) for k in held)


def test_matrices_in_one_tensor_are_those_of_a_list():
    experts = torch.nn.Parameter(torch.stack([weight.detach() for weight in parameters([(64, 70)] * 3)]))
    alone = parameters([(64, 70)] * 3)
    stacked, listed = Muon([{"params": [experts], "stacked": True}], state_bits=8), Muon(alone, state_bits=8)
    for step in range(1, 6):
        experts.grad = torch.stack([gradient((64, 70), step, index) for index in range(3)])
        stacked.step(), train(listed, range(step, step + 1))
    assert stacked.state[experts]["exp_avg_absmax"].shape == (3, 18)
    assert largest_difference(list(experts), alone) < 1e-9


def test_vectors_of_stacked_matrices_stay_wide():
    """Those of all experts make a matrix together, which is none."""
    experts, vector = torch.nn.Parameter(torch.zeros(8, 640, 16)), torch.nn.Parameter(torch.zeros(8192))
    stacked = registry.get("normuon")[0]([{"params": [experts], "stacked": True}], state_bits=8)
    lion = registry.get("lion")[0]([vector], state_bits=8)
    for optimizer in (stacked, lion):
        optimizer.allocate_state()
    dtypes = {key: value.dtype for key, value in stacked.state[experts].items()}
    assert dtypes == {"exp_avg": torch.uint8, "exp_avg_absmax": torch.float32, "exp_avg_sq": torch.float32}
    assert {key: value.dtype for key, value in lion.state[vector].items()} == {"exp_avg": torch.float32}


@pytest.mark.parametrize("name", ["muon", "adam", "alice"])
def test_weights_round_stochastically(name):
    weights = parameters(SHAPES, torch.bfloat16)
    optimizer = make(name, weights)
    optimizer.round_stochastically(3)
    again = parameters(SHAPES, torch.bfloat16)
    twin = make(name, again)
    twin.round_stochastically(3)
    nearest = make(name, parameters(SHAPES, torch.bfloat16))
    moved = train(optimizer, range(1, 5))
    assert largest_difference(moved, train(twin, range(1, 5))) == 0
    assert 0 < largest_difference(moved, train(nearest, range(1, 5))) < 0.1
    assert optimizer.state[weights[0]]["writes"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soap", "alice", "ldadam"])
def test_refreshes_that_are_shared_are_those_of_one_process(name, monkeypatch):
    """A refresh ends with bytes, which are what is sent."""
    sent = []
    often = {"update_interval": 3} if "update_interval" in registry.options(name) else {}
    send = "optimizers.parallel.shared_refresh.send_to_all"
    monkeypatch.setattr(send, lambda parts, _: sent.append(parts) or [])
    shared, alone = (make(name, parameters(SHAPES, torch.float32), **often) for _ in range(2))
    shared.share_refreshes(AloneInGroup())
    assert largest_difference(train(shared, STEPS), train(alone, STEPS)) == 0
    if name == "soap":
        assert any(tensor.dtype == torch.uint8 for parts in sent for tensor in parts[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "galore_8bit"])
def test_a_compiled_step_gets_wide_moments_and_leaves_bytes(name, monkeypatch):
    """Moments are widened before the graph and quantised after it; a byte may be the next one, where sums differ."""
    weights = parameters(SHAPES, torch.float32)
    optimizer, made = make(name, weights), []
    original = kernels.step_compiled
    monkeypatch.setattr(kernels, "step_compiled", lambda *args, **kw: made.append(original(*args, **kw)) or made[-1])
    optimizer.compile_steps({"cpu"})
    moved = train(optimizer, range(1, 6))
    if not any(made):
        pytest.skip("needs a C++ compiler")
    expected, start = train(make(name, parameters(SHAPES, torch.float32)), range(1, 6)), parameters(SHAPES)
    for after, eager, before in zip(moved, expected, start, strict=True):
        assert (after - eager).norm() < 0.003 * (eager - before).norm()
    assert optimizer.state[weights[0]]["exp_avg"].dtype == torch.uint8


class AloneInGroup:
    """A group of one process."""

    def rank(self):
        return 0

    def size(self):
        return 1


def test_an_adam_group_stays_wide_but_for_the_names_that_step_everything():
    matrix, vector = parameters([(64, 70)], torch.float32)[0], torch.nn.Parameter(torch.zeros(5000))
    optimizer = Muon([{"params": [matrix]}, {"params": [vector], "algorithm": "adam"}], state_bits=8)
    optimizer.allocate_state()
    assert optimizer.state[vector]["exp_avg"].dtype == torch.float32
    assert "state_bits" not in optimizer.param_groups[1]
