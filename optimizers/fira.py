"""Fira: GaLore, plus the gradient outside the subspace at the size that Adam gives it inside (arXiv 2410.01623; the
official package fira 1.0.2). W is oriented m x n with m <= n.

    U, R, N and step as GaLore
    c_j = ||N_j|| / (||R_j|| + 1e-8) for each column;    X = (G - k U R) diag(c)
    L = max(||X|| / (f + 1e-8), gamma) / gamma (1 while f = 0);    X <- X / L;    f <- ||X||
    W <- W - step (scale U N + X)

The paper's residual has k = 1. The package projects back through a function that also scales, so its residual keeps
(1 - scale) of the gradient inside the subspace: k = scale. This is the default, because the published numbers come from
the package.
State per matrix: 2 r n + m r + 1 numbers.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, Option, register
from .engine.options import Betas, Eps, Gamma, LearningRate, Params, Rank, Scale, Stagger, UpdateInterval, WeightDecay
from .engine.projected import (
    RATIO_EPS,
    ProjectedOptimizer,
    bias_correction,
    reference_moments,
    reference_svd_basis,
)
from .functional.limiter import reference_limit
from .functional.moments import adam_moments_with_sumsq
from .functional.numerics import above_rounding, working_dtype
from .functional.residual import corrected, residual_scales
from .functional.subspace import project_with_sumsq

Residual = Annotated[
    Literal["official", "exact"],
    Option('"official" leaves (1 - scale) of the gradient inside the subspace in the residual, "exact" none'),
]


@register("fira")
class Fira(ProjectedOptimizer):
    """GaLore with a norm-scaled residual under a limiter of growth."""

    traits = replace(ProjectedOptimizer.traits, last_layer="method")

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 0.01,
        *,
        betas: Betas = (0.9, 0.999),
        eps: Eps = 1e-6,
        rank: Rank = 128,
        update_interval: UpdateInterval = 200,
        stagger: Stagger = False,
        scale: Scale = 0.25,
        gamma: Gamma = 1.01,
        residual: Residual = "official",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, rank=rank, update_interval=update_interval, stagger=stagger,
            scale=scale, gamma=gamma, residual=residual, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {**super().state_shapes(m, n, dtype, group), "phi": ((), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        basis, scale = state["basis"].to(gradient.dtype), group["scale"]
        sigma, total = project_with_sumsq(basis, gradient)
        normalized, inside, normalized_sumsq = adam_moments_with_sumsq(
            sigma, state["exp_avg"], state["exp_avg_sq"], group["betas"], group["eps"]
        )
        share = scale if group["residual"] == "official" else 1.0
        rounded = state["basis"].dtype != basis.dtype
        total, inside, left = corrected(total, basis, sigma, inside, share, rounded=rounded)
        columns = residual_scales(
            total, inside, normalized_sumsq, state["phi"], group["gamma"], share=left, eps=RATIO_EPS, strength=1 / scale
        ).unsqueeze(-2)
        # With C = D / scale, scale U N + (G - k U R) D is scale (G C + U (N - k R C)): the residual is never formed.
        right = normalized.addcmul_(sigma, columns, value=-share)
        return Direction(columns=columns, left=basis, right=right, scale=scale * bias_correction(t, group["betas"]))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, betas: tuple[float, float], eps: float, rank: int,
        update_interval: int, scale: float, gamma: float, residual: str, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        U = reference_svd_basis(G, state, rank, due=(clock - 1) % update_interval == 0)
        R = U.T @ G
        N = reference_moments(R, state, betas, eps)
        outside = G - (scale if residual == "official" else 1.0) * U @ R
        outside = torch.where(above_rounding((outside**2).sum(0), (G**2).sum(0)) > 0, outside, 0)
        X = outside * N.norm(dim=0) / (R.norm(dim=0) + RATIO_EPS)
        eta, state["phi"] = reference_limit(X.norm().item(), state.get("phi", 0.0), gamma, RATIO_EPS)
        return bias_correction(t, betas) * (scale * U @ N + eta * X)
