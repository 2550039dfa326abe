"""SWAN: a gradient with normalized rows, whitened (Eq. 30-32 and App. B.8 of arXiv 2502.07752). W is oriented
m x n with m <= n.

    X = (G - mean of each row) / (standard deviation of each row)
    D = (X X^T)^(-1/2) X                     # Newton-Schulz: Y_0 = X X^T / ||X X^T||, Z_0 = I;  T = (3 I - Z Y) / 2,
                                             #   Y <- Y T, Z <- T Z;   D = Z X / sqrt(||X X^T||)
    W <- W - lr D ||X|| / ||D||

No state. The equations leave the size open: it is that of the standardised gradient, elements of RMS 1.
Rows of one value, and directions that drown in rounding, get no update (a square G has one such direction after
centring). The trajectory is the same for G and c G.
"""

import torch
from torch import Tensor

from .checks import check_whole, options_of
from .chunk import Direction
from .matrix import MatrixOptimizer
from .newton_schulz import CUBIC, newton_schulz
from .registry import register
from .scaling import reciprocal

# A standard deviation below this many units of rounding of the row's RMS is what centring leaves of a constant.
ROUNDING = 64


@register("swan")
class SWAN(MatrixOptimizer):
    """Stateless: standardise the rows of the gradient, then whiten it.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate; it is the size of an update's elements, as Adam's lr is.
        ns_steps: steps of the Newton-Schulz iteration.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    counts_steps = False

    def __init__(self, params, lr: float = 1e-3, *, ns_steps: int = 10, weight_decay: float = 0.0):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_whole("ns_steps", options["ns_steps"], low=1)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        return {}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        standard = standardised(gradient)
        norm = standard.norm(dim=(-2, -1), keepdim=True)
        bound = (standard @ standard.mT).norm(dim=(-2, -1), keepdim=True).sqrt()
        white = newton_schulz(standard * reciprocal(bound), CUBIC, group["ns_steps"])
        return Direction(dense=white.mul_(norm * reciprocal(white.norm(dim=(-2, -1), keepdim=True))))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, lr: float, ns_steps: int,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight."""
        if not gradient.any():
            return weight - lr * weight_decay * weight
        tall = weight.shape[0] > weight.shape[1]
        W, G = (weight.T, gradient.T) if tall else (weight, gradient)
        mean, s = G.mean(1, keepdim=True), G.std(1, correction=0, keepdim=True)
        live = s > ROUNDING * torch.finfo(G.dtype).eps * (G**2).mean(1, keepdim=True).sqrt()
        X = torch.where(live, (G - mean) / s, 0)
        A = X @ X.T
        Y, Z, identity = A / A.norm(), torch.eye(len(A), dtype=A.dtype), torch.eye(len(A), dtype=A.dtype)
        for _ in range(ns_steps):
            Y, Z = Y @ (3 * identity - Z @ Y) / 2, (3 * identity - Z @ Y) @ Z / 2
        D = Z @ X / A.norm().sqrt()
        W = W - lr * D * X.norm() / D.norm()
        W = W - lr * weight_decay * W
        return W.T if tall else W


def standardised(gradient: Tensor) -> Tensor:
    """Eq. 30 on a stack [B, m, n]: each row less its mean, over its standard deviation; 0 for a row of one value."""
    centred = gradient - gradient.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    power = gradient.square().mean(-1, keepdim=True)
    live = variance > (ROUNDING * torch.finfo(power.dtype).eps) ** 2 * power
    return centred.mul_(torch.where(live, reciprocal(variance), 0.0).sqrt())
