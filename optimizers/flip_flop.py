"""FlipFlop: Muon whose short side is whitened and whose long side is even, momentum in 8 bits, for `lm_head` too. It is
ours, not the paper's: docs/flip-flop.md. W is oriented m x n with m <= n; s = 1 before the first step.

    M <- b1 M + (1 - b1) G;   N = b1 M + (1 - b1) G with Nesterov, else M
    Y = N diag(s)^(-1/2);   X = NS5(Y / ||Y||)                                          # NS5: Muon's iteration
    c = k colsum(X^2) / ||X||^2,  s <- s (b2 + (1 - b2) c) of the k columns that are not 0;   s <- s / mean(s)
    W <- W - lr wd W;   W <- W - lr 0.2 sqrt(m n) X / ||X||

It settles where c = 1. There L = N diag(s)^(-1) N^T / n and s are the maximum-likelihood estimates of the Fisher's
structure S (x) L, S = diag(s), and X is L^(-1/2) N S^(-1/2).
The trajectory is the same for G and c G. A zero column of N gets no update, and its s stays but for the mean.
State per matrix: m n bytes, m n / 64 bytes for the maxima of their blocks, and log(s), n numbers in float32 at least.
"""

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import (
    LearningRate,
    Momentum,
    Nesterov,
    NewtonSchulzDtype,
    NewtonSchulzSteps,
    Params,
    WeightDecay,
)
from .functional.moments import SMALLEST_NORM, unit_momentum
from .functional.newton_schulz import QUINTIC, iteration_dtype, newton_schulz, reference_newton_schulz
from .functional.numerics import reciprocal, working_dtype


@register("flip_flop")
class FlipFlop(MatrixOptimizer):
    """Orthogonalized momentum, even along its long side. Raises ImportError without bitsandbytes."""

    traits = Traits(counts_steps=False, decays_first=True, takes_narrow=True, state_bits=8, last_layer="method")

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        momentum: Momentum = 0.95,
        beta2: Annotated[float, Option("decay of the scales of the long side", least=0, below=1)] = 0.95,
        nesterov: Nesterov = True,
        ns_steps: NewtonSchulzSteps = 5,
        ns_dtype: NewtonSchulzDtype = "auto",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, beta2=beta2, nesterov=nesterov, ns_steps=ns_steps, ns_dtype=ns_dtype,
            weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype), "log_scale": ((n,), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        logarithms, beta2 = state["log_scale"], group["beta2"]
        dtype = iteration_dtype(gradient, group["ns_dtype"])
        wide = torch.promote_types(dtype, torch.bfloat16)  # float16 has few digits of a small column, which s raises
        unit = unit_momentum(
            gradient, state["exp_avg"], group["momentum"], SMALLEST_NORM, nesterov=group["nesterov"], dtype=wide
        )
        scale = (-0.5 * logarithms).exp()
        norms = torch.linalg.vector_norm(unit, dim=-2, dtype=scale.dtype)
        norm = torch.linalg.vector_norm(norms * scale, dim=-1, keepdim=True)
        even = unit.mul_((scale * reciprocal(norm)).unsqueeze(-2))
        white = newton_schulz(even.to(dtype), QUINTIC, group["ns_steps"])
        m, n = white.shape[-2:]
        squares = torch.linalg.vector_norm(white, dim=-2, dtype=scale.dtype).square()
        inverse_total = reciprocal(squares.sum(-1, keepdim=True))
        live = squares > 0
        count = live.sum(-1, keepdim=True, dtype=squares.dtype)
        growth = torch.where(live, beta2 + (1 - beta2) * squares * (count * inverse_total), 1.0)
        logarithms.add_(growth.log())
        logarithms.sub_(logarithms.logsumexp(-1, keepdim=True) - math.log(n))
        return Direction(dense=white * (0.2 * (m * n) ** 0.5 * inverse_total.sqrt()).unsqueeze(-1))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, momentum: float, beta2: float, nesterov: bool, ns_steps: int,
        **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        m, n = G.shape
        M = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        N = momentum * M + (1 - momentum) * G if nesterov else M
        if not N.any():
            return N
        s = state.get("s", torch.ones(n, dtype=G.dtype))
        X = N / s.sqrt()
        X = X / X.norm()
        X = reference_newton_schulz(X, QUINTIC, ns_steps)
        squares = (X**2).sum(0)
        live = squares > 0
        s = s * torch.where(live, beta2 + (1 - beta2) * live.sum() * squares / squares.sum(), 1)
        state["s"] = s / s.mean()
        return 0.2 * (m * n) ** 0.5 * X / X.norm()
