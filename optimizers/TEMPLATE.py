"""Name: one sentence on what it does (arXiv number, algorithm). W is oriented m x n with m <= n.

The engine transposes a tall W. Without that (rows are outputs): Traits(oriented=False), and "W is out x in".

    M <- momentum M + (1 - momentum) G                       # the equations, in the paper's letters
    W <- W - lr M_i / rms(M_i)  for each row i               # 0 where a row is 0

State per matrix: m n numbers. Copy this file, and follow docs/adding-an-optimizer.md.
"""

from typing import Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Traits, register
from .engine.options import LearningRate, Momentum, Params, WeightDecay
from .functional.numerics import average, reciprocal


@register("template")
class Template(MatrixOptimizer):
    """Momentum whose rows have RMS 1."""

    traits = Traits(counts_steps=False)

    def __init__(
        self, params: Params, lr: LearningRate = 1e-3, *, momentum: Momentum = 0.9, weight_decay: WeightDecay = 0.0
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype)}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        mean = average(state["exp_avg"], gradient, group["momentum"])
        rms = mean.square().mean(-1, keepdim=True).sqrt()
        return Direction(dense=mean * reciprocal(rms))

    @staticmethod
    def reference_update(G: Tensor, state: dict[str, Any], t: int, *, momentum: float, **_: Any) -> Tensor:
        """D of W <- W - lr D, in plain float64, for one matrix."""
        M = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        return M * reciprocal((M**2).mean(1, keepdim=True).sqrt())
