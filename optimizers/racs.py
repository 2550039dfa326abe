"""RACS: row and column scaled SGD (Alg. 1, Eq. 16 of arXiv 2502.07752). W is oriented m x n with m <= n.

It assumes the structure S (x) Q of the Fisher matrix, both diagonal. The fixed point of Proposition 3 is found from the
gradient alone:

    P = G^2;  q = 1;  five times:  s = P^T q / (q.q);  q = P s / (s.s)
    S <- beta S + (1 - beta) s;    Q <- beta Q + (1 - beta) q          # from 0, no bias correction
    X = diag(Q)^(-1/2) G diag(S)^(-1/2)
    eta = gamma / max(||X|| / phi, gamma);   phi <- eta ||X||           # eta = 1 while phi = 0
    W <- W - lr alpha eta X

State per matrix: m + n + 1 numbers. The trajectory is the same for G and c G: there is no absolute eps. A zero row or
column gets a zero update, a zero gradient leaves the state as it is, and weights but for weight decay.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import Alpha, Gamma, LearningRate, Params, ScaleDecay, WeightDecay
from .functional.limiter import reference_limit
from .functional.numerics import reciprocal, working_dtype
from .functional.scaling import racs_scales, reference_fixed_point


@register("racs")
class RACS(MatrixOptimizer):
    """Row and column scaled SGD. lr * alpha is the size of an update's elements, as Adam's lr is."""

    traits = Traits(counts_steps=False, takes_narrow=True)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 0.02,
        *,
        alpha: Alpha = 0.05,
        beta: ScaleDecay = 0.9,
        gamma: Gamma = 1.01,
        iterations: Annotated[int, Option("steps of the fixed-point iteration", least=1)] = 5,
        ema: Annotated[bool, Option("average the scales over time; without, they are the current gradient's")] = True,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            iterations=iterations,
            ema=ema,
            weight_decay=weight_decay,
        )

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        dtype = working_dtype(dtype)
        scales = {"column_scale": ((n,), dtype), "row_scale": ((m,), dtype)} if group["ema"] else {}
        return {**scales, "phi": ((), dtype)}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        rows, columns = racs_scales(
            gradient, state.get("column_scale"), state.get("row_scale"), state["phi"],
            beta=group["beta"], gamma=group["gamma"], iterations=group["iterations"],
        )  # fmt: skip
        return Direction(rows=rows.unsqueeze(-1), columns=columns.unsqueeze(-2), scale=group["alpha"])

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, alpha: float, beta: float, gamma: float, iterations: int,
        ema: bool, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        if not G.any():
            return G
        s, q = reference_fixed_point(G**2, iterations)
        if ema:
            s = state["S"] = beta * state.get("S", 0) + (1 - beta) * s
            q = state["Q"] = beta * state.get("Q", 0) + (1 - beta) * q
        X = reciprocal(q).sqrt()[:, None] * G * reciprocal(s).sqrt()
        eta, state["phi"] = reference_limit(X.norm().item(), state.get("phi", 0.0), gamma)
        return alpha * eta * X
