"""Precision: averages, divisions by what may be zero, and how much of a difference is only rounding."""

import torch
from torch import Tensor

# A difference of two sums below this many units of their rounding counts as rounding.
ROUNDING = 8


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of averages, solves and decompositions: float64 for float64 parameters, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensors: list[Tensor]) -> list[Tensor]:
    """Each of `tensors` in its working precision: itself where it is held in that, else a copy, all by one call."""
    dtypes = [working_dtype(each.dtype) for each in tensors]
    wide = [
        each if each.dtype == dtype else torch.empty_like(each, dtype=dtype)
        for each, dtype in zip(tensors, dtypes, strict=True)
    ]
    if copied := [(new, old) for new, old in zip(wide, tensors, strict=True) if new is not old]:
        torch._foreach_copy_([new for new, _ in copied], [old for _, old in copied])
    return wide


def average(mean: Tensor, new: Tensor, decay: float) -> Tensor:
    """mean <- decay mean + (1 - decay) new, in new's precision, rounded once into `mean`; returns it unrounded."""
    if mean.dtype == new.dtype:
        return mean.lerp_(new, 1 - decay)
    exact = mean.to(new.dtype).lerp_(new, 1 - decay)
    mean.copy_(exact)
    return exact


def reciprocal(x: Tensor) -> Tensor:
    """1 / x where x is a positive normal number, else 0 (1 / x of a smaller one would be infinite)."""
    return torch.where(x >= torch.finfo(x.dtype).tiny, x.reciprocal(), 0.0)


def above_rounding(part: Tensor, total: Tensor) -> Tensor:
    """`part`, a difference of sums of squares as large as `total`, or 0 where it is less than their rounding.

    Infinity and NaN are kept.
    """
    return torch.where(part < ROUNDING * torch.finfo(total.dtype).eps * total, 0.0, part)
