"""The learning rate over a run."""

import pytest

from training.schedule import lr_factor

PAPER = {"warmup_fraction": 0.1, "final_fraction": 0.1, "first_lr_zero": False}


def test_warms_up_linearly_from_a_first_value_above_zero():
    factors = [lr_factor(step, steps=1000, **PAPER) for step in range(1, 101)]
    assert factors == pytest.approx([step / 100 for step in range(1, 101)])


@pytest.mark.parametrize(("steps", "warmup"), [(14, 1), (15, 2), (16, 2), (24, 2), (26, 3)])
def test_a_warmup_is_the_nearest_whole_number_of_steps(steps, warmup):
    factors = [lr_factor(step, steps=steps, **PAPER) for step in range(1, warmup + 2)]
    assert factors[:warmup] == [step / warmup for step in range(1, warmup + 1)] and factors[warmup] < 1


def test_falls_along_a_half_cosine_to_the_final_fraction():
    assert lr_factor(100, steps=1000, **PAPER) == 1.0
    assert lr_factor(550, steps=1000, **PAPER) == pytest.approx(0.55)  # half way down: the mean of 1 and 0.1
    assert lr_factor(1000, steps=1000, **PAPER) == pytest.approx(0.1)
    decay = [lr_factor(step, steps=1000, **PAPER) for step in range(100, 1001)]
    assert decay == sorted(decay, reverse=True)


def test_first_lr_zero_is_the_same_curve_one_update_later():
    late = PAPER | {"first_lr_zero": True}
    assert lr_factor(1, steps=50, **late) == 0.0
    for step in range(2, 51):
        assert lr_factor(step, steps=50, **late) == lr_factor(step - 1, steps=50, **PAPER)


def test_first_lr_zero_without_a_warmup_begins_at_the_peak():
    """As in GaLore's scheduler, whose factor is 0 in a warm-up alone."""
    assert lr_factor(1, steps=50, warmup_fraction=0.0, final_fraction=0.1, first_lr_zero=True) == 1.0


@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_run_without_a_warmup_or_without_a_decay(warmup, steps):
    settings = PAPER | {"warmup_fraction": warmup}
    factors = [lr_factor(step, steps=steps, **settings) for step in range(1, steps + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(1.0 if warmup else 0.1)
