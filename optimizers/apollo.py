"""APOLLO, APOLLO-mini, APOLLO-svd: the whole gradient, scaled by what Adam does in a low-rank projection of it
(arXiv 2412.05270; where the paper is silent, the behaviour of its authors' package). W is oriented m x n, m <= n.

    t = 1, K + 1, 2 K + 1, ...:   P = Gaussian / sqrt(r), drawn anew, or U, the r leading left singular vectors of G
    R = P^T G;   m1 <- ema(R, b1);   v <- ema(R^2, b2);   N = m1 / (sqrt(v) + eps);   step as GaLore
    c_j = ||N_j|| / (||R_j|| + 1e-8) for each column ("channel"), or one ||N|| / (||R|| + 1e-8) ("tensor")
    X = sqrt(scale) G diag(c);   L = max(||X|| / (f + 1e-8), gamma) / gamma (1 while f = 0);   X <- X / L;   f <- ||X||
    W <- W - step X

With scale_front=False the limiter sees X before sqrt(scale). APOLLO-mini is rank 1 with one c for the tensor;
at rank 1 its c is noisy, hence the scale of 128.
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
    renew_basis,
)
from .registry import register
from .residual import column_scales


@register("apollo")
@register("apollo_mini", rank=1, scaling="tensor", scale=128.0)
@register("apollo_svd", projection="svd")
class Apollo(ProjectedOptimizer):
    """SGD whose step sizes, per channel or per tensor, are Adam's in a low-rank projection.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the uncorrected second moment.
        rank: columns of the projection; a matrix with fewer rows takes as many as it has.
        update_interval: steps between two refreshes of the projection (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        scale: the update is multiplied by its square root.
        scale_front: apply sqrt(scale) before the limiter rather than after it.
        gamma: largest growth of the update's norm from one step to the next.
        projection: "random" or "svd".
        scaling: "channel" or "tensor".
        weight_decay: W <- W - lr weight_decay W, after the update.
        seed: of the draws, with the step and the parameter's position.
    """

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
        scale: float = 1.0,
        scale_front: bool = False,
        gamma: float = 1.01,
        projection: str = "random",
        scaling: str = "channel",
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_range("gamma", options["gamma"], low=1.0)
        check_choice("projection", options["projection"], ("random", "svd"))
        check_choice("scaling", options["scaling"], ("channel", "tensor"))

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        return {**super().state_shapes(m, n, dtype, group), "phi": ((), working_dtype(dtype))}

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        if group["projection"] == "svd":
            super().refresh(gradient, state, group, t, sources)
        else:
            m, r = state["basis"].shape[-2:]
            renew_basis(state, torch.stack([_gaussian(m, r, source) for source in sources]).to(gradient))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        sigma, total = self.projected(state["basis"].to(gradient.dtype), gradient, state["m1"])
        moments = advance(sigma, state, group["betas"], group["eps"], normalized=False, inside=True, power=True)
        sums = (total, moments.inside, moments.power)
        if group["scaling"] == "tensor":  # those of one long column
            sums = (each.sum(-1, keepdim=True) for each in sums)
        strength = group["scale"] ** 0.5
        seen = strength if group["scale_front"] else 1.0
        columns = column_scales(*sums, state["phi"], group["gamma"], share=0.0, eps=RATIO_EPS, size=seen)
        return Direction(columns=columns.unsqueeze(-2), scale=strength * bias_correction(t, group["betas"]))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, rank: int, update_interval: int, stagger: bool, scale: float, scale_front: bool,
                       gamma: float, projection: str, scaling: str, weight_decay: float, seed: int,
                       **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        right = weight.shape[0] >= weight.shape[1]
        W, G = (weight.T, gradient.T) if right else (weight, gradient)
        if (subspace.refresh_clock(t, index, stagger) - 1) % update_interval == 0:
            if projection == "svd":
                new = torch.linalg.svd(G, full_matrices=False).U[:, :rank]
            else:
                m = G.shape[0]
                new = _gaussian(m, min(rank, m), subspace.generator(seed, t, index))
            reference_refresh(state, new)
        R = state["U"].T @ G
        N = reference_moments(R, state, betas, eps)
        if scaling == "channel":
            X = G * N.norm(dim=0) / (R.norm(dim=0) + RATIO_EPS)
        else:
            X = G * N.norm() / (R.norm() + RATIO_EPS)
        X = scale**0.5 * X if scale_front else X
        eta, state["phi"] = reference_limit(X.norm().item(), state.get("phi", 0.0), gamma, RATIO_EPS)
        X = eta * X
        X = X if scale_front else scale**0.5 * X
        W = W - lr * bias_correction(t, betas) * X
        W = W - lr * weight_decay * W
        return W.T if right else W


def _gaussian(m: int, r: int, source: torch.Generator) -> Tensor:
    """[m, r], float64: independent entries of variance 1 / r, so that P P^T is the identity on average."""
    return torch.randn(m, r, generator=source, dtype=torch.float64) / r**0.5
