"""Eigen-Adam: Adam in the eigenspace of E[G G^T] (Alg. 7, Eq. 12-13 of arXiv 2502.07752; also known as AdaDiag and
one-sided SOAP). W is oriented m x n with m <= n.

    Q <- b3 Q + (1 - b3) G G^T;   m <- ema(G, b1)
    if t == 1 or t mod K == 0:   U = eigenvectors(Q), descending
    v <- ema((U^T G)^2, b2);   W <- W - lr U [ (U^T m) / (sqrt(v) + eps) ]      # no bias correction

m is projected on the basis when it is used, so a refresh leaves it whole; v is not rotated. The paper has no eps.
State per matrix: 2 m n + 2 m^2 numbers. Q and U are held in float32 at least: a rounded average stops moving, and a
rounded square basis leaks its strong directions into the weak ones, which the division then enlarges.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import EpsAboveZero, LearningRate, Params, Stagger, UpdateInterval, WeightDecay
from .functional.numerics import average, working_dtype
from .functional.subspace import keep_signs, leading_eigenvectors

ThreeBetas = Annotated[
    tuple[float, float, float],
    Option("decay of the first moment, the second moment, and the average of G G^T", least=0, below=1),
]


@register("eigen_adam")
class EigenAdam(MatrixOptimizer):
    """Adam in the full eigenbasis of the averaged G G^T."""

    traits = Traits(awaits_gradient=True)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        betas: ThreeBetas = (0.9, 0.9, 0.999),
        eps: EpsAboveZero = 1e-8,
        update_interval: UpdateInterval = 10,
        stagger: Stagger = False,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, update_interval=update_interval, stagger=stagger,
            weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        square = ((m, m), working_dtype(dtype))
        return {"tracked": square, "basis": square, "exp_avg": ((m, n), dtype), "exp_avg_sq": ((m, n), dtype)}

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        average(state["tracked"], gradient @ gradient.mT, group["betas"][2])

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        new = leading_eigenvectors(state["tracked"], gradient.shape[-2])
        state["basis"].copy_(keep_signs(new, state["basis"]))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        beta1, beta2, _ = group["betas"]
        basis = state["basis"]
        first = average(state["exp_avg"], gradient, beta1)
        root = average(state["exp_avg_sq"], (basis.mT @ gradient).square_(), beta2).sqrt().add_(group["eps"])
        return Direction(left=basis, right=(basis.mT @ first).div_(root))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, betas: tuple[float, float, float], eps: float,
        update_interval: int, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        b1, b2, b3 = betas
        Q = state["Q"] = b3 * state.get("Q", 0) + (1 - b3) * G @ G.T
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * G
        if t == 1 or clock % update_interval == 0:
            state["U"] = torch.linalg.eigh(Q).eigenvectors.flip(1)  # any sign: m is not rotated, v is a square
        U = state["U"]
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * (U.T @ G) ** 2
        return U @ ((U.T @ m) / (v.sqrt() + eps))
