"""Lower bounds for benchmarks and plans: the least work and memory traffic of a step of each optimizer.

For an m x n matrix, m <= n, rank r, b bytes an element. FLOPs: the algorithm's products, and the element-wise work of
the vector methods. Bytes: the traffic that remains when everything is fused: G and W are read and W is written
(3 b m n), and states are read and written. Refreshes are left out.
"""

from collections.abc import Callable
from typing import NamedTuple


class Work(NamedTuple):
    """Of one step of one matrix."""

    flops: float
    bytes: float


Bound = Callable[[int, int, int, int], Work]  # of m, n, rank r and b bytes an element
Count = Callable[[int, int, int], float]  # of m, n and r


def _subspace(flops: Count, elements: Count) -> Bound:
    """The bound of a method with a basis: its products, and the elements it moves."""
    return lambda m, n, r, b: Work(flops(m, n, r), b * elements(m, n, r))


BOUNDS: dict[str, Bound] = {
    # G is read; W and both moments are read and written.
    "adam": lambda m, n, r, b: Work(13 * m * n, 7 * b * m * n),
    "adam_8bit": lambda m, n, r, b: Work(13 * m * n, (3 * b + 4) * m * n),
    # Five iterations of two products with G^2 and one for the norm. G is read from memory twice: for the iterations,
    # during which it stays in a cache, and for the update.
    "racs": lambda m, n, r, b: Work(35 * m * n, 4 * b * m * n),
    # G^2, its row sums and nine products with it, the update; a second look at G as RACS's.
    "sinkgd": lambda m, n, r, b: Work(25 * m * n, 4 * b * m * n),
    # sigma = U^T G and W - U N. The update is one pass over W.
    "galore": _subspace(lambda m, n, r: 4 * m * n * r + 12 * r * n, lambda m, n, r: 3 * m * n + 8 * r * n + 2 * m * r),
    "galore_8bit": lambda m, n, r, b: Work(4 * m * n * r + 12 * r * n, b * (3 * m * n + 2 * m * r) + 4 * r * n),
    # As GaLore, and the history of s = 20 projected gradients read twice.
    "natural_galore": _subspace(
        lambda m, n, r: 4 * m * n * r + (4 * 20 + 12) * r * n,
        lambda m, n, r: 3 * m * n + (8 + 2 * 20 + 1) * r * n + 2 * m * r,
    ),
    # The residual's columns are scaled, so G is read once more.
    "fira": _subspace(lambda m, n, r: 4 * m * n * r + 6 * m * n, lambda m, n, r: 4 * m * n + 8 * r * n + 2 * m * r),
    "alice_0": _subspace(lambda m, n, r: 4 * m * n * r + 6 * m * n, lambda m, n, r: 4 * m * n + 9 * r * n + 2 * m * r),
    # As Alice-0, and sigma sigma^T for the tracking.
    "alice": _subspace(
        lambda m, n, r: 4 * m * n * r + 2 * r * r * n + 6 * m * n, lambda m, n, r: 4 * m * n + 9 * r * n + 2 * m * r
    ),
    # G V, U^T G, and the residual's two products with both bases; the tracking; RACS's iterations of the residual.
    "alice_soap": _subspace(
        lambda m, n, r: 8 * m * n * r + 2 * r * r * (m + n) + 35 * m * n,
        lambda m, n, r: 4 * m * n + 2 * r * (m + n) + 8 * r * r,
    ),
    # One product; the update is G scaled.
    "apollo": _subspace(lambda m, n, r: 2 * m * n * r, lambda m, n, r: 4 * m * n + 8 * r * n),
    "apollo_svd": _subspace(lambda m, n, r: 2 * m * n * r, lambda m, n, r: 4 * m * n + 8 * r * n),
    "apollo_mini": _subspace(lambda m, n, r: 2 * m * n, lambda m, n, r: 4 * m * n + 8 * n),
    # Five steps of X X^T, its square and its product with X.
    "muon": lambda m, n, r, b: Work(20 * m * m * n + 10 * m**3, 5 * b * m * n),
    # X X^T, then ten steps of X X^T and its product with X, or of three m x m products with one X at the end.
    "swan": lambda m, n, r, b: Work(min(42 * m * m * n, 4 * m * m * n + 60 * m**3), 3 * b * m * n),
    # G G^T, U^T G, U^T m and U times the quotient. Q is read and written, U is read.
    "eigen_adam": lambda m, n, r, b: Work(8 * m * m * n, b * (7 * m * n + 3 * m * m)),
    # Two sides: G into the bases, the quotient out of them, and the two averages.
    "soap": lambda m, n, r, b: Work(6 * (m * m * n + m * n * n), b * (7 * m * n + 3 * (m * m + n * n))),
    "shampoo": lambda m, n, r, b: Work(4 * (m * m * n + m * n * n), b * (3 * m * n + 3 * (m * m + n * n))),
    # One average, both ways.
    "lion": lambda m, n, r, b: Work(7 * m * n, 5 * b * m * n),
    # Three looks at G: the averages, the norm of the update, the update.
    "adafactor": lambda m, n, r, b: Work(12 * m * n, 5 * b * m * n),
    # As Muon, and the row norms of what it iterated.
    "normuon": lambda m, n, r, b: Work(20 * m * m * n + 10 * m**3 + 4 * m * n, 5 * b * m * n),
    # As NorMuon, with M in bytes.
    "octave": lambda m, n, r, b: Work(20 * m * m * n + 10 * m**3 + 4 * m * n, (3 * b + 2) * m * n),
    # As Octave, with two sums over columns.
    "flip_flop": lambda m, n, r, b: Work(20 * m * m * n + 10 * m**3 + 6 * m * n, (3 * b + 2) * m * n),
    # As Octave, with RACS's iterations of the momentum, which stays in a cache meanwhile.
    "racs_muon": lambda m, n, r, b: Work(20 * m * m * n + 10 * m**3 + 35 * m * n, (3 * b + 2) * m * n),
    # A second look at G, for the update, unless the matrix stays in a cache meanwhile.
    "scale": lambda m, n, r, b: Work(4 * m * n, 4 * b * m * n),
    # One moment both ways; a second look at G is not needed.
    "adam_mini": lambda m, n, r, b: Work(9 * m * n, 5 * b * m * n),
    # B^T Q, B P and the two products back into M and W; M both ways, read three times more.
    "dion": _subspace(lambda m, n, r: 8 * m * n * r + 4 * n * r * r, lambda m, n, r: 6 * m * n + 3 * m * r),
    # B^T P_, B Z, U^T G and three products back to m x n; the error both ways, and B.
    "ldadam": _subspace(
        lambda m, n, r: 12 * m * n * r + 4 * r * r * n, lambda m, n, r: 6 * m * n + 4 * r * n + 2 * m * r
    ),
    # The norms of the step and of W come before the update.
    "lars": lambda m, n, r, b: Work(9 * m * n, 7 * b * m * n),
    "lamb": lambda m, n, r, b: Work(17 * m * n, 10 * b * m * n),
}
