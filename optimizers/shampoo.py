"""Shampoo (Alg. 5 of arXiv 2502.07752, whose printed plus sign is a misprint). W is oriented m x n with m <= n.

    L <- L + G G^T;   R <- R + G^T G                                   # from eps I
    W <- W - lr L^(-1/4) G R^(-1/4)                                    # roots renewed every K steps

State per matrix: 2 (m^2 + n^2) numbers, the sums and their roots, in float32 at least (a rounded sum stops
growing). The sums grow for ever, so updates shrink as Adagrad's do.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import LearningRate, Params, Stagger, UpdateInterval, WeightDecay
from .functional.numerics import ROUNDING, working_dtype


@register("shampoo")
class Shampoo(MatrixOptimizer):
    """Both sides of a gradient divided by the fourth root of its summed squares.

    The first update is lr G with all singular values 1. With update_interval above 1, a direction that the last roots
    have not seen is stretched by up to eps^(-1/2).
    """

    traits = Traits(
        awaits_gradient=True,
        refreshed=("left_root", "right_root"),
        last_layer_refusal="Shampoo needs the full eigenbasis of both sides, and one side of lm_head and of embeddings "
        "is the vocabulary",
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 0.1,
        *,
        eps: Annotated[float, Option("the diagonals of L and R at the start", above=0)] = 1e-6,
        update_interval: UpdateInterval = 1,
        stagger: Stagger = False,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, eps=eps, update_interval=update_interval, stagger=stagger, weight_decay=weight_decay
        )

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        left, right = ((m, m), working_dtype(dtype)), ((n, n), working_dtype(dtype))
        return {"left": left, "right": right, "left_root": left, "right_root": right}

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        state["left"].baddbmm_(gradient, gradient.mT)
        state["right"].baddbmm_(gradient.mT, gradient)

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        for side in ("left", "right"):
            state[f"{side}_root"].copy_(inverse_fourth_root(state[side], group["eps"]))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        return Direction(left=state["left_root"], right=gradient @ state["right_root"])

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, eps: float, update_interval: int, **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        L = state["L"] = state.get("L", 0) + G @ G.T
        R = state["R"] = state.get("R", 0) + G.T @ G
        if t == 1 or clock % update_interval == 0:
            for side, total in (("L_root", L), ("R_root", R)):
                values, U = torch.linalg.eigh(total)
                values = values.clamp(min=ROUNDING * torch.finfo(values.dtype).eps * values.max().item()) + eps
                state[side] = U @ torch.diag(values**-0.25) @ U.T
        return state["L_root"] @ G @ state["R_root"]


def inverse_fourth_root(total: Tensor, eps: float) -> Tensor:
    """(S + eps I)^(-1/4) of a stack of symmetric S [B, k, k] >= 0.

    eps is added to the eigenvalues, not to S, where it would be rounded away next to large elements. Eigenvalues that
    are only rounding, and may have either sign, are raised to where rounding begins.
    """
    values, vectors = torch.linalg.eigh(total)
    floor = ROUNDING * torch.finfo(values.dtype).eps * values[..., -1:].clamp(min=0.0)
    scaled = vectors * torch.maximum(values, floor).add_(eps).pow_(-0.25).unsqueeze(-2)
    return scaled @ vectors.mT
