"""The declared test of an arena: one-sided, on final losses, with one spread for all rows."""

import math
import statistics
from collections.abc import Iterable, Sequence

NORMAL = statistics.NormalDist()


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within groups, pooled over all with two values or more; None without any."""
    squares, freedom = 0.0, 0
    for values in groups:
        if len(values) > 1:
            mean = statistics.fmean(values)
            squares += sum((value - mean) ** 2 for value in values)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None


def p_value(losses: Sequence[float], reference: Sequence[float], deviation: float) -> float:
    """The probability of a mean loss this far below the reference's if both rows were equal.

    z = (mean of the reference - mean) / (deviation sqrt(1/n + 1/n_reference)).
    """
    spread = deviation * math.sqrt(1 / len(losses) + 1 / len(reference))
    gain = statistics.fmean(reference) - statistics.fmean(losses)
    return 1 - NORMAL.cdf(gain / spread) if spread > 0 else float(gain <= 0)
