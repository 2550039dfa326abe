"""Sharded parameters that are stepped as wholes, most with states in 8 bits: owners, one state for every layout."""

import pytest

from tests.distributed.narrow_worker import NAMES

WORKER = "narrow_worker.py"
EXACT = {"lion", "adam", "unit"}  # no sum over a matrix, or of the same matrix


@pytest.mark.parametrize("name", NAMES)
def test_sharded_state_in_8_bits_is_that_of_one_process(found, name):
    """A number at the boundary of two bytes may round to the other one where sums are in another order."""
    row = found[name]
    assert row["from alone"] <= (0 if name in EXACT else 0.01 * row["moved"])
    assert row["resumed"] == 0
    assert row["resumed alone"] <= (0 if name in EXACT else 0.01 * row["moved"])
    assert sum(row["bytes"]) == row["bytes alone"] and max(row["bytes"]) < 0.7 * row["bytes alone"]
    assert sum(count for (count,) in row["narrow"]) == 3


def test_sharded_parameters_of_a_new_method_are_stepped_as_wholes(found):
    row = found["wide"]
    assert row["from alone"] == row["resumed"] == row["resumed alone"] == 0 < row["moved"]
    assert sum(row["bytes"]) == row["bytes alone"] and min(row["bytes"]) > 0.2 * row["bytes alone"]


def test_dealt_steps_draw_the_noise_of_one_process(found):
    """Every process counts roundings, whoever makes them. A stack of other matrices differs by rounding."""
    row = found["dealt"]
    assert row["roundings"] == [3, 3, 3, None]
    assert row["resumed"] == 0
    assert row["from alone"] <= 0.01 and row["resumed alone"] <= 0.01
