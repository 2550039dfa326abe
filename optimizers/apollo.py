"""APOLLO, APOLLO-mini, APOLLO-svd: the whole gradient, scaled by what Adam does in a low-rank projection of it
(arXiv 2412.05270; where the paper is silent, the behaviour of its authors' package). W is oriented m x n, m <= n.

    t = 1, K + 1, 2 K + 1, ...:   P = Gaussian / sqrt(r), drawn anew, or U, the r leading left singular vectors of G
    R = P^T G;   m <- ema(R, b1);   v <- ema(R^2, b2);   N = m / (sqrt(v) + eps);   step as GaLore
    c_j = ||N_j|| / (||R_j|| + 1e-8) for each column ("channel"), or one ||N|| / (||R|| + 1e-8) ("tensor")
    X = sqrt(scale) G diag(c);   L = max(||X|| / (f + 1e-8), gamma) / gamma (1 while f = 0);   X <- X / L;   f <- ||X||
    W <- W - step X

With scale_front=False the limiter sees X before sqrt(scale). APOLLO-mini is rank 1 with one c for the tensor;
at rank 1 its c is noisy, hence the scale of 128.
State per matrix: 2 r n + m r + 1 numbers.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, Option, register
from .engine.options import (
    Betas,
    Eps,
    Gamma,
    LearningRate,
    Params,
    Rank,
    Seed,
    Stagger,
    UpdateInterval,
    WeightDecay,
)
from .engine.projected import (
    RATIO_EPS,
    ProjectedOptimizer,
    bias_correction,
    reference_basis,
    reference_moments,
    reference_svd_basis,
    renew_basis,
)
from .functional.limiter import reference_limit
from .functional.moments import adam_sumsq
from .functional.numerics import working_dtype
from .functional.residual import residual_scales
from .functional.subspace import project_with_sumsq


@register("apollo")
@register("apollo_mini", rank=1, scaling="tensor", scale=128.0)
@register("apollo_svd", projection="svd")
class Apollo(ProjectedOptimizer):
    """SGD whose step sizes, per channel or per tensor, are those of Adam in a low-rank projection."""

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
        scale: Annotated[float, Option("the update is multiplied by its square root", above=0)] = 1.0,
        scale_front: Annotated[bool, Option("apply sqrt(scale) before the limiter instead of after it")] = False,
        gamma: Gamma = 1.01,
        projection: Annotated[Literal["random", "svd"], Option("a random projection, or singular vectors")] = "random",
        scaling: Annotated[
            Literal["channel", "tensor"], Option("one scale for a column, or for the matrix")
        ] = "channel",
        weight_decay: WeightDecay = 0.0,
        seed: Seed = 0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, rank=rank, update_interval=update_interval, stagger=stagger,
            scale=scale, scale_front=scale_front, gamma=gamma, projection=projection, scaling=scaling,
            weight_decay=weight_decay, seed=seed,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {**super().state_shapes(m, n, dtype, group), "phi": ((), working_dtype(dtype))}

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        if group["projection"] == "svd":
            super().refresh(gradient, state, group, t, sources)
        else:
            m, r = state["basis"].shape[-2:]
            renew_basis(state, torch.stack([_gaussian(m, r, source) for source in sources]).to(gradient))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        sigma, total = project_with_sumsq(state["basis"].to(gradient.dtype), gradient)
        inside, normalized_sumsq = adam_sumsq(
            sigma, state["exp_avg"], state["exp_avg_sq"], group["betas"], group["eps"]
        )
        if group["scaling"] == "tensor":  # the matrix as one long column
            total, inside, normalized_sumsq = (sums.sum(-1, keepdim=True) for sums in (total, inside, normalized_sumsq))
        strength = group["scale"] ** 0.5
        limited = strength if group["scale_front"] else 1.0
        columns = residual_scales(
            total, inside, normalized_sumsq, state["phi"], group["gamma"], share=0.0, eps=RATIO_EPS, size=limited
        )
        return Direction(columns=columns.unsqueeze(-2), scale=strength * bias_correction(t, group["betas"]))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, source: torch.Generator, betas: tuple[float, float],
        eps: float, rank: int, update_interval: int, scale: float, scale_front: bool, gamma: float, projection: str,
        scaling: str, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        m, due = G.shape[0], (clock - 1) % update_interval == 0
        if projection == "svd":
            reference_svd_basis(G, state, rank, due)
        elif due:
            reference_basis(state, _gaussian(m, min(rank, m), source))
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
        return bias_correction(t, betas) * X


def _gaussian(m: int, r: int, source: torch.Generator) -> Tensor:
    """[m, r], float64: independent entries of variance 1 / r, so that P P^T is the identity on average."""
    return torch.randn(m, r, generator=source, dtype=torch.float64, device=source.device) / r**0.5
