"""Stochastic rounding to bfloat16.

bfloat16 has 8 significant bits: rounded to nearest, an update below 1/512 of a weight is always lost. Rounded up with
the probability of its distance from the lower neighbour, every update counts on average, without a byte of memory.
"""

import torch
from torch import Tensor

PIECE = 1 << 22  # elements that are in float32 at once, and their noise: 16 MiB each


def write(narrow: Tensor, exact: Tensor, source: torch.Generator) -> None:
    """narrow <- `exact`, float32 of the same shape, rounded stochastically, a piece after the other."""
    held, given = torch.atleast_1d(narrow), torch.atleast_1d(exact)
    rows = piece_rows(held)
    for old, new in zip(held.split(rows), given.split(rows), strict=True):
        old.copy_(stochastic(new, source))


def piece_rows(tensor: Tensor) -> int:
    """How many rows of `tensor`, of one dimension or more, make a piece."""
    return max(1, PIECE * len(tensor) // max(1, tensor.numel()))


def stochastic(exact: Tensor, source: torch.Generator) -> Tensor:
    """float32 -> bfloat16 of the same shape: one of the two neighbours of each number, with mean `exact`.

    A bfloat16 is the upper half of a float32. Noise on the lower half carries into the upper one as often as the lower
    half is large. A number beyond the largest bfloat16 may become infinite. Infinity is kept, as its lower half is 0;
    NaN is put back.
    """
    noise = torch.randint(1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=source)
    cut = noise.add_(exact.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)
    return cut.masked_fill_(exact.isnan(), torch.nan).to(torch.bfloat16)
