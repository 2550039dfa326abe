"""The declared tests of an arena: one-sided t-tests on final losses, and Holm's correction over the rows tested."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pooled:
    """The standard deviation within rows, pooled over all with two values or more, and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Verdict:
    """The probability `p` of a mean loss this far below the reference's if both rows were equal.

    welch: by Welch's test, of the two rows' own deviations; otherwise by Student's, of the pooled one.
    """

    p: float
    freedom: float
    welch: bool


def pooled(groups: Iterable[Sequence[float]]) -> Pooled | None:
    """The pooled deviation; None where no group has two values."""
    squares, freedom = 0.0, 0
    for values in groups:
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return Pooled(math.sqrt(squares / freedom), freedom) if freedom else None


def is_lower(losses: Sequence[float], reference: Sequence[float], within: Pooled | None) -> Verdict | None:
    """Is the mean loss lower than the reference's? By Welch's test where both have two values or more, otherwise by
    Student's with the deviation `within` rows. None without one, or where neither row has any spread: then nothing is
    known of what a seed changes."""
    welch = min(len(losses), len(reference)) > 1
    if welch:
        parts = [statistics.variance(values) / len(values) for values in (losses, reference)]
        squares = [part**2 / (len(values) - 1) for part, values in zip(parts, (losses, reference), strict=True)]
        error = math.sqrt(sum(parts))
        freedom = sum(parts) ** 2 / sum(squares) if error else 0.0  # Welch-Satterthwaite
    elif within is not None:
        error, freedom = within.deviation * math.sqrt(1 / len(losses) + 1 / len(reference)), within.freedom
    else:
        return None
    if not error:
        return None
    gain = statistics.fmean(reference) - statistics.fmean(losses)
    return Verdict(survival(gain / error, freedom), freedom, welch)


def survival(t: float, freedom: float) -> float:
    """The probability that Student's t with so many degrees of freedom is above t.

    A small one is as accurate as others: of 1 - cdf nothing would be left.
    """
    if t < 0:
        return 1 - survival(-t, freedom)
    share = t * t / (freedom + t * t)
    if t < 1:  # where the other series is slow
        return (1 - _incomplete_beta(share, 0.5, freedom / 2)) / 2
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by a series of positive terms (DLMF 8.17.8)."""
    if x == 0:
        return 0.0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    term = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a
    total = 0.0
    for k in itertools.count():
        total += term
        if term <= total * 1e-17:
            return total
        term *= x * (a + b + k) / (a + 1 + k)
    raise AssertionError


def significant(tests: Mapping[str, Verdict], level: float, family: int) -> set[str]:
    """The rows whose p is below the level after Holm's correction: the chance of one or more wrong ones is below it.

    family: the number of tests that are declared, with those that have not been made yet.
    """
    kept: set[str] = set()
    for place, row in enumerate(sorted(tests, key=lambda row: tests[row].p)):
        if tests[row].p >= level / (family - place):
            break
        kept.add(row)
    return kept
