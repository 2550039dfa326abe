"""The base of GaLore and its descendants: a basis renewed at intervals, and Adam's moments inside it.

    t = 1, K + 1, 2 K + 1, ...:   U = the r leading left singular vectors of G, unless G is all zero
    R = U^T G;   m <- ema(R, b1);   v <- ema(R^2, b2);   N = m / (sqrt(v) + eps)
    step = lr sqrt(1 - b2^t) / (1 - b1^t)

As in the official packages, eps is added to the root of the uncorrected v, and moments are neither rotated nor reset
when the basis changes. The packages put the basis of a tall or square matrix on its right side, which is the left basis
of its transpose: here W and G are always m x n with m <= n, and U is m x r.
"""

from typing import Any

import torch
from torch import Tensor

from ..functional.subspace import is_zero, keep_signs, leading_left_singular_vectors
from .matrix import MatrixOptimizer
from .traits import Traits

RATIO_EPS = 1e-8  # added to the norms that Fira and APOLLO divide by, as in their packages


class ProjectedOptimizer(MatrixOptimizer):
    """Refresh and state of the methods whose moments are those of U^T G."""

    traits = Traits(transposes_squares=True, awaits_gradient=True)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r = min(group["rank"], m)
        return {"basis": ((m, r), dtype), "exp_avg": ((r, n), dtype), "exp_avg_sq": ((r, n), dtype)}

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return (t - 1) % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        new = leading_left_singular_vectors(gradient, state["basis"].shape[-1])
        renew_basis(state, new if t == 1 else torch.where(is_zero(gradient), state["basis"].to(new.dtype), new))


def renew_basis(state: dict[str, Tensor], new: Tensor) -> None:
    """Put `new` [B, m, r] in the place of the basis, each column signed like the one it replaces."""
    state["basis"].copy_(keep_signs(new, state["basis"].to(new.dtype)))


def bias_correction(t: int, betas: tuple[float, float]) -> float:
    """sqrt(1 - b2^t) / (1 - b1^t), the factor of N at step t (from 1)."""
    beta1, beta2 = betas
    return (1 - beta2**t) ** 0.5 / (1 - beta1**t)


# ---- shared by the plain forms


def reference_basis(state: dict[str, Any], new: Tensor) -> None:
    """state["U"] <- `new` [m, r], each column signed like the one it replaces."""
    if "U" in state:
        new = torch.where((new * state["U"]).sum(0) < 0, -new, new)
    state["U"] = new


def reference_svd_basis(G: Tensor, state: dict[str, Any], rank: int, due: bool) -> Tensor:
    """The basis U [m, r] of this step: where a refresh is due and G is not 0, its leading left singular vectors."""
    if due and ("U" not in state or G.any()):
        reference_basis(state, torch.linalg.svd(G, full_matrices=False).U[:, :rank])
    return state["U"]


def reference_moments(R: Tensor, state: dict[str, Any], betas: tuple[float, float], eps: float) -> Tensor:
    """N [r, n] for one projected gradient R, in plain float64."""
    b1, b2 = betas
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * R
    v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * R**2
    return m / (v.sqrt() + eps)
