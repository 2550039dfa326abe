"""RACS-Muon: Muon of a momentum whose rows and columns RACS has made even, in 8 bits, for `lm_head` too. It is ours,
not the paper's: docs/racs-muon.md. W is oriented m x n with m <= n.

    M <- mu M + (1 - mu) G;   N = mu M + (1 - mu) G with Nesterov, else M;   N <- N / ||N||
    s, q: the fixed point of N^2                                      # Eq. 16 of arXiv 2502.07752, as in RACS
    S <- beta S + (1 - beta) s;   Q <- beta Q + (1 - beta) q          # from 0, no bias correction
    X = diag(Q)^(-1/2) N diag(S)^(-1/2);   X = NS5(X / ||X||)         # NS5: Muon's iteration
    W <- W - lr wd W;   W <- W - lr 0.2 sqrt(max(rows, columns)) X

The trajectory is the same for G and c G. A zero row or column gets no update.
State per matrix: m n bytes, m n / 64 bytes for the maxima of their blocks, and m + n numbers in float32 at least.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Traits, register
from .engine.options import (
    LearningRate,
    Momentum,
    Nesterov,
    NewtonSchulzDtype,
    NewtonSchulzSteps,
    Params,
    ScaleDecay,
    WeightDecay,
)
from .functional.moments import SMALLEST_NORM, unit_momentum
from .functional.newton_schulz import QUINTIC, iteration_dtype, newton_schulz, reference_newton_schulz
from .functional.numerics import reciprocal, working_dtype
from .functional.scaling import averaged_scales, reference_fixed_point


@register("racs_muon")
class RACSMuon(MatrixOptimizer):
    """Momentum with even rows and columns, orthogonalized. Raises ImportError without bitsandbytes."""

    traits = Traits(counts_steps=False, decays_first=True, state_bits=8, last_layer="method")

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        momentum: Momentum = 0.95,
        beta: ScaleDecay = 0.9,
        nesterov: Nesterov = True,
        ns_steps: NewtonSchulzSteps = 5,
        ns_dtype: NewtonSchulzDtype = "auto",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, beta=beta, nesterov=nesterov, ns_steps=ns_steps, ns_dtype=ns_dtype,
            weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        work = working_dtype(dtype)
        return {"exp_avg": ((m, n), dtype), "column_scale": ((n,), work), "row_scale": ((m,), work)}

    def lr_factor(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        return 0.2 * math.sqrt(max(rows, columns))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        unit = unit_momentum(
            gradient, state["exp_avg"], group["momentum"], SMALLEST_NORM,
            nesterov=group["nesterov"], dtype=gradient.dtype,
        )  # fmt: skip
        rows, columns = averaged_scales(unit.square(), state["column_scale"], state["row_scale"], group["beta"])
        even = unit.mul_(rows.sqrt().unsqueeze(-1)).mul_(columns.sqrt().unsqueeze(-2))
        even = even.mul_(reciprocal(even.norm(dim=(-2, -1), keepdim=True)))
        dtype = iteration_dtype(gradient, group["ns_dtype"])
        return Direction(dense=newton_schulz(even.to(dtype), QUINTIC, group["ns_steps"]))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, shape: tuple[int, int], momentum: float, beta: float,
        nesterov: bool, ns_steps: int, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        M = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        N = momentum * M + (1 - momentum) * G if nesterov else M
        N = N / max(N.norm().item(), SMALLEST_NORM)
        s, q = reference_fixed_point(N**2, iterations=5)
        S = state["S"] = beta * state.get("S", 0) + (1 - beta) * s
        Q = state["Q"] = beta * state.get("Q", 0) + (1 - beta) * q
        X = reciprocal(Q).sqrt()[:, None] * N * reciprocal(S).sqrt()
        X = X * reciprocal(X.norm())
        X = reference_newton_schulz(X, QUINTIC, ns_steps)
        return 0.2 * max(shape) ** 0.5 * X
