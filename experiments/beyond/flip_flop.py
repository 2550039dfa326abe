"""Muon whose short side is whitened and whose long side is even (look K and line 16 of results/beyond/README.md). W is
oriented m x n with m <= n; s = 1 before the first step.

    M <- b1 M + (1 - b1) G;   N = b1 M + (1 - b1) G;   Y = N diag(s)^(-1/2);   X = NS5(Y / ||Y||)    # Muon's iteration
    c = n colsum(X^2) / ||X||^2;   s <- s (b2 + (1 - b2) c), where c is not 0;   s <- s / mean(s)
    W <- W - lr 0.2 sqrt(m n) X / ||X||

This ends at the fixed point of the flip-flop of which Octave is one round (docs/octave.md). Take columns g_j of G for
normal with the covariances s_j M. The likelihood is maximised where M = G diag(s)^(-1) G^T / n and
s_j = g_j^T M^(-1) g_j / m. The second is s_j c_j if X = M^(-1/2) Y, so that c = 1: the columns of X are even. Its rows
are orthonormal, which Octave's division after the whitening gives up.
State per m x n matrix: m n bytes and their blocks' maxima, and log(s), n numbers.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimizers import NorMuon
from optimizers.engine import Direction, MatrixOptimizer, register
from optimizers.engine.options import LearningRate, Momentum, Params, WeightDecay
from optimizers.functional.moments import unit_momentum
from optimizers.functional.newton_schulz import QUINTIC, iteration_dtype, newton_schulz
from optimizers.functional.numerics import reciprocal, working_dtype
from optimizers.normuon import SMALLEST

DECAY, STEPS = 0.95, 5


@register("flip_flop")
class FlipFlop(MatrixOptimizer):
    """Momentum with an orthonormal short side and an even long one."""

    traits = replace(NorMuon.traits, oriented=True, takes_narrow=False, state_bits=8, last_layer="method")

    def __init__(
        self, params: Params, lr: LearningRate = 1e-3, *, momentum: Momentum = 0.95, weight_decay: WeightDecay = 0.0
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype), "log_scale": ((n,), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        unit = unit_momentum(
            gradient, state["exp_avg"], group["momentum"], SMALLEST, nesterov=True, dtype=gradient.dtype
        )
        scaled = unit * (-0.5 * state["log_scale"]).exp().unsqueeze(-2)
        scaled = scaled * reciprocal(scaled.norm(dim=(-2, -1), keepdim=True))
        white = newton_schulz(scaled.to(iteration_dtype(gradient, "auto")), QUINTIC, STEPS).to(gradient.dtype)
        squares = white.square().sum(-2)
        inverse_mean = reciprocal(squares.mean(-1, keepdim=True))
        growth = torch.where(squares == 0, 1.0, DECAY + (1 - DECAY) * squares * inverse_mean)
        logarithm = state["log_scale"] + growth.log()
        mean = logarithm.logsumexp(-1, keepdim=True) - math.log(logarithm.shape[-1])
        state["log_scale"].copy_(logarithm - mean)
        size = 0.2 * white.shape[-2] ** 0.5
        return Direction(dense=white * (size * inverse_mean.sqrt()).unsqueeze(-1))

    @staticmethod
    def reference_update(G: Tensor, state: dict[str, Any], t: int, *, momentum: float, **_: Any) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        (m, n), (a, b, c) = G.shape, QUINTIC
        M = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        N = momentum * M + (1 - momentum) * G
        s = state.get("s", torch.ones(n, dtype=G.dtype))
        if not N.any():
            return N
        X = N * s.rsqrt()
        X = X / X.norm()
        for _step in range(STEPS):
            A = X @ X.T
            X = a * X + (b * A + c * A @ A) @ X
        even = n * (X**2).sum(0) / (X**2).sum()
        s = s * torch.where(even == 0, 1, DECAY + (1 - DECAY) * even)
        state["s"] = s / s.mean()
        return 0.2 * (m * n) ** 0.5 * X / X.norm()
