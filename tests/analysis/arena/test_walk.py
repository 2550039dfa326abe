"""Tuning in an arena: the walk from point to point."""

import itertools
import json
import math

import pytest

from analysis.arena.spec import Entrant, Tuning
from analysis.arena.walk import Axis, start_and_axes, walk


def optimum(at: dict):
    """A loss that is least at the point `at`, in octaves from it."""
    return lambda point: 5 + sum(0.1 * math.log2(point[setting] / value) ** 2 for setting, value in at.items())


def made(start, axes, tuning, truth):
    """The walk when its own runs alone have been made."""
    losses = {}
    while (point := walk(start, axes, tuning, lambda p: losses.get(json.dumps(p))).pending) is not None:
        losses[json.dumps(point)] = truth(point)
    return walk(start, axes, tuning, lambda p: losses.get(json.dumps(p)))


AXES = [Axis("lr"), Axis("adam_lr")]
START = {"lr": 1.0, "adam_lr": 1.0}


@pytest.mark.parametrize("at", [{"lr": 1, "adam_lr": 1}, {"lr": 4, "adam_lr": 1}, {"lr": 0.5, "adam_lr": 2}])
def test_a_walk_of_enough_runs_finds_and_brackets_the_optimum(at):
    found = made(START, AXES, Tuning(runs=30), optimum(at))
    assert found.best == at and found.pending is None and found.bracketed == ["lr", "adam_lr"]
    assert len({json.dumps(point) for point in found.points}) == len(found.points)  # none is run twice


def test_a_walk_has_as_many_runs_as_it_is_given_and_says_what_they_left_open():
    found = made(START, AXES, Tuning(runs=5), optimum({"lr": 16, "adam_lr": 1}))
    assert len(found.points) == 5 and found.best["lr"] == 16 and found.bracketed == []


def test_a_walk_moves_for_more_than_noise_alone():
    found = walk(START, AXES, Tuning(runs=9, noise=0.2), optimum({"lr": 2, "adam_lr": 1}))
    assert found.best == START  # 2 is better, but by 0.1


def test_a_walk_waits_for_the_run_it_needs_and_goes_on_from_there():
    found = made(START, AXES, Tuning(runs=6), optimum({"lr": 2, "adam_lr": 0.5}))
    assert len(found.points) == 6 and found.best == {"lr": 2, "adam_lr": 0.5}


def test_runs_of_another_walk_bracket_unless_one_is_better():
    losses = {1.0: 5.0, 2.0: 5.1, 0.5: 5.2}
    found = walk({"lr": 1.0}, [Axis("lr")], Tuning(runs=1), lambda p: losses[p["lr"]])
    assert len(found.points) == 1 and found.bracketed == ["lr"]
    losses[0.5] = 4.9  # which this walk has no run left for
    found = walk({"lr": 1.0}, [Axis("lr")], Tuning(runs=1), lambda p: losses[p["lr"]])
    assert found.best == {"lr": 1.0} and found.bracketed == []


@pytest.mark.parametrize("target", [0.2, 3e-4, 1e-5])
def test_a_rate_that_is_reached_on_two_ways_is_the_same_point(target):
    axes = [Axis("lr", 3.16, 0.00075), Axis("adam_lr", 3.16, 0.03)]
    found = walk({"lr": 0.00075, "adam_lr": 0.03}, axes, Tuning(runs=40), optimum({"lr": target, "adam_lr": 0.1}))
    for rate in ("lr", "adam_lr"):
        tried = sorted({point[rate] for point in found.points})
        assert all(more / less > 3 for less, more in itertools.pairwise(tried))


def test_a_walk_that_waits_says_what_is_bracketed_so_far():
    losses = {1.0: 4.0, 2.0: 5.0, 0.5: 5.0}
    found = walk(START, AXES, Tuning(runs=9), lambda p: losses.get(p["lr"]) if p["adam_lr"] == 1 else None)
    assert found.pending == {"lr": 1.0, "adam_lr": 2.0} and found.bracketed == ["lr"]


@pytest.mark.parametrize(
    ("values", "best", "bracketed"),
    [([0.8, 0.9], 0.8, []), ([0.7, 0.8, 0.9], 0.8, ["own"]), (["keep", "rotate"], "keep", ["own"])],
)
def test_the_last_number_of_a_list_is_not_bracketed_and_a_name_is(values, best, bracketed):
    axes = [Axis("own", values=tuple(values))]
    found = walk({"own": values[0]}, axes, Tuning(runs=9), lambda point: 4.0 + (point["own"] != best))
    assert found.best == {"own": best} and found.pending is None and found.bracketed == bracketed


def test_a_point_that_diverged_is_not_bracketed_by_others_that_did():
    assert walk({"lr": 1.0}, [Axis("lr")], Tuning(runs=3), lambda point: math.inf).bracketed == []


def test_a_diverged_start_is_left():
    losses = {1.0: math.inf, 2.0: math.inf, 0.5: 4.0}
    found = walk({"lr": 1.0}, [Axis("lr")], Tuning(runs=3), lambda point: losses.get(point["lr"], 5.0))
    assert found.best == {"lr": 0.5}


def test_an_option_of_few_values_is_tried_before_the_rates():
    """Otherwise a walk whose rates go far ends before it."""
    point, axes = start_and_axes(Entrant(own={"momentum": [0.95, 0.9]}), 0.01, 0.02, Tuning(runs=3))
    assert list(point) == ["lr", "adam_lr", "momentum"]
    found = walk(point, axes, Tuning(runs=3), optimum({"lr": 64.0, "adam_lr": 64.0}))
    assert [tried["momentum"] for tried in found.points] == [0.95, 0.9, 0.95]


def test_values_of_an_own_option_end_where_they_end():
    axis = Axis("betas", values=((0.8, 0.9), (0.9, 0.9)))
    assert axis.neighbours({"betas": (0.9, 0.9)}, 1) == []
    assert axis.neighbours({"betas": (0.9, 0.9)}, -1) == [{"betas": (0.8, 0.9)}]


def test_names_have_no_order_so_every_other_is_tried():
    losses = {"two_sided": 5.0, "blocks": 4.0, "scalar": 5.2, "last": 4.5}
    point, axes = start_and_axes(Entrant(own={"c": list(losses)}), 0.01, 0.02, Tuning())
    found = walk(point, axes[:1], Tuning(runs=9), lambda at: losses[at["c"]])
    assert found.best["c"] == "blocks" and len(found.points) == 4 and found.bracketed == ["c"]
    assert made(point, axes[:1], Tuning(runs=3), lambda at: losses[at["c"]]).bracketed == []
