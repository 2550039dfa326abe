"""Stochastic rounding to bfloat16.

bfloat16 has 8 significant bits: rounded to nearest, an update below 1/512 of a weight is always lost. Rounded up with
the probability of its distance from the lower neighbour, every update counts on average, without a byte of memory.
"""

import torch
from torch import Tensor


def stochastic(exact: Tensor, source: torch.Generator) -> Tensor:
    """float32 -> bfloat16 of the same shape: one of the two neighbours of each number, with mean `exact`.

    A bfloat16 is the upper half of a float32. Noise on the lower half carries into the upper one as often as the lower
    half is large. A number beyond the largest bfloat16 may become infinite; infinity and NaN are kept.
    """
    noise = torch.randint(1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=source)
    cut = noise.add_(exact.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)
    return torch.where(exact.isfinite(), cut, exact).to(torch.bfloat16)
