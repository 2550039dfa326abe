"""Comparisons of runs: when a loss is reached, speed-ups, and the best of several settings."""

import pytest

from analysis import comparison


def run(losses, *, seed=0, every=10, seconds_a_step=2.0, tokens_a_step=100):
    rows = [
        {
            "step": every * i,
            "loss": loss,
            "train_seconds": every * i * seconds_a_step,
            "tokens": every * i * tokens_a_step,
        }
        for i, loss in enumerate(losses, 1)
    ]
    summary = {"seed": seed, "final_loss": losses[-1], "tokens": rows[-1]["tokens"], "config_hash": "a"}
    return {"summary": summary, "evaluations": rows}


def test_a_loss_is_reached_at_an_evaluation_and_crossed_between_two():
    one = run([5.0, 4.0, 3.0])
    assert comparison.reached(one, 3.5) == 30
    assert comparison.crossed(one, 3.5) == pytest.approx(25)
    assert comparison.crossed(one, 3.5, "train_seconds") == pytest.approx(50)
    assert comparison.reached(one, 5.5) == comparison.crossed(one, 5.5) == 10
    assert comparison.reached(one, 2.9) is None and comparison.crossed(one, 2.9) is None


def test_speed_ups_are_over_the_reference_of_the_same_seed():
    adam = [run([5.0, 4.5, 4.0], seed=0), run([5.0, 4.5, 3.9], seed=1)]
    fast, slow, alone = run([4.2, 3.8, 3.0], seed=0), run([9.0, 8.0, 7.0], seed=1), run([1.0], seed=2)
    assert comparison.speed_ups([fast, slow, alone], adam, comparison.reached) == [30 / 20, 0.0]
    assert comparison.speed_ups([fast], adam, comparison.crossed) == pytest.approx([30 / 15])
    assert comparison.effective_throughput([fast], adam, comparison.reached) == [3000 / 40]
    assert comparison.effective_throughput([slow], adam, comparison.reached) == [0.0]


def test_the_best_settings_have_the_lowest_mean_not_the_luckiest_run():
    lucky = [run([2.0], seed=0), run([4.0], seed=1)]
    steady = [run([2.5], seed=0), run([2.6], seed=1)]
    for one in steady:
        one["summary"]["config_hash"] = "b"
    assert comparison.best_settings([*lucky, *steady]) == steady
    # A single run of other settings is held against the runs of its seed alone.
    assert comparison.best_settings([lucky[0], *steady]) == lucky[:1]
    assert comparison.best_settings([lucky[1], *steady]) == steady
    third = [run([2.55], seed=0), run([9.0], seed=1), run([9.0], seed=2)]
    for one in third:
        one["summary"]["config_hash"] = "c"
    assert comparison.best_settings([*steady[1:], *third]) == steady[1:]
