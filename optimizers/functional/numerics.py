"""Precision: averages, divisions by what may be zero, and how much of a difference is only rounding."""

import torch
from torch import Tensor

# A difference of two sums below this many units of their rounding counts as rounding.
ROUNDING = 8


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of averages, solves and decompositions: float64 for float64 parameters, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def average(mean: Tensor, new: Tensor, decay: float) -> Tensor:
    """mean <- decay mean + (1 - decay) new, in new's precision, rounded once into `mean`; returns it unrounded."""
    if mean.dtype == new.dtype:
        return mean.lerp_(new, 1 - decay)
    exact = torch.lerp(mean.to(new.dtype), new, 1 - decay)
    mean.copy_(exact)
    return exact


def reciprocal(x: Tensor) -> Tensor:
    """1 / x where x is a positive normal number, else 0 (1 / x of a smaller one would be infinite)."""
    return torch.where(x >= torch.finfo(x.dtype).tiny, 1 / x, 0.0)


def above_rounding(part: Tensor, total: Tensor) -> Tensor:
    """`part`, a difference of sums of squares as large as `total`, or 0 where it is less than their rounding.

    Infinity and NaN are kept.
    """
    return torch.where(part < ROUNDING * torch.finfo(total.dtype).eps * total, 0.0, part)
