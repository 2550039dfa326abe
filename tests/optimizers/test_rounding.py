"""Stochastic rounding of bfloat16 weights."""

import io

import pytest
import torch

from optimizers import registry
from optimizers.engine.generators import rounding_source
from optimizers.engine.refusals import can_round
from optimizers.functional import rounding

from .harness import assert_follows_in_bfloat16, gradient, options_of, parameters, reference, train

ROUNDING = [name for name in registry.names() if can_round(registry.get(name)[0])]


def make(name, weights, lr=0.01, seed=3, **changes):
    optimizer = registry.get(name)[0](weights, lr=lr, **options_of(name, **changes))
    optimizer.round_stochastically(seed)
    return optimizer


def source(seed=0):
    return rounding_source(seed, 1, 0, torch.device("cpu"))


# ---- the rounding itself


@pytest.mark.parametrize("value", [1.001, -1.001, 3e-5, -0.7, 1e30, 1e-39])
def test_gives_the_two_neighbours_with_the_right_mean(value):
    exact = torch.full((100_000,), value)
    rounded = rounding.stochastic(exact, source()).double()
    lower_half_off = exact[0].view(torch.int32) & ~0xFFFF
    nearer_zero = lower_half_off.view(torch.float32).item()
    further = (lower_half_off + 0x10000).view(torch.float32).item()
    assert set(rounded.tolist()) == {nearer_zero, further}
    gap = abs(further - nearer_zero)
    assert abs(rounded.mean().item() - exact[0].item()) < 5 * 0.5 * gap / 100_000**0.5  # five standard errors


def test_keeps_bfloat16_numbers_infinity_and_nan():
    held = torch.randn(1000).bfloat16()
    assert torch.equal(rounding.stochastic(held.float(), source()), held)
    special = torch.tensor([float("inf"), -float("inf"), 0.0, -0.0])
    assert torch.equal(rounding.stochastic(special, source()), special.bfloat16())
    quiet = torch.tensor([0x7FFFFFFF, 0x7FC00000, -1, -0x400000], dtype=torch.int32).view(torch.float32)
    assert rounding.stochastic(quiet, source()).isnan().all()


def test_sources_differ_by_seed_write_and_parameter():
    device = torch.device("cpu")
    draws = {torch.rand((), generator=rounding_source(*key, device)).item()
             for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (0, 1, 0)]}  # fmt: skip
    assert len(draws) == 4


# ---- the steps


@pytest.mark.parametrize("algorithm", ["method", "adam"])
def test_updates_too_small_for_the_weight_count_on_average(algorithm):
    # An update of SGD's size: Muon's and Adam's elements are lr. A weight of 1 has a neighbour at distance 2^-7.
    lr, steps = 2.0**-12, 32
    start = torch.ones(64, 64, dtype=torch.bfloat16)
    moved = {}
    for kind in ("nearest", "stochastic"):
        weight = torch.nn.Parameter(start.clone())
        optimizer = registry.get("swan")[0]([{"params": [weight], "algorithm": algorithm, "lr": lr}])
        if kind == "stochastic":
            optimizer.round_stochastically(0)
        for step in range(1, steps + 1):
            weight.grad = gradient((64, 64), 1 if algorithm == "adam" else step, 0).bfloat16()
            optimizer.step()
        moved[kind] = weight.double() - 1
    assert not moved["nearest"].any()
    if algorithm == "adam":  # a constant gradient: every step is lr against its sign
        expected = -lr * steps * gradient((64, 64), 1, 0).sign()
        error = (moved["stochastic"] - expected).mean().abs()
        assert error < 5 * 2.0**-8 * steps**0.5 / 64
    assert moved["stochastic"].std() > lr


@pytest.mark.parametrize("name", ROUNDING)
def test_is_close_to_the_plain_form_and_decays(name):
    for changes in ({}, {"weight_decay": 0.1}):
        weights = parameters(dtype=torch.bfloat16, scale=0.02)
        start = [weight.detach().clone() for weight in weights]
        moved = train(make(name, weights, **changes), range(1, 4))
        expected = reference(registry.get(name)[0], start, options_of(name, **changes), range(1, 4), 0.01)
        assert_follows_in_bfloat16(name, moved, expected, start)


@pytest.mark.parametrize("name", ["adam", "racs", "alice", "galore"])
def test_same_draws_after_a_resume_and_one_parameter_at_a_time(name):
    """Adam and GaLore round second moments too."""

    def bfloat16():
        return parameters(dtype=torch.bfloat16)

    whole, halves, released = bfloat16(), bfloat16(), bfloat16()
    expected = train(make(name, whole), range(1, 7))

    first = make(name, halves)
    train(first, range(1, 4))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(name, halves)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(torch.equal, train(second, range(4, 7)), expected))

    optimizer = make(name, released)
    for step in range(1, 7):
        for index, weight in reversed(list(enumerate(released))):
            weight.grad = gradient(tuple(weight.shape), step, index).bfloat16()
            optimizer.step_parameter(weight)
    assert all(map(torch.equal, released, expected))
    assert not all(map(torch.equal, train(make(name, bfloat16(), seed=4), range(1, 7)), expected))


def test_adam_in_pieces_is_adam(monkeypatch):
    # Fast moments are torch's to the bit, the weights a neighbour of what float32 would hold.
    weights, twins = parameters([(40, 8)], torch.bfloat16), parameters([(40, 8)], torch.bfloat16)
    monkeypatch.setattr(rounding, "PIECE", 24)
    fast = (0.9, 0.95)
    rounded, plain = make("adam", weights, betas=fast), registry.get("adam")[0](twins, lr=0.01, betas=fast)
    for step in (1, 2, 3):
        twins[0].data.copy_(weights[0])
        train(rounded, range(step, step + 1)), train(plain, range(step, step + 1))
        for key, value in plain.state[twins[0]].items():
            assert torch.equal(rounded.state[weights[0]][key], value)
        assert (weights[0].float() / twins[0].float() - 1).abs().max() <= 2.0**-7


# ---- slow moments


def second_moment(name, dtype, *, rounds):
    """Its mean, of a matrix whose gradients become a hundredth after 50 steps of 500. In a step it falls by 1/500 at
    most, and 1/512 to 1/256 of a number is half the distance to the next bfloat16."""
    weight = torch.nn.Parameter(torch.ones(32, 64, dtype=dtype))
    options = {"rank": 32, "update_interval": 10**6} if name == "galore" else {}
    optimizer = registry.get(name)[0]([weight], lr=0.0, betas=(0.9, 0.998), **options)
    if rounds:
        optimizer.round_stochastically(0)
    source = torch.Generator().manual_seed(0)
    for step in range(500):
        weight.grad = (torch.randn(32, 64, generator=source) * (1 if step < 50 else 0.01)).to(dtype)
        optimizer.step()
    return optimizer.state[weight]["exp_avg_sq"].double().mean()


@pytest.mark.parametrize("name", ["adam", "galore"])
def test_a_slow_second_moment_comes_down_with_its_gradients(name):
    """Rounded to nearest it does not."""
    exact = second_moment(name, torch.float32, rounds=False)
    assert abs(second_moment(name, torch.bfloat16, rounds=True) / exact - 1) < 0.02
    assert second_moment(name, torch.bfloat16, rounds=False) / exact > 1.5


def test_refused_where_it_cannot_be():
    with pytest.raises(ValueError, match="not possible with LARS"):
        make("lars", parameters(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="bfloat16"):
        make("racs", parameters())
    for seed in (None, 1.5, "1", True):
        with pytest.raises(ValueError, match="the seed of stochastic rounding must be a whole number, got"):
            registry.get("racs")[0](parameters(dtype=torch.bfloat16)).round_stochastically(seed)


def test_rounding_that_was_not_asked_for_again_after_loading_is_asked_for():
    saved = make("racs", parameters([(8, 12)], torch.bfloat16))
    train(saved, range(1, 3))
    resumed = registry.get("racs")[0](parameters([(8, 12)], torch.bfloat16), lr=0.01)
    resumed.load_state_dict(saved.state_dict())
    with pytest.raises(ValueError, match=r"call round_stochastically\(seed\) with the same seed"):
        train(resumed, range(3, 4))
    resumed.round_stochastically(3)
    train(resumed, range(3, 4))
