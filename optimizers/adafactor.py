"""Adafactor: Adam's second moment by row and column means alone (arXiv 1804.04235; torch.optim.Adafactor's form).
W is rows x columns as it stands.

    k = t^beta2_decay                                        # 1 at t = 1: no bias correction is needed
    R <- (1 - k) R + k rowmean(G^2);   C <- (1 - k) C + k colmean(G^2)
    V = R C / max(mean(R), eps1);   U = G / sqrt(max(V, eps1^2))
    size = max(eps2, RMS(W)) min(lr, 1 / sqrt(t))
    W <- W - lr wd W;   W <- W - size U / max(1, RMS(U) / d) # RMS(W) before the decay

lr is relative to the weights, and 1 / sqrt(t) overrules it from step 1 / lr^2 on. A vector has V = C.
State per matrix: rows + columns numbers, in float32 at least. torch's default eps1 is the dtype's epsilon, a bound on
mean(G^2) that gradients of usual size reach (docs/numerics.md): here it is 1e-16, exact for gradients of RMS 1e-8 up.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import LearningRate, Params, WeightDecay
from .functional.numerics import average, working_dtype

Beta2Decay = Annotated[float, Option("exponent of t in a new gradient's share of the averages", least=-1, below=0)]
AdafactorEps = Annotated[
    tuple[float, float], Option("least mean of squares to divide by, and least RMS of a weight", least=1e-18)
]


@register("adafactor")
class Adafactor(MatrixOptimizer):
    """Factored second moment, no momentum, updates relative to the weights; all parameters of a model."""

    traits = Traits(
        last_layer="method",
        embeddings="method",
        also_steps=("norm", "bias"),
        oriented=False,
        decays_first=True,
        reads_norms=True,
        same_every_step=False,
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        *,
        beta2_decay: Beta2Decay = -0.8,
        eps: AdafactorEps = (1e-16, 1e-3),
        d: Annotated[float, Option("largest RMS of an update before it is scaled", least=1)] = 1.0,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        columns = {"col_var": ((n,), working_dtype(dtype))}
        return columns if m == 1 else {"row_var": ((m,), working_dtype(dtype)), **columns}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        (eps1, eps2), lr, decay = group["eps"], group["lr"], 1 - t ** group["beta2_decay"]
        unit = gradient * _variance(gradient.square(), state, decay, eps1).clamp(min=eps1**2).rsqrt()
        rms = unit.square().mean((-2, -1), keepdim=True).sqrt()
        weight_rms = (state["weight_norm"] / gradient[0].numel() ** 0.5).to(gradient.dtype)
        size = weight_rms.clamp(min=eps2)[:, None, None] / (rms / group["d"]).clamp(min=1)
        return Direction(dense=unit * size, scale=min(1.0, 1 / (lr * t**0.5)) if lr else 1.0)

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, weight: Tensor, lr: float, beta2_decay: float,
        eps: tuple[float, float], d: float, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        (eps1, eps2), k = eps, t**beta2_decay
        R = state["R"] = (1 - k) * state.get("R", 0) + k * (G**2).mean(1, keepdim=True)
        C = state["C"] = (1 - k) * state.get("C", 0) + k * (G**2).mean(0, keepdim=True)
        V = R * C / max(R.mean().item(), eps1)
        U = G / V.clamp(min=eps1**2).sqrt()
        size = max(eps2, (weight**2).mean().item() ** 0.5) * min(lr, 1 / t**0.5)
        return size / lr * U / max(1, (U**2).mean().item() ** 0.5 / d)


def _variance(squares: Tensor, state: dict[str, Tensor], decay: float, eps: float) -> Tensor:
    """V [B, rows, columns] of Adafactor, or for vectors C [B, 1, n], after R and C have had G^2 = `squares`."""
    columns = average(state["col_var"], squares.mean(-2), decay).unsqueeze(-2)
    if "row_var" not in state:
        return columns
    rows = average(state["row_var"], squares.mean(-1), decay).unsqueeze(-1)
    return rows * (columns / rows.mean(-2, keepdim=True).clamp(min=eps))
