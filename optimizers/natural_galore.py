"""Natural GaLore: GaLore on the natural gradient, by the Fisher matrix of the last s projected gradients
(arXiv 2410.16029, its one-sided form). W is oriented m x n with m <= n.

    U and R as GaLore;   g = vec(R);   H = [the last s of them, this one included, since U was renewed]
    g' = (lambda I + H H^T)^(-1) g = H (lambda I + H^T H)^(-1) e,   e = 1 at this step's column, else 0
    R' = g' as r x n;   m <- ema(R', b1);   v <- ema(R'^2, b2);   N = m / (sqrt(v) + eps)
    W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) scale U N

The paper's Woodbury difference, g / lambda minus a correction, loses all digits in float32 once |g|^2 is far above
lambda; the last form takes no difference. The history starts anew at a refresh: projections on another basis do not
compare.
State per matrix: 2 r n + m r + s r n + s^2 numbers: at s = 20 ten times GaLore's moments.
"""

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, Option, register
from .engine.options import Betas, Eps, LearningRate, Params, Rank, Scale, Stagger, UpdateInterval, WeightDecay
from .engine.projected import ProjectedOptimizer, bias_correction, reference_moments, reference_svd_basis
from .functional.history import combined_rows, products_with_row
from .functional.moments import adam_moments
from .functional.numerics import ROUNDING, working_dtype
from .functional.subspace import project


@register("natural_galore")
class NaturalGaLore(ProjectedOptimizer):
    """GaLore preconditioned by the inverse empirical Fisher matrix of its recent projected gradients."""

    traits = replace(ProjectedOptimizer.traits, last_layer="method", refreshed=("basis", "gram"), same_every_step=False)

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
        history: Annotated[int, Option("projected gradients in the Fisher matrix (s)", least=1)] = 20,
        damping: Annotated[float, Option("added to the Fisher matrix's diagonal (lambda)", above=0)] = 1e-3,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, rank=rank, update_interval=update_interval, stagger=stagger,
            scale=scale, history=history, damping=damping, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r, s = min(group["rank"], m), group["history"]
        return {
            **super().state_shapes(m, n, dtype, group),
            "history": ((s, r * n), dtype),
            "gram": ((s, s), working_dtype(dtype)),
        }

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        super().refresh(gradient, state, group, t, sources)
        state["gram"].zero_()

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        natural = self._natural(project(basis, gradient), state, group, t)
        normalized = adam_moments(natural, state["exp_avg"], state["exp_avg_sq"], group["betas"], group["eps"])
        scale = group["scale"] * bias_correction(t, group["betas"])
        return Direction(left=basis, right=normalized, scale=scale)

    @staticmethod
    def _natural(sigma: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Tensor:
        """[B, r, n]: H (lambda I + H^T H)^(-1) e. The history is a ring whose place follows from t, and one row of
        H^T H is new at each step. Entries of an older basis have been given products of 0 and are left out."""
        now = (t - 1) % group["history"]
        state["history"][:, now].copy_(sigma.flatten(1))
        gram = state["gram"]
        valid = gram.diagonal(dim1=-2, dim2=-1) > 0
        valid[:, now] = True
        products = torch.where(valid, products_with_row(state["history"], now, sigma.dtype), 0.0)
        gram[:, now].copy_(products)
        gram[:, :, now].copy_(products)

        # In float64. A product h_i^T h_j carries rounding of up to eps |h_i| |h_j|: with less damping than that, nearly
        # parallel gradients would give an indefinite matrix.
        damped = gram.to(torch.float64, copy=True)
        diagonal = damped.diagonal(dim1=-2, dim2=-1)
        rounding = ROUNDING * torch.finfo(gram.dtype).eps * group["history"] * diagonal
        diagonal.add_(group["damping"] + rounding)
        unit = torch.eye(group["history"], dtype=damped.dtype, device=damped.device)[:, now : now + 1]
        weights = torch.cholesky_solve(unit, torch.linalg.cholesky_ex(damped).L).to(sigma.dtype)
        return combined_rows(state["history"], weights.squeeze(-1)).view_as(sigma)

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, betas: tuple[float, float], eps: float, rank: int,
        update_interval: int, scale: float, history: int, damping: float, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        due = (clock - 1) % update_interval == 0
        U = reference_svd_basis(G, state, rank, due)
        R = U.T @ G
        state["H"] = [*([] if due else state["H"]), R.flatten()][-history:]
        H = torch.stack(state["H"], 1)
        unit = torch.eye(H.shape[1], dtype=H.dtype)
        natural = H @ torch.linalg.solve(damping * unit + H.T @ H, unit[:, -1])
        return bias_correction(t, betas) * scale * U @ reference_moments(natural.view_as(R), state, betas, eps)
