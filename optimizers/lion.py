"""Lion: the sign of an interpolated momentum (arXiv 2302.06675; official code: google/automl, lion/lion_pytorch.py).

    W <- W - lr wd W;   W <- W - lr sign( b1 M + (1 - b1) G );   M <- b2 M + (1 - b2) G

sign(0) = 0: an element whose gradients were always zero stays. One whose gradient has become zero keeps moving at the
full rate as long as its momentum is not exactly 0, which in float32 it need not become. The trajectory is the same for
G and c G.
State per matrix: m n numbers, in float32 at least: at b2 = 0.99 a bfloat16 average does not see small changes.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import LearningRate, Params, WeightDecay
from .functional.numerics import average, working_dtype

LionBetas = Annotated[
    tuple[float, float],
    Option(
        "weight of the momentum in the step, and decay of the momentum; (0.95, 0.98) for language", least=0, below=1
    ),
]


@register("lion")
class Lion(MatrixOptimizer):
    """Every element moves by lr, a third to a tenth of Adam's.

    By `optimizers.build` it steps matrices, embeddings, lm_head, norms and biases. Routers, convolutions and task heads
    are Adam's.
    """

    traits = Traits(
        last_layer="method",
        embeddings="method",
        also_steps=("norm", "bias"),
        oriented=False,
        sharding="rows",
        counts_steps=False,
        decays_first=True,
        first_decay=1,
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-4,
        *,
        betas: LionBetas = (0.9, 0.99),
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        beta1, beta2 = group["betas"]
        direction = torch.lerp(gradient, state["exp_avg"], beta1).sign_()
        held = average(state["exp_avg"], gradient, beta2)
        return Direction(dense=direction.add_(held, alpha=0))  # the sign of NaN is 0, and would hide it

    @staticmethod
    def reference_update(G: Tensor, state: dict[str, Any], t: int, *, betas: tuple[float, float], **_: Any) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        b1, b2 = betas
        M = state.get("M", 0 * G)
        state["M"] = b2 * M + (1 - b2) * G
        return (b1 * M + (1 - b1) * G).sign()
