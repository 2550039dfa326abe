"""Random sources that are functions of (seed, step, parameter, purpose)."""

import itertools

import pytest
import torch

from optimizers.engine.generators import generator

KEY = {"seed": 3, "step": 5, "index": 7, "purpose": "rounding"}


def draw(**changes) -> torch.Tensor:
    key = KEY | changes
    source = generator(key["seed"], key["step"], key["index"], purpose=key["purpose"])
    return torch.randint(2**62, (4,), generator=source)


def test_the_same_key_gives_the_same_draws_whatever_was_drawn_before():
    first = draw()
    torch.rand(3), draw(step=6)
    assert torch.equal(first, draw())


@pytest.mark.parametrize("part", KEY)
def test_every_part_of_the_key_counts(part):
    """Seeds may be large: a CPU generator itself reads only 32 bits."""
    values = ["", "rounding", "basis"] if part == "purpose" else [0, 1, 2, 2**32, 2**32 + 1, -1]
    draws = [draw(**{part: value}) for value in values]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(draws, 2))


def test_parts_of_the_key_do_not_stand_for_each_other():
    keys = [(1, 11, 1), (11, 1, 1), (1, 1, 11), (1, 111, 0), (11, 11, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    draws = [draw(seed=seed, step=step, index=index) for seed, step, index in keys]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(draws, 2))
