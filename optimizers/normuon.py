"""NorMuon: Muon whose rows are normalised by their averaged second moment (arXiv 2510.05491; official code:
zichongli5/NorMuon). W is rows x columns as it stands: a row is one output unit, where the matrix is tall too.

    M <- b1 M + (1 - b1) G;   N = NS5( b1 M + (1 - b1) G ) with Nesterov, else NS5(M)     # NS5: Muon's iteration
    v <- b2 v + (1 - b2) mean of N^2 over each row
    X = diag(v)^(-1/2) N;   W <- W - lr wd W;   W <- W - lr c X / ||X||
    c = 0.2 sqrt(rows columns)                    adjust_lr="match_rms": an update of RMS 0.2 (the paper)
    c = ||N|| sqrt(max(1, rows / columns))        "original" (the official code)
    c = ||N|| sqrt(rows / columns)                "spectral" (microsoft/dion)

The trajectory is the same for G and c G: the official eps are left out. A zero row of M gets no update.
State per matrix: m n + rows numbers; v in float32 at least.
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
from .functional.moments import SMALLEST_NORM, unit_momentum
from .functional.newton_schulz import QUINTIC, iteration_dtype, newton_schulz, reference_newton_schulz
from .functional.numerics import average, reciprocal, working_dtype

NorMuonAdjustLr = Annotated[
    Literal["match_rms", "original", "spectral"],
    Option("size of an update: RMS 0.2; Muon's times sqrt(max(1, rows / columns)), or times sqrt(rows / columns)"),
]


@register("normuon")
class NorMuon(MatrixOptimizer):
    """Orthogonalized momentum with rows of even size."""

    traits = Traits(oriented=False, counts_steps=False, decays_first=True, takes_narrow=True)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        momentum: Momentum = 0.95,
        beta2: Annotated[float, Option("decay of the average of the rows' squares", least=0, below=1)] = 0.95,
        nesterov: Nesterov = True,
        ns_steps: NewtonSchulzSteps = 5,
        ns_dtype: NewtonSchulzDtype = "auto",
        adjust_lr: NorMuonAdjustLr = "match_rms",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, beta2=beta2, nesterov=nesterov, ns_steps=ns_steps, ns_dtype=ns_dtype,
            adjust_lr=adjust_lr, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype), "exp_avg_sq": ((m,), working_dtype(dtype))}

    def lr_factor(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        if group["adjust_lr"] == "match_rms":
            return 0.2
        return math.sqrt(rows / columns if group["adjust_lr"] == "spectral" else max(1.0, rows / columns))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        dtype = iteration_dtype(gradient, group["ns_dtype"])
        unit = unit_momentum(
            gradient, state["exp_avg"], group["momentum"], SMALLEST_NORM, nesterov=group["nesterov"], dtype=dtype
        )
        rows, columns = gradient.shape[-2:]
        white = newton_schulz(unit.mT if rows > columns else unit, QUINTIC, group["ns_steps"])
        white = white.mT if rows > columns else white
        mean_squares = torch.linalg.vector_norm(white, dim=-1, dtype=state["exp_avg_sq"].dtype).square() / columns
        scale = reciprocal(average(state["exp_avg_sq"], mean_squares, group["beta2"])).sqrt()
        size = 1.0 if group["adjust_lr"] == "match_rms" else mean_squares.mean(-1, keepdim=True).sqrt()
        rms = (scale.square() * mean_squares).mean(-1, keepdim=True).sqrt()
        # In float32: the scale of a small row is beyond float16's range.
        return Direction(dense=white * (scale * (size * reciprocal(rms))).unsqueeze(-1))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, momentum: float, beta2: float, nesterov: bool, ns_steps: int,
        adjust_lr: str, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        rows, columns = G.shape
        M = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        N = momentum * M + (1 - momentum) * G if nesterov else M
        if not N.any():
            return N
        N = (N.T if rows > columns else N) / N.norm()
        N = reference_newton_schulz(N, QUINTIC, ns_steps)
        N = N.T if rows > columns else N
        v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * (N**2).mean(1)
        X = torch.where(v > 0, 1 / v.sqrt(), 0)[:, None] * N
        size = {
            "match_rms": 0.2 * (rows * columns) ** 0.5,
            "original": N.norm() * max(1, rows / columns) ** 0.5,
            "spectral": N.norm() * (rows / columns) ** 0.5,
        }
        return size[adjust_lr] * X / X.norm()
