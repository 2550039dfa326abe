"""Sharded parameters with states in 8 bits: owners, and one state for every layout."""

import pytest

from tests.distributed.narrow_worker import NAMES

WORKER = "narrow_worker.py"
EXACT = {"lion", "adam"}  # no sum over a matrix


@pytest.mark.parametrize("name", NAMES)
def test_sharded_state_in_8_bits_is_that_of_one_process(found, name):
    """A number at the boundary of two bytes may round to the other one where sums are in another order."""
    row = found[name]
    assert row["from alone"] <= (0 if name in EXACT else 0.01 * row["moved"])
    assert row["resumed"] == 0
    assert row["resumed alone"] <= (0 if name in EXACT else 0.01 * row["moved"])
    assert sum(row["bytes"]) == row["bytes alone"] and max(row["bytes"]) < 0.7 * row["bytes alone"]
    assert sum(count for (count,) in row["narrow"]) == 3


def test_dealt_steps_draw_the_noise_of_one_process(found):
    """Every process counts roundings, whoever makes them. A stack of other matrices differs by rounding."""
    row = found["dealt"]
    assert row["roundings"] == [3, 3, 3, None]
    assert row["resumed"] == 0
    assert row["from alone"] <= 0.01 and row["resumed alone"] <= 0.01
