"""Adam's moments of a projected gradient, and sums of squares down columns: one pass over memory each on a CPU
(moments.cpp), torch elsewhere."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from . import native
from .chunk import average


class Moments(NamedTuple):
    """normalized [B, r, n]: m1 / (sqrt(v) + eps), where v counts as no less than the smallest normal number, so that
    0 / 0 is 0; inside, power [B, n]: the sums of squares of the projected gradient and of `normalized` down their
    columns, None if not asked for."""

    normalized: Tensor
    inside: Tensor | None
    power: Tensor | None


def advance(
    sigma: Tensor, state: dict[str, Tensor], betas: tuple[float, float], eps: float, *, inside: bool, power: bool
) -> Moments:
    """Advance the averages m1 and v of `state` [B, r, n] by sigma [B, r, n] and its square; eps is added to the root of
    the uncorrected v. `inside`, `power`: whether these sums are wanted."""
    first, second = state["m1"], state["v"]
    sums = [sigma.new_empty(sigma.shape[0], sigma.shape[2]) if wanted else None for wanted in (inside, power)]
    in_one_pass = native.function("moments.cpp", "moments", "ppppppllllddd", sigma, first, second)
    if in_one_pass:
        normalized, (batch, r, n) = torch.empty_like(sigma), sigma.shape
        stacks = (sigma, first, second, normalized, *sums)
        matrices = zip(*([None] * batch if stack is None else stack.unbind() for stack in stacks), strict=True)
        columns = native.shares(n, batch)
        native.for_each(
            lambda pointers, share: in_one_pass(*pointers, r, n, *share, *betas, eps),
            list(itertools.product(matrices, columns)),
        )
        torch.autograd.graph.increment_version([first, second])
        return Moments(normalized, *sums)
    square = sigma.square()
    if inside:
        torch.sum(square, -2, out=sums[0])
    first, second = average(first, sigma, betas[0]), average(second, square, betas[1])
    root = torch.clamp(second, min=torch.finfo(second.dtype).tiny, out=square).sqrt_()
    normalized = torch.div(first, root.add_(eps) if eps else root, out=root)
    if power:
        torch.sum(normalized.square(), -2, out=sums[1])
    return Moments(normalized, *sums)


def squares_down(matrices: Tensor) -> Tensor | None:
    """[B, m, n] -> [B, n]: sums of squares down the columns, without an m x n tensor; None where that cannot be."""
    lies_transposed = matrices.stride(-1) != 1  # as what is written does then
    lying = matrices.mT if lies_transposed else matrices
    name = "squares_along" if lies_transposed else "squares_down"
    in_one_pass = native.function("moments.cpp", name, "ppllll", lying)
    if in_one_pass is None:
        return None
    sums = matrices.new_empty(len(matrices), matrices.shape[-1])
    native.for_each(
        lambda matrix, share: in_one_pass(*matrix, *lying.shape[1:], *share),
        list(itertools.product(zip(lying.unbind(), sums.unbind(), strict=True), native.shares(*sums.shape[::-1]))),
    )
    return sums
