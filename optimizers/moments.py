"""Adam's moments of a projected gradient, and sums of squares down columns: one pass over memory each on a CPU
(moments.cpp), torch elsewhere."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import native, threads
from .chunk import average


class Moments(NamedTuple):
    """normalized [B, r, n]: m1 / (sqrt(v) + eps), where v counts as no less than the smallest normal number, so that
    0 / 0 is 0; inside, power [B, n]: the sums of squares of the projected gradient and of `normalized` down their
    columns. None is what was not asked for."""

    normalized: Tensor | None
    inside: Tensor | None
    power: Tensor | None


def advance(
    sigma: Tensor,
    state: dict[str, Tensor],
    betas: tuple[float, float],
    eps: float,
    *,
    normalized: bool = True,
    inside: bool = False,
    power: bool = False,
) -> Moments:
    """Advance the averages m1 and v of `state` [B, r, n] by sigma [B, r, n], which lies in memory as they do, and its
    square; eps is added to the root of the uncorrected v. `normalized`, `inside`, `power`: whether these are wanted."""
    first, second, (batch, r, n) = state["m1"], state["v"], sigma.shape
    sums = [sigma.new_empty(batch, n) if wanted else None for wanted in (inside, power)]
    way, lying = _by_rows(sigma, first, second)
    in_one_pass = native.function("moments.cpp", f"moments_{way}", "pppppplldddll", *lying)
    if in_one_pass:
        kept = torch.empty_like(sigma) if normalized else None
        threads.in_ranges(lambda *part: in_one_pass(*lying, kept, *sums, r, n, *betas, eps, *part), batch * n)
        torch.autograd.graph.increment_version([first, second])
        return Moments(kept, *sums)
    square = sigma.square()
    if inside:
        torch.sum(square, -2, out=sums[0])
    first, second = average(first, sigma, betas[0]), average(second, square, betas[1])
    root = torch.clamp(second, min=torch.finfo(second.dtype).tiny, out=square).sqrt_()
    kept = torch.div(first, root.add_(eps) if eps else root, out=root)
    if power:
        torch.sum(kept.square(), -2, out=sums[1])
    return Moments(kept if normalized else None, *sums)


def column_sums(matrices: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, Tensor | None] | None:
    """Sums of squares down the columns of `matrices` [B, m, n], and U^T G for `vectors` U [B, m, 1] if they are given:
    [B, n] and [B, 1, n], in one pass and without an m x n tensor; None where that cannot be."""
    way, (lying,) = _by_rows(matrices)
    given = (lying,) if vectors is None else (lying, vectors)
    in_one_pass = native.function("moments.cpp", f"sums_{way}", "ppppllll", *given)
    if in_one_pass is None:
        return None
    batch, n = len(matrices), matrices.shape[-1]
    squares, products = matrices.new_empty(batch, n), None if vectors is None else matrices.new_empty(batch, 1, n)
    threads.in_ranges(
        lambda *part: in_one_pass(lying, vectors, squares, products, *lying.shape[1:], *part), squares.numel()
    )
    return squares, products


def _by_rows(*matrices: Tensor) -> tuple[str, list[Tensor]]:
    """Which way columns go in memory, and what lies by rows: "down", `matrices`, or "along", their transposes."""
    if matrices[0].stride(-1) == 1:
        return "down", list(matrices)
    return "along", [matrix.mT for matrix in matrices]
