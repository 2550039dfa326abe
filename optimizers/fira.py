"""Fira: GaLore, plus the gradient outside the subspace at the size Adam gives it inside (arXiv 2410.01623; the
official package fira 1.0.2). W is oriented m x n with m <= n.

    U, R, N and step as GaLore
    c_j = ||N_j|| / (||R_j|| + 1e-8) for each column;    X = (G - k U R) diag(c)
    L = max(||X|| / (f + 1e-8), gamma) / gamma (1 while f = 0);    X <- X / L;    f <- ||X||
    W <- W - step (scale U N + X)

The paper's residual has k = 1. The package projects back through a function that also scales, so its
residual keeps (1 - scale) of the gradient inside the subspace: k = scale, the default, because the
published numbers come from it.
State per matrix: 2 r n + m r + 1 numbers.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_choice, check_range, options_of
from .chunk import Direction, working_dtype
from .limiter import reference_limit
from .moments import advance
from .projected import (
    RATIO_EPS,
    ProjectedOptimizer,
    bias_correction,
    reference_moments,
    reference_refresh,
)
from .registry import register
from .residual import above_rounding, column_scales, corrected


@register("fira")
class Fira(ProjectedOptimizer):
    """GaLore with a norm-scaled residual under a limiter of growth.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the uncorrected second moment.
        rank: columns of the basis; a matrix with fewer rows takes all of them.
        update_interval: steps between two refreshes of the basis (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        scale: of the update inside the subspace (the package's alpha); the residual is not scaled by it.
        gamma: largest growth of the residual's norm from one step to the next.
        residual: "official" leaves (1 - scale) of the gradient inside the subspace in the residual, "exact" none.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    last_layer = "method"

    def __init__(
        self,
        params,
        lr: float = 0.01,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        rank: int = 128,
        update_interval: int = 200,
        stagger: bool = False,
        scale: float = 0.25,
        gamma: float = 1.01,
        residual: str = "official",
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_range("gamma", options["gamma"], low=1.0)
        check_choice("residual", options["residual"], ("official", "exact"))

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        return {**super().state_shapes(m, n, dtype, group), "phi": ((), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        sigma, total = self.projected(basis, gradient, state["m1"])
        normalized, inside, power = advance(sigma, state, group["betas"], group["eps"], inside=True, power=True)
        scale = group["scale"]
        share = scale if group["residual"] == "official" else 1.0
        total, outside = corrected(total, state["basis"], sigma, inside, share)
        options = {"share": outside, "eps": RATIO_EPS, "strength": 1 / scale}
        columns = column_scales(total, inside, power, state["phi"], group["gamma"], **options).unsqueeze(-2)
        # With C = D / scale, scale U N + (G - k U R) D is scale (G C + U (N - k R C)): the residual is never formed.
        right = normalized.addcmul_(sigma, columns, value=-share)
        return Direction(columns=columns, left=basis, right=right, scale=scale * bias_correction(t, group["betas"]))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, rank: int, update_interval: int, stagger: bool, scale: float, gamma: float,
                       residual: str, weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        right = weight.shape[0] >= weight.shape[1]
        W, G = (weight.T, gradient.T) if right else (weight, gradient)
        if (subspace.refresh_clock(t, index, stagger) - 1) % update_interval == 0:
            reference_refresh(state, torch.linalg.svd(G, full_matrices=False).U[:, :rank])
        U = state["U"]
        R = U.T @ G
        N = reference_moments(R, state, betas, eps)
        outside = G - (scale if residual == "official" else 1.0) * U @ R
        outside = torch.where(above_rounding((outside**2).sum(0), (G**2).sum(0)) > 0, outside, 0)
        X = outside * N.norm(dim=0) / (R.norm(dim=0) + RATIO_EPS)
        eta, state["phi"] = reference_limit(X.norm().item(), state.get("phi", 0.0), gamma, RATIO_EPS)
        W = W - lr * bias_correction(t, betas) * (scale * U @ N + eta * X)
        W = W - lr * weight_decay * W
        return W.T if right else W
