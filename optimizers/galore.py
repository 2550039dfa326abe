"""GaLore: Adam on the gradient's projection to its leading singular vectors (arXiv 2403.03507; the official
package galore-torch 1.0 where the paper is silent). W is oriented m x n with m <= n.

    t = 1, K + 1, 2 K + 1, ...:   U = the r leading left singular vectors of G
    R = U^T G;   m1 <- ema(R, b1);   v <- ema(R^2, b2);   N = m1 / (sqrt(v) + eps)
    W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) scale U N

State per matrix: 2 r n + m r numbers.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import options_of
from .chunk import Direction
from .moments import advance
from .projected import ProjectedOptimizer, bias_correction, reference_moments, reference_refresh
from .registry import register


@register("galore")
class GaLore(ProjectedOptimizer):
    """Adam in a low-rank subspace of the gradient, renewed by an SVD.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the uncorrected second moment.
        rank: columns of the basis; a matrix with fewer rows takes all of them.
        update_interval: steps between two refreshes of the basis (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        scale: of the whole update.
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
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        sigma = subspace.project(basis, gradient, state["m1"])
        normalized = advance(sigma, state, group["betas"], group["eps"]).normalized
        return Direction(left=basis, right=normalized, scale=group["scale"] * bias_correction(t, group["betas"]))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, rank: int, update_interval: int, stagger: bool, scale: float,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        right = weight.shape[0] >= weight.shape[1]
        W, G = (weight.T, gradient.T) if right else (weight, gradient)
        if (subspace.refresh_clock(t, index, stagger) - 1) % update_interval == 0:
            reference_refresh(state, torch.linalg.svd(G, full_matrices=False).U[:, :rank])
        U = state["U"]
        R = U.T @ G
        N = reference_moments(R, state, betas, eps)
        W = W - lr * bias_correction(t, betas) * scale * U @ N
        W = W - lr * weight_decay * W
        return W.T if right else W
