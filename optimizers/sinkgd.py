"""SinkGD: a gradient whose rows and columns are normalised in turn (Alg. 3 and 4 of arXiv 2502.06742).

W is out x in as it stands, tall or wide: the paper is silent on tall matrices, and its public ports transpose none.

    X = G;  five times:  X_i: <- sqrt(in) X_i: / ||X_i:||;  X_:j <- sqrt(out) X_:j / ||X_:j||    # all i, j
    W <- (1 - lr alpha wd) W;   W <- W - lr alpha X

No state. Columns come last: their norms are sqrt(out) exactly, those of rows sqrt(in) nearly, and X has RMS 1. A zero
row or column stays zero and leaves the others as if it were absent; a zero gradient moves nothing but by weight decay.
There is no absolute eps: the trajectory is the same for G and c G. X stays G with scaled rows and columns, and only the
scales are iterated: it is Sinkhorn's balancing of G^2. RACS fits one rank-1 matrix to G^2; here every row and column is
balanced.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import Alpha, LearningRate, Params
from .functional.numerics import reciprocal
from .functional.scaling import rowwise_products


@register("sinkgd")
class SinkGD(MatrixOptimizer):
    """Stateless: balance rows and columns of the gradient. lr * alpha is the size of an update's elements."""

    traits = Traits(counts_steps=False, decays_first=True, oriented=False)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 0.02,
        *,
        alpha: Alpha = 0.05,
        iterations: Annotated[int, Option("passes over all rows, then all columns", least=1)] = 5,
        weight_decay: Annotated[
            float, Option("decoupled weight decay: W <- W - lr alpha weight_decay W, before the update", least=0)
        ] = 0.0,
    ):
        super().__init__(params, lr=lr, alpha=alpha, iterations=iterations, weight_decay=weight_decay)

    @staticmethod
    def decay_factor(group: dict[str, Any]) -> float:
        return group["alpha"]

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        rows, columns = balancing_scales(gradient, group["iterations"])
        return Direction(rows=rows.unsqueeze(-1), columns=columns.unsqueeze(-2), scale=group["alpha"])

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, alpha: float, iterations: int, **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64; G is out x in."""
        rows, columns = G.shape
        X = G
        for _step in range(iterations):
            X = columns**0.5 * X * reciprocal(X.norm(dim=1, keepdim=True))
            X = rows**0.5 * X * reciprocal(X.norm(dim=0, keepdim=True))
        return alpha * X


def balancing_scales(gradient: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """rows [B, m], columns [B, n] with X = diag(rows) G diag(columns), G = `gradient` [B, m, n]; 0 where G is 0.

    Their squares a and b are iterated on P = (G / max |G|)^2, whose size is the same at any scale of G: a = 1 / (P b),
    b = 1 / (P^T a). The factor `in` of a would cancel in b, so it is left out; `out` enters at the end.
    """
    peak = reciprocal(gradient.abs().amax((-2, -1), keepdim=True))
    squares = (gradient * peak).square_()
    a = reciprocal(squares.sum(-1))
    b = reciprocal(rowwise_products(squares.mT, a))
    for _ in range(iterations - 1):
        a = reciprocal(rowwise_products(squares, b))
        b = reciprocal(rowwise_products(squares.mT, a))
    return a.sqrt() * peak.squeeze(-1), (gradient.shape[-2] * b).sqrt()
