"""The norm-growth limiter of Fira, used by RACS, Alice and APOLLO too (gamma = 1.01 in all of them)."""

import torch
from torch import Tensor


def limit_growth(norm: Tensor, previous: Tensor, gamma: float, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """Factor that keeps a norm from growing by more than `gamma` times from one step to the next.

    norm, previous [B]: the norm of this update and the limited norm of the last one (0: none yet).
    Returns (eta, eta * norm): eta = gamma / max(norm / (previous + eps), gamma), or 1 where there is no
    previous norm. The second value is the next step's `previous`: the limited norm is kept, not the raw one.
    """
    growth = norm / (previous + eps)
    eta = torch.where(previous > 0, gamma / growth.clamp(min=gamma), 1.0)
    return eta, eta * norm


def reference_limit(norm: float, previous: float, gamma: float, eps: float = 0.0) -> tuple[float, float]:
    """The same for one matrix, in plain numbers."""
    eta = gamma / max(norm / (previous + eps), gamma) if previous > 0 else 1.0
    return eta, eta * norm
