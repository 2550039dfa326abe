"""The norm-growth limiter of Fira (arXiv 2410.01623), which RACS, Alice, AliceSOAP and APOLLO use too."""

import torch
from torch import Tensor


def limit_growth(norm: Tensor, previous: Tensor, gamma: float, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """The factor that keeps a norm from growing by more than `gamma` times from one step to the next.

    norm, previous [B]: the norm of this update, and the limited norm of the last one (0: there was none).
    Returns (eta, eta * norm) with eta = gamma / max(norm / (previous + eps), gamma), or 1 where previous is 0. The
    second value is the next step's `previous`.
    """
    growth = norm / (previous + eps)
    eta = torch.where(previous > 0, gamma / growth.clamp(min=gamma), 1.0)
    return eta, eta * norm


def reference_limit(norm: float, previous: float, gamma: float, eps: float = 0.0) -> tuple[float, float]:
    """The same for one matrix, in plain numbers."""
    eta = gamma / max(norm / (previous + eps), gamma) if previous > 0 else 1.0
    return eta, eta * norm
