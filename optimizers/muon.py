"""Muon: momentum orthogonalized by Newton-Schulz (torch.optim.Muon's mathematics; Keller Jordan et al. 2024).

    B <- mu B + (1 - mu) G;   M = mu B + (1 - mu) G with Nesterov, else B
    X = M / max(||M||, eps);   five times:  A = X X^T;  X <- a X + (b A + c A^2) X       # on the side m <= n
    W <- W - lr wd W;   W <- W - lr f(rows, columns) X

torch steps one matrix at a time and iterates in bfloat16, which CPUs without bfloat16 arithmetic emulate many times
slower than float32. Here matrices of one shape are iterated together, in float16 on CUDA alone (docs/numerics.md).
State per matrix: m n numbers.
"""

import math
from typing import Annotated, Any, Literal

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
from .functional.moments import unit_momentum
from .functional.newton_schulz import QUINTIC, iteration_dtype, newton_schulz, reference_newton_schulz

Coefficients = Annotated[tuple[float, float, float], Option("a, b, c of the iteration")]
AdjustLr = Annotated[
    Literal["match_rms_adamw", "original"],
    Option("f: 0.2 sqrt(max(rows, columns)), for updates about as large as Adam's, or sqrt(max(1, rows / columns))"),
]


@register("muon")
class Muon(MatrixOptimizer):
    """Momentum with all singular values driven towards 1. Weight decay comes before the update, as torch's."""

    traits = Traits(counts_steps=False, decays_first=True, takes_narrow=True)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        momentum: Momentum = 0.95,
        nesterov: Nesterov = True,
        ns_coefficients: Coefficients = QUINTIC,
        ns_steps: NewtonSchulzSteps = 5,
        ns_dtype: NewtonSchulzDtype = "auto",
        eps: Annotated[float, Option("the smallest norm to divide by", above=0)] = 1e-7,
        adjust_lr_fn: AdjustLr = "match_rms_adamw",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, ns_coefficients=ns_coefficients, ns_steps=ns_steps,
            ns_dtype=ns_dtype, eps=eps, adjust_lr_fn=adjust_lr_fn, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype)}

    def lr_factor(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        if group["adjust_lr_fn"] == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        unit = unit_momentum(
            gradient, state["exp_avg"], group["momentum"], group["eps"],
            nesterov=group["nesterov"], dtype=iteration_dtype(gradient, group["ns_dtype"]),
        )  # fmt: skip
        return Direction(dense=newton_schulz(unit, group["ns_coefficients"], group["ns_steps"]))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, shape: tuple[int, int], momentum: float, nesterov: bool,
        ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float, adjust_lr_fn: str, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        rows, columns = shape
        B = state["B"] = momentum * state.get("B", 0) + (1 - momentum) * G
        M = momentum * B + (1 - momentum) * G if nesterov else B
        X = M / max(M.norm().item(), eps)
        X = reference_newton_schulz(X, ns_coefficients, ns_steps)
        original = adjust_lr_fn == "original"
        return (max(1, rows / columns) ** 0.5 if original else 0.2 * max(rows, columns) ** 0.5) * X
