"""SCALE: gradients with normalised output units, and momentum for the last layer alone (arXiv 2506.16659; official
code: OptimAI-Lab/Minimalist_LLM_Pretraining). W is rows x columns as it stands.

    U = G;   for lm_head:  M <- b M + (1 - b) G;  U = M
    W <- W - lr wd W
    W_i: <- W_i: - lr U_i: / rms(U_i:)        each row, an output unit; of lm_head a token
    W_:j <- W_:j - lr U_:j / rms(U_:j)        embeddings: each column, a hidden dimension; rms over the vocabulary

0 / 0 is 0: a zero row gets no update, nor does the embedding of a token that is absent from the batch. A zero gradient
moves lm_head along its momentum. The trajectory is the same for G and c G: the official clamp at 1e-8 is left out.
The paper says columns, for it writes weights input x output. It divides by the l2 norm, the code by the RMS, so the
code's updates are sqrt(columns) times as large. The published rates are the code's.
State: m n numbers for lm_head, none for other matrices. A group of one's own says which it is: "role": "last_layer" or
"embedding".
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import LearningRate, Params, WeightDecay
from .functional.numerics import average, reciprocal

LastLayerMomentum = Annotated[
    float, Option("decay of the average of gradients, for the last layer alone", least=0, below=1)
]


@register("scale")
class SCALE(MatrixOptimizer):
    """Rows of RMS 1, without state but for the momentum of lm_head. lr is the size of an update's elements."""

    traits = Traits(
        last_layer="method",
        embeddings="method",
        roles=("last_layer", "embedding"),
        oriented=False,
        sharding="rows",
        whole_roles=("embedding",),
        counts_steps=False,
        decays_first=True,
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        momentum: LastLayerMomentum = 0.9,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype)} if group.get("role") == "last_layer" else {}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        if group.get("role") == "embedding":
            return Direction(columns=_reciprocal_rms(gradient, -2))
        if "exp_avg" in state:
            mean = average(state["exp_avg"], gradient, group["momentum"])
            return Direction(dense=mean * _reciprocal_rms(mean, -1))
        return Direction(rows=_reciprocal_rms(gradient, -1))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, momentum: float, role: str = "matrix", **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        U = G
        if role == "last_layer":
            U = state["M"] = momentum * state.get("M", 0) + (1 - momentum) * G
        rms = (U**2).mean(0 if role == "embedding" else 1, keepdim=True).sqrt()
        return torch.where(rms > 0, U / rms, 0)


def _reciprocal_rms(matrices: Tensor, dim: int) -> Tensor:
    """1 / RMS along `dim`, which is kept; 0 where the RMS is 0."""
    length = torch.linalg.vector_norm(matrices, dim=dim, keepdim=True)
    return reciprocal(length) * matrices.shape[dim] ** 0.5
