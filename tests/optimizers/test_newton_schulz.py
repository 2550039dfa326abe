"""Newton-Schulz iterations in half precision: widths of a multiple of 8, results of the width asked for."""

import contextlib

import pytest
import torch

from optimizers import kernels
from optimizers.functional.newton_schulz import CUBIC, newton_schulz

from .conftest import cuda_functions

QUINTIC = (3.4445, -4.7750, 2.0315)


def stack(n, dtype):
    matrix = torch.randn(3, 9, n, generator=torch.Generator().manual_seed(n))
    return (matrix / matrix.norm(dim=(-2, -1), keepdim=True)).to(dtype)


@pytest.fixture
def widths(monkeypatch):
    """The last sizes of what is multiplied."""
    seen, product = set(), torch.baddbmm

    def watched(base, left, right, **options):
        seen.add(right.shape[-1])
        return product(base, left, right, **options)

    monkeypatch.setattr(torch, "baddbmm", watched)
    return seen


@pytest.mark.parametrize("form", [contextlib.nullcontext, cuda_functions], ids=["cpu", "cuda"])
@pytest.mark.parametrize("coefficients", [CUBIC, QUINTIC])
@pytest.mark.parametrize("n", [13, 16, 21])
def test_half_precision_is_padded_and_gives_the_same(widths, n, coefficients, form):
    given = stack(n, torch.bfloat16)
    with form():
        found = newton_schulz(given.clone(), coefficients, 5)
    assert found.shape == (3, 9, n)
    assert {width % 8 for width in widths - {9}} == {0}
    exact = newton_schulz(given.double(), coefficients, 5)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3e-2)


def test_full_precision_is_left_alone(widths):
    with kernels.disabled():
        newton_schulz(stack(13, torch.float32), QUINTIC, 1)
    assert widths == {9, 13}
