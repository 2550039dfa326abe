"""The tuned reference's final loss as a function of data, and what tokens another row saves against it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS = np.linspace(0.02, 2.0, 1981)  # of the grid that b is sought in


@dataclass(frozen=True)
class LossCurve:
    """L(D) = a D^-b + c for D positions between `least` and `most`, those that it was fitted to."""

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
    """The least-squares curve through final losses at different D; None for fewer than three D, or if losses do not
    fall. For a given b it is linear in a and c, so b alone is searched."""
    if len(set(tokens)) < 3:
        return None
    most = max(tokens)
    target = np.asarray(losses, dtype=float)
    best = None
    for b in EXPONENTS:
        columns = np.stack([(np.asarray(tokens) / most) ** -b, np.ones(len(tokens))], axis=1)
        (a, c), *_ = np.linalg.lstsq(columns, target, rcond=None)
        error = float(np.square(columns @ (a, c) - target).sum())
        if a > 0 and (best is None or error < best[0]):
            best = error, float(a), float(b), float(c)
    if best is None:
        return None
    return LossCurve(*best[1:], least=float(min(tokens)), most=float(most))
