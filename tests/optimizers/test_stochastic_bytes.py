"""Moments in 8 bits that are rounded stochastically."""

import math

import bitsandbytes
import pytest
import torch

from optimizers import kernels
from optimizers.functional.quantisation import BLOCK, byte_map, dequantised, quantised

MAPS = {
    signed: byte_map(bitsandbytes.functional.create_dynamic_map(signed=signed), signed=signed)
    for signed in (True, False)
}
either_map = pytest.mark.parametrize("signed", [True, False])


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
