"""The numbers of the arena's tables: the fitted curve, the declared tests, and how a p is shown."""

import math

import pytest

from analysis.arena import shown
from analysis.arena.loss_curve import fit
from analysis.arena.significance import Pooled, Verdict, is_lower, pooled, significant, survival


def test_a_fit_finds_the_curve_that_the_losses_lie_on():
    tokens = [1e6, 2e6, 4e6, 8e6]
    curve = fit(tokens, [0.9 * (t / 8e6) ** -0.35 + 3.1 for t in tokens])
    assert (curve.a, curve.b, curve.c) == pytest.approx((0.9, 0.35, 3.1), rel=1e-3)
    assert curve.tokens(curve.loss(3e6)) == pytest.approx(3e6, rel=1e-6)
    assert curve.tokens(curve.loss(9e6)) is None and curve.tokens(9.0) is None
    assert fit(tokens[:2], [4, 3]) is None and fit(tokens, [3, 4, 5, 6]) is None


@pytest.mark.parametrize(
    "losses",
    [
        [5.3, 5.0, 5.1, 4.9],  # not falling
        [5.3, 5.1, 4.9, 4.7],  # by as much for every doubling: no c
        [5.5, 5.0, 4.98, 4.6],  # far from any such curve
    ],
)
def test_losses_that_no_curve_goes_through_give_none(losses):
    assert fit([1e6, 2e6, 4e6, 8e6], losses) is None


def test_a_fit_has_every_seed():
    tokens, losses = [1e6, 2e6, 2e6, 4e6], [5.3, 5.0, 5.02, 4.8]
    assert fit(tokens, losses).loss(2e6) == pytest.approx(5.01, abs=1e-3)


def test_survival_is_that_of_the_closed_forms():
    for t in (-3.0, 0.0, 0.3, 0.999, 1.0, 4.0, 37.7, 1e6):
        assert survival(t, 1) == pytest.approx(math.atan2(1, t) / math.pi, rel=1e-12)
        root = math.sqrt(2 + t * t)
        assert survival(t, 2) == pytest.approx(1 / (root * (root + t)), rel=1e-12)
    # Tables of t: 2.5 % of the distribution with 7 degrees of freedom is above 2.364624, of 4.5 above 2.660
    assert survival(2.3646242516, 7) == pytest.approx(0.025, rel=1e-9)
    assert 0 < survival(1e3, 60) < 1e-100


def test_the_test_is_welchs_or_students_of_one_side():
    assert pooled([[1, 2, 3], [5, 5], [7]]) == Pooled(pytest.approx(math.sqrt(2 / 3)), 3)
    assert pooled([[1], [2]]) is None
    # Both variances are 2e-4: t = 0.03 / sqrt(2e-4) with 2 degrees of freedom.
    low, high = [4.0, 4.02], [4.03, 4.05]
    root = math.sqrt(2 + 4.5)
    welch = is_lower(low, high, None)
    assert welch == Verdict(pytest.approx(1 / (root * (root + math.sqrt(4.5)))), pytest.approx(2), True)
    assert is_lower(high, low, None).p == pytest.approx(1 - welch.p)
    # With one seed: t = 0.02 / (0.01 sqrt(1 + 1/3)) with the pooled deviation's degrees.
    student = is_lower([4.0], [4.02] * 3, Pooled(0.01, 1))
    assert student == Verdict(pytest.approx(math.atan2(1, math.sqrt(3)) / math.pi), 1, False)
    assert is_lower([4.0], [4.1], None) is None
    assert is_lower([4.0] * 2, [4.1] * 2, None) is None and is_lower([4.0], [4.1], Pooled(0.0, 1)) is None


def test_significance_is_corrected_for_all_declared_rows():
    """0.004 is below 0.01 / 2, where the first of three is below 0.01 / 3; 0.006 is not below 0.01 / 2."""
    tests = {row: Verdict(p, 3.0, True) for row, p in (("a", 0.004), ("b", 0.003), ("c", 0.5))}
    assert significant(tests, 0.01, 3) == {"a", "b"}
    assert significant(tests | {"a": Verdict(0.006, 3.0, True)}, 0.01, 3) == {"b"}
    assert significant(tests | {"b": Verdict(0.0035, 3.0, True)}, 0.01, 3) == set()
    assert significant({"b": tests["b"]}, 0.01, 3) == {"b"} and significant({"b": tests["b"]}, 0.01, 4) == set()


@pytest.mark.parametrize(("p", "text"), [(0.0234, "0.023"), (0.00056, "6e-04"), (3e-9, "3e-09"), (0.0, "<1e-15")])
def test_a_small_p_is_shown_by_its_size(p, text):
    assert shown.p_value(Verdict(p, 2.0, True), bold=False) == text
    assert shown.p_value(Verdict(p, 2.0, True), bold=True) == f"**{text}**"
