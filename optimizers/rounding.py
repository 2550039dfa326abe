"""Stochastic rounding of weights to bfloat16.

bfloat16 has 8 significant bits: rounded to nearest, an update below 1/512 of a weight is lost, always. Rounded up with
the probability of its distance from below, every update counts on average, without a byte of memory.
"""

import torch
from torch import Tensor

from . import subspace


def source(seed: int, count: int, index: int, device: torch.device) -> torch.Generator:
    """The private random source, on `device`, of the count-th (from 1) write of parameter `index`."""
    return subspace.generator(seed, count, index, device=device, purpose="rounding")


def stochastic(exact: Tensor, source: torch.Generator) -> Tensor:
    """float32 -> bfloat16 of the same shape: one of its two neighbours, with mean `exact`.

    A bfloat16 is the upper half of a float32, so noise on the lower half carries into the upper one as often as that
    half is large. A number beyond the largest bfloat16 may become infinite; infinities and NaN stay what they are.
    """
    noise = torch.randint(1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=source)
    cut = noise.add_(exact.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)
    return torch.where(exact.isfinite(), cut, exact).to(torch.bfloat16)
