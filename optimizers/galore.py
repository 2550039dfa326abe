"""GaLore: Adam on the gradient's projection to its leading singular vectors (arXiv 2403.03507; where the paper is
silent, the official package galore-torch 1.0). W is oriented m x n with m <= n.

    t = 1, K + 1, 2 K + 1, ...:   U = the r leading left singular vectors of G
    R = U^T G;   m <- ema(R, b1);   v <- ema(R^2, b2);   N = m / (sqrt(v) + eps)
    step = lr sqrt(1 - b2^t) / (1 - b1^t);   W <- W - step scale U N

State per matrix: 2 r n + m r numbers.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from .engine import Direction, register
from .engine.options import Betas, Eps, LearningRate, Params, Rank, Scale, Stagger, UpdateInterval, WeightDecay
from .engine.projected import ProjectedOptimizer, bias_correction, reference_moments, reference_svd_basis
from .functional.moments import adam_moments
from .functional.subspace import project


@register("galore")
class GaLore(ProjectedOptimizer):
    """Adam in a low-rank subspace of the gradient, renewed by an SVD."""

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
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, rank=rank, update_interval=update_interval, stagger=stagger,
            scale=scale, weight_decay=weight_decay,
        )  # fmt: skip

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        sigma = project(basis, gradient)
        normalized = adam_moments(sigma, state["exp_avg"], state["exp_avg_sq"], group["betas"], group["eps"])
        scale = group["scale"] * bias_correction(t, group["betas"])
        return Direction(left=basis, right=normalized, scale=scale)

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, betas: tuple[float, float], eps: float, rank: int,
        update_interval: int, scale: float, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        U = reference_svd_basis(G, state, rank, due=(clock - 1) % update_interval == 0)
        return bias_correction(t, betas) * scale * U @ reference_moments(U.T @ G, state, betas, eps)
