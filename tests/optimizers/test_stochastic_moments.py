"""Moments that are rounded stochastically: in 8 bits, and of bfloat16 with its weights."""

import io
import math

import bitsandbytes
import pytest
import torch

from optimizers import kernels, registry
from optimizers.engine import moment_draws
from optimizers.engine.generators import moment_source
from optimizers.functional import rounding
from optimizers.functional.quantisation import BLOCK, byte_map, dequantised, quantised

from .harness import gradient, largest_difference, options_of, parameters, train

# Slow moments of each kind: of stacks, whose steps are counted or not, of lists, and moments that a refresh writes.
SLOW = {
    "galore_8bit": {"rank": 60},
    "lion": {},
    "muon": {"momentum": 0.99},
    "lamb": {},
    "lars": {"momentum": 0.99},
    "soap": {"betas": (0.99, 0.999), "stagger": True},
}
COUNTED = {"lion", "muon", "lars"}  # no steps are counted, so roundings are
SHAPES = [(64, 70), (70, 64), (64, 70), (9, 7)]  # two make a stack; the last is too small for bytes
MAPS = {
    signed: byte_map(bitsandbytes.functional.create_dynamic_map(signed=signed), signed=signed)
    for signed in (True, False)
}
either_map = pytest.mark.parametrize("signed", [True, False])
each_slow = pytest.mark.parametrize("name", SLOW)


def make(name, weights, **changes):
    given = options_of(name, state_bits=8, **SLOW.get(name, {}))
    return registry.get(name)[0](weights, lr=0.01, **{**given, **changes})


def float32():
    return parameters(SHAPES, torch.float32)


def numbers(signed):
    """Rows of 700 numbers over ten decades, whose last block is short; one block is zero."""
    source = torch.Generator().manual_seed(0)
    found = torch.randn(3, 700, generator=source) * torch.logspace(-10, 0, 700)
    found[0, :BLOCK] = 0
    return found if signed else found.square()


def noise(like, seed=0):
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))


# ---- the rounding itself


@either_map
def test_a_number_becomes_one_of_the_two_values_around_it(signed):
    made, given = MAPS[signed], numbers(signed)
    codes, maxima = quantised(given, made, noise(given))
    scales = maxima.repeat_interleave(BLOCK, -1)[:, :700]
    scaled = (given / torch.where(scales == 0, 1.0, scales)).clamp(min=made.values[0])
    index = codes.long()
    below, above = made.values[(index - 1).clamp(min=0)], made.values[(index + 1).clamp(max=255)]
    assert ((scaled > below) | (index == 0)).all() and ((scaled < above) | (index == 255)).all()
    if not signed:
        assert (codes[given > 0] > 0).all()


@either_map
def test_the_mean_of_many_roundings_is_the_number(signed):
    """The largest of the block is negative where there are signs. Second moments above the least value of the map."""
    source, draws = torch.Generator().manual_seed(1), 10_000
    block = torch.randn(BLOCK, generator=source) * torch.logspace(-5, 0, BLOCK)
    block[-1] = -3
    block = block if signed else block.square().clamp(min=1e-5)
    repeated = block.expand(draws, BLOCK).contiguous()
    codes, maxima = quantised(repeated, MAPS[signed], noise(repeated))
    rounded = dequantised(codes, maxima, MAPS[signed].values).double()
    gap = rounded.amax(0) - rounded.amin(0)
    assert ((rounded.mean(0) - block).abs() <= 5 * 0.5 * gap / draws**0.5 + 1e-6 * block.abs()).all()  # standard errors
    assert (gap > 0).sum() > 200


@either_map
def test_values_of_the_map_stay(signed):
    """So does a block's largest number."""
    given = 3 * MAPS[signed].values[None]
    codes, maxima = quantised(given, MAPS[signed], noise(given))
    assert torch.equal(dequantised(codes, maxima, MAPS[signed].values), given)


@either_map
def test_compiled_passes_are_the_plain_form_to_the_bit(signed):
    given = numbers(signed)
    given[1, 300], given[2, -1] = math.nan, math.inf
    found = quantised(given, MAPS[signed], noise(given))
    with kernels.disabled():
        plain = quantised(given, MAPS[signed], noise(given))
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[1], plain[1], rtol=0, atol=0, equal_nan=True)
    assert found[1][1, 1].isnan() and found[1][1, 0].isfinite()


# ---- the steps


def follow(bits):
    """The second moment, of 8 bits or of 32, in half of a matrix whose gradients have become a hundredth."""
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = make("lamb", [weight], betas=(0.9, 0.99), state_bits=bits)
    source, falls = torch.Generator().manual_seed(0), torch.arange(64) < 32
    scales = torch.randn(64, generator=source).exp()
    for step in range(400):
        weight.grad = torch.randn(64, 64, generator=source) * scales
        weight.grad[:, falls] *= 0.01 if step >= 50 else 1
        optimizer.step()
    state = optimizer.state[weight]
    moment = state["exp_avg_sq"]
    if bits == 8:
        moment = dequantised(moment.reshape(1, -1), state["exp_avg_sq_absmax"][None], MAPS[False].values).view(64, 64)
    return moment[:, falls]


@pytest.mark.parametrize("rounds", [True, False])
def test_a_second_moment_comes_down_with_its_gradients(rounds, monkeypatch):
    """Rounded to nearest it does not."""
    if not rounds:
        monkeypatch.setattr(moment_draws, "SLOW", 1)
    ratios = follow(8) / follow(32)
    if rounds:
        assert 0.5 < ratios.median() < 1.5 and 0.8 < ratios.mean() < 1.25
    else:
        assert ratios.median() > 10


def recorded(monkeypatch):
    """What every source of noise is asked of from now on."""
    asked = []

    def source(*key, device, refresh):
        asked.append((*key, refresh))
        return moment_source(*key, device=device, refresh=refresh)

    monkeypatch.setattr(moment_draws, "moment_source", source)
    return asked


@pytest.mark.parametrize("name", ["muon", "alice", "scale", "soap", "lars", "adam"])
def test_fast_averages_and_the_fused_step_draw_nothing(name, monkeypatch):
    asked = recorded(monkeypatch)
    optimizer = registry.get(name)[0](float32(), lr=0.01, **options_of(name, state_bits=8))
    train(optimizer, range(1, 5))
    assert not asked and not any("roundings" in state for state in optimizer.state.values())


def test_the_decay_of_a_moment_is_the_one_it_is_averaged_with(monkeypatch):
    """Lion averages with its second beta, and a three of betas has two of moments."""
    asked = recorded(monkeypatch)
    cases = {
        "lion": {"betas": (0.999, 0.9)},
        "eigen_adam": {"betas": (0.99, 0.9, 0.999)},
        "ldadam": {"betas": (0.9, 0.99), "rank": 64},
        "galore": {"betas": (0.99, 0.9), "rank": 64},
        "dion": {"momentum": 0.999},
    }
    for name, changes in cases.items():
        train(make(name, parameters(SHAPES[:1], torch.float32), **changes), range(1, 3))
        found = {key for _, _, _, key, _ in asked}
        assert found == {"eigen_adam": {"exp_avg"}, "ldadam": {"exp_avg_sq"}, "galore": {"exp_avg"}}.get(name, set())
        asked.clear()


def test_a_moment_whose_decay_no_known_option_tells_may_be_slow():
    """To nearest a slow one would stay for ever, and nothing would say so."""
    for given, moments in (
        ({"beta1": 0.9}, {"exp_avg", "exp_avg_sq"}),
        ({"momentum": 0.9}, {"exp_avg_sq"}),
        ({"momentum": 0.99}, {"exp_avg", "exp_avg_sq"}),
        ({"betas": (0.9, 0.9)}, set()),
    ):
        group = {"state_bits": 8, **given}
        assert set(moment_draws.slow(make("muon", float32()), group)) == moments


@each_slow
def test_no_draw_is_used_twice(name, monkeypatch):
    asked = recorded(monkeypatch)
    train(make(name, float32()), range(1, 8))
    assert asked and len(set(asked)) == len(asked)
    assert any(refresh for *_, refresh in asked) == (name == "soap")


# Of bfloat16: the options, and the moments that are slow with them.
OF_BFLOAT16 = {
    "galore": ({"rank": 60}, {"exp_avg_sq"}),
    "muon": ({"momentum": 0.99}, {"exp_avg"}),
    "soap": ({"betas": (0.99, 0.999), "stagger": True}, {"exp_avg", "exp_avg_sq"}),
    "eigen_adam": ({}, set()),
}
of_bfloat16 = pytest.mark.parametrize("name", OF_BFLOAT16)


def of_bfloat16_weights(name, *, rounds=True, **changes):
    weights = parameters(SHAPES, torch.bfloat16)
    given = options_of(name, **OF_BFLOAT16[name][0], **changes)
    optimizer = registry.get(name)[0](weights, lr=0.01, **given)
    if rounds:
        optimizer.round_stochastically(0)
    return optimizer


@of_bfloat16
def test_slow_moments_of_bfloat16_are_rounded_stochastically_with_the_weights(name, monkeypatch):
    """Each number is one of the two around what rounding to nearest rounds; that of a fast moment is the nearest."""
    asked = recorded(monkeypatch)
    stochastic, nearest = of_bfloat16_weights(name), of_bfloat16_weights(name, rounds=False)
    for optimizer in (stochastic, nearest):
        train(optimizer, range(1, 2))
    for one, other in zip(stochastic.state.values(), nearest.state.values(), strict=True):
        for key in {"exp_avg", "exp_avg_sq"} & other.keys():
            assert one[key].dtype == torch.bfloat16
            if key in OF_BFLOAT16[name][1]:
                distances = (one[key].view(torch.int16).int() - other[key].view(torch.int16).int()).abs()
                assert distances.max() <= 1 and (distances.any() or not other[key].any())
            else:
                assert torch.equal(one[key], other[key])
    train(stochastic, range(2, 8))
    assert {key for _, _, _, key, _ in asked} == OF_BFLOAT16[name][1]
    assert len(set(asked)) == len(asked)
    assert any(refresh for *_, refresh in asked) == (name == "soap")


@of_bfloat16
def test_noise_of_bfloat16_does_not_depend_on_stacks(name, monkeypatch):
    asked = recorded(monkeypatch)
    train(of_bfloat16_weights(name), range(1, 5))
    together = set(asked)
    asked.clear()
    monkeypatch.setattr(kernels, "STACK_UP_TO", {})
    train(of_bfloat16_weights(name), range(1, 5))
    assert set(asked) == together


def test_small_moments_of_bfloat16_beside_bytes_are_rounded_too(monkeypatch):
    """By the seed of the weights' rounding, as all of bfloat16."""
    asked = recorded(monkeypatch)
    optimizer = of_bfloat16_weights("galore", state_bits=8)
    optimizer.round_stochastically(77)
    train(optimizer, range(1, 3))
    assert {(seed, index) for seed, _, index, _, _ in asked} == {(0, 0), (0, 1), (0, 2), (77, 3)}
    assert [state["exp_avg_sq"].dtype for state in optimizer.state.values()] == [torch.uint8] * 3 + [torch.bfloat16]


@each_slow
def test_roundings_are_counted_where_steps_are_not(name):
    optimizer = make(name, float32())
    train(optimizer, range(1, 4))
    *large, small = optimizer.state.values()
    assert [state.get("roundings") for state in large] == [3 if name in COUNTED else None] * 3
    assert "roundings" not in small


def test_no_draw_is_used_twice_where_a_moment_becomes_slow(monkeypatch):
    """As momentum that is warmed up does. Until then writes are counted, and no roundings."""
    asked = recorded(monkeypatch)
    optimizer = make("muon", parameters(SHAPES[:1], torch.bfloat16), momentum=0.9)
    optimizer.round_stochastically(0)
    train(optimizer, range(1, 4))
    optimizer.param_groups[0]["momentum"] = 0.99
    train(optimizer, range(4, 9))
    assert len(asked) == len(set(asked)) == 5


def test_moments_are_rounded_in_pieces(monkeypatch):
    """A stack of two and a tall matrix; the noise of a piece is all that is drawn at once."""
    monkeypatch.setattr(rounding, "PIECE", 512)
    pieces, whole = [], rounding.stochastic
    monkeypatch.setattr(rounding, "stochastic", lambda exact, source: pieces.append(exact) or whole(exact, source))
    train(of_bfloat16_weights("galore"), range(1, 3))
    assert len(pieces) > 40 and all(piece.numel() <= 512 for piece in pieces)


@each_slow
def test_a_resume_in_the_middle_is_exact(name):
    weights = float32()
    optimizer = make(name, weights)
    train(optimizer, range(1, 4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = make(name, [torch.nn.Parameter(weight.detach().clone()) for weight in weights])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert largest_difference(train(optimizer, range(4, 8)), train(resumed, range(4, 8))) == 0


@each_slow
def test_one_parameter_at_a_time_is_a_step(name):
    together, one_by_one = make(name, float32()), make(name, float32())
    weights = one_by_one.param_groups[0]["params"]
    for step in range(1, 5):
        expected = train(together, range(step, step + 1))
        for index, weight in reversed(list(enumerate(weights))):
            weight.grad = gradient(tuple(weight.shape), step, index).float()
            one_by_one.step_parameter(weight)
        assert largest_difference(expected, weights) == 0


@each_slow
def test_noise_does_not_depend_on_stacks(name, monkeypatch):
    """Lion, LAMB and LARS have no product that does; in float64 others draw for numbers that differ by rounding."""
    together = train(make(name, parameters(SHAPES)), range(1, 8))
    monkeypatch.setattr(kernels, "STACK_UP_TO", {})
    alone = train(make(name, parameters(SHAPES)), range(1, 8))
    assert largest_difference(together, alone) <= (0 if name in ("lion", "lamb", "lars") else 1e-7)


def test_matrices_in_one_tensor_have_noise_of_their_own():
    experts = torch.nn.Parameter(torch.zeros(3, 64, 70))
    optimizer = make("lion", [{"params": [experts], "stacked": True}])
    for step in range(1, 3):
        experts.grad = gradient((64, 70), step, 0).float().expand(3, 64, 70).clone()
        optimizer.step()
    codes = optimizer.state[experts]["exp_avg"]
    assert optimizer.state[experts]["roundings"] == 2
    assert not torch.equal(codes[0], codes[1]) and not torch.equal(codes[1], codes[2])


def test_a_saved_count_of_roundings_is_checked():
    optimizer = make("lion", float32())
    train(optimizer, range(1, 3))
    saved = optimizer.state_dict()
    saved["state"][0]["roundings"] = -1
    with pytest.raises(ValueError, match="roundings is -1"):
        optimizer.load_state_dict(saved)
