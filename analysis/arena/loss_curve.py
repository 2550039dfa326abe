"""The tuned reference's final loss as a function of data, and what tokens another row saves against it."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS = np.linspace(0.02, 2.0, 1981)  # of the grid that b is sought in
RESIDUAL = 0.01  # nats; about two standard deviations of a seed at nano size


@dataclass(frozen=True)
class LossCurve:
    """L(D) = a (D / most)^-b + c for D positions between `least` and `most`, those that it was fitted to."""

    a: float
    b: float
    c: float
    least: float
    most: float

    def loss(self, tokens: float) -> float:
        """The loss after so many positions."""
        return self.a * (tokens / self.most) ** -self.b + self.c

    def tokens(self, loss: float) -> float | None:
        """The positions that the reference needs for a loss; None outside of those it was trained on."""
        if not self.loss(self.most) <= loss <= self.loss(self.least):
            return None
        return self.most * ((loss - self.c) / self.a) ** (-1 / self.b)


def fit(tokens: Sequence[float], losses: Sequence[float]) -> LossCurve | None:
    """The least-squares curve through final losses at different D, of several seeds at each.

    None for fewer than three D, and where the form does not fit: mean losses do not fall from each D to the next, b is
    at the edge of what is tried, or a mean is further than RESIDUAL from the curve. For a given b the curve is linear
    in a and c, so b alone is searched.
    """
    means = [
        (D, statistics.fmean(loss for other, loss in zip(tokens, losses, strict=True) if other == D))
        for D in sorted(set(tokens))
    ]
    if len(means) < 3 or any(later >= before for (_, before), (_, later) in itertools.pairwise(means)):
        return None
    least, most = means[0][0], means[-1][0]
    target = np.asarray(losses, dtype=float)
    found = []
    for b in EXPONENTS:
        columns = np.stack([(np.asarray(tokens) / most) ** -b, np.ones(len(tokens))], axis=1)
        (a, c), *_ = np.linalg.lstsq(columns, target, rcond=None)
        error = float(np.square(columns @ (a, c) - target).sum())
        found.append((error, LossCurve(float(a), float(b), float(c), float(least), float(most))))
    _, curve = min(found, key=lambda pair: pair[0])
    at_edge = curve.b in (EXPONENTS[0], EXPONENTS[-1])
    far = any(abs(curve.loss(D) - mean) > RESIDUAL for D, mean in means)
    return None if at_edge or far else curve
