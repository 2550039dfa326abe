"""SWAN: a gradient with normalized rows, whitened (Eq. 30-32 and App. B.8 of arXiv 2502.07752). W is oriented
m x n with m <= n.

    X = (G - mean of each row) / (standard deviation of each row)
    D = (X X^T)^(-1/2) X                     # Newton-Schulz: Y_0 = X X^T / ||X X^T||, Z_0 = I;  T = (3 I - Z Y) / 2,
                                             #   Y <- Y T, Z <- T Z;   D = Z X / sqrt(||X X^T||)
    W <- W - lr D ||X|| / ||D||

No state. The equations leave the size open: it is that of the standardised gradient, elements of RMS 1.
Rows of one value get no update, nor do directions that are only rounding (a square G has one such direction after
centring). The trajectory is the same for G and c G. The fast form iterates X itself, in exact
arithmetic with the same result.
"""

from typing import Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Traits, register
from .engine.options import LearningRate, NewtonSchulzSteps, Params, WeightDecay
from .functional.newton_schulz import CUBIC, newton_schulz
from .functional.numerics import reciprocal

# A row whose standard deviation is below this many units of rounding of its RMS is a constant.
CONSTANT = 64


@register("swan")
class SWAN(MatrixOptimizer):
    """Stateless: standardise the rows of the gradient, then whiten it. lr is the size of an update's elements."""

    traits = Traits(counts_steps=False)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        ns_steps: NewtonSchulzSteps = 10,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, ns_steps=ns_steps, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        standard = standardised(gradient)
        norm = standard.norm(dim=(-2, -1), keepdim=True)
        bound = (standard @ standard.mT).norm(dim=(-2, -1), keepdim=True).sqrt()
        white = newton_schulz(standard.mul_(reciprocal(bound)), CUBIC, group["ns_steps"])
        return Direction(dense=white * (norm * reciprocal(white.norm(dim=(-2, -1), keepdim=True))))

    @staticmethod
    def reference_update(G: Tensor, state: dict[str, Any], t: int, *, ns_steps: int, **_: Any) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        if not G.any():
            return G
        mean, s = G.mean(1, keepdim=True), G.std(1, correction=0, keepdim=True)
        live = s > CONSTANT * torch.finfo(G.dtype).eps * (G**2).mean(1, keepdim=True).sqrt()
        X = torch.where(live, (G - mean) / s, 0)
        A = X @ X.T
        Y, Z, identity = A / A.norm(), torch.eye(len(A), dtype=A.dtype), torch.eye(len(A), dtype=A.dtype)
        for _step in range(ns_steps):
            Y, Z = Y @ (3 * identity - Z @ Y) / 2, (3 * identity - Z @ Y) @ Z / 2
        D = Z @ X / A.norm().sqrt()
        return D * X.norm() / D.norm()


def standardised(gradient: Tensor) -> Tensor:
    """Eq. 30 on a stack [B, m, n]: each row less its mean, over its standard deviation; 0 for a row of one value."""
    centred = gradient - gradient.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    power = gradient.square().mean(-1, keepdim=True)
    live = variance > (CONSTANT * torch.finfo(power.dtype).eps) ** 2 * power
    return centred.mul_(torch.where(live, reciprocal(variance), 0.0).sqrt())
