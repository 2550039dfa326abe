"""Adam-mini: Adam with one second moment for a block of a matrix (arXiv 2406.16793; official package adam-mini 1.1.1).
W is rows x columns as it stands.

    blocks of rows: the rows of one head in q_proj and k_proj; one row elsewhere (an output unit; of embeddings and
    lm_head a token); a vector is one block
    m <- b1 m + (1 - b1) G;   v_b <- b2 v_b + (1 - b2) mean of G^2 over block b
    W <- W - lr wd W;   W_b <- W_b - lr (m_b / (1 - b1^t)) / (sqrt(v_b / (1 - b2^t)) + eps)

For runs of under 10,000 to 20,000 steps the authors advise one block for the whole v_proj: value="tensor".
`optimizers.build` knows the heads from the model's configuration. A group of one's own says so: "role": "query" or
"key" with "heads", or "value"; without, blocks are rows. As in the package, weights of norms do not decay and biases
are stepped by Adam.
State per matrix: m n + blocks numbers, the second moments in float32 at least.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import Betas, EpsAboveZero, LearningRate, Params, WeightDecay, is_whole
from .engine.stack import matrix_shape
from .functional.numerics import average, working_dtype

Value = Annotated[Literal["row", "tensor"], Option("block of a v_proj: each row, or the whole matrix")]


@register("adam_mini")
class AdamMini(MatrixOptimizer):
    """Adam with a second moment for each block of rows. lr is Adam's."""

    traits = Traits(
        last_layer="method",
        embeddings="method",
        also_steps=("norm",),
        roles=("query", "key", "value"),
        oriented=False,
        decays_first=True,
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        betas: Betas = (0.9, 0.999),
        eps: EpsAboveZero = 1e-8,
        value: Value = "row",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, value=value, weight_decay=weight_decay)

    def check_parameter(self, parameter: Tensor, group: dict[str, Any]) -> None:
        super().check_parameter(parameter, group)
        if (role := group.get("role")) in ("query", "key"):
            (rows, _), heads = matrix_shape(parameter), group.get("heads")
            if not is_whole(heads) or heads < 1 or rows % heads:
                raise ValueError(f"heads must divide the {rows} rows of a {role} matrix, got {heads!r}")

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), dtype), "exp_avg_sq": ((_blocks(m, group),), working_dtype(dtype))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        (beta1, beta2), blocks = group["betas"], state["exp_avg_sq"].shape[-1]
        first = average(state["exp_avg"], gradient, beta1)
        squares = gradient.square().mean(-1).unflatten(-1, (blocks, -1)).mean(-1)
        root = (average(state["exp_avg_sq"], squares, beta2) / (1 - beta2**t)).sqrt() + group["eps"]
        rows = (1 / ((1 - beta1**t) * root)).repeat_interleave(gradient.shape[-2] // blocks, -1)
        return Direction(dense=first * rows.unsqueeze(-1))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, betas: tuple[float, float], eps: float, blocks: int | None = None,
        **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64; `blocks` of rows, default: each row."""
        (b1, b2), D = betas, torch.empty_like(G)
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * G
        v = state.setdefault("v", [0.0] * (blocks or len(G)))
        for b, rows in enumerate(torch.arange(len(G)).chunk(len(v))):
            v[b] = b2 * v[b] + (1 - b2) * (G[rows] ** 2).mean().item()
            D[rows] = (m[rows] / (1 - b1**t)) / ((v[b] / (1 - b2**t)) ** 0.5 + eps)
        return D


def _blocks(rows: int, group: dict[str, Any]) -> int:
    """Blocks of a matrix of so many rows."""
    role = group.get("role")
    if role in ("query", "key"):
        return group["heads"]
    return 1 if role == "value" and group["value"] == "tensor" else rows
