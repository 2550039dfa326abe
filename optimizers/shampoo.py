"""Shampoo (Alg. 5 of arXiv 2502.07752, whose printed plus sign is a misprint). W is oriented m x n with m <= n.

    L <- L + G G^T;   R <- R + G^T G                                   # from eps I
    W <- W - lr L^(-1/4) G R^(-1/4)                                    # roots renewed every K steps

State per matrix: 2 (m^2 + n^2) numbers, the sums and their roots, in float32 at least (a rounded sum stops
growing). The sums grow for ever, so updates shrink as Adagrad's do.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_range, check_whole, options_of
from .chunk import Direction, working_dtype
from .matrix import MatrixOptimizer
from .registry import register
from .subspace import ROUNDING


@register("shampoo")
class Shampoo(MatrixOptimizer):
    """Both sides of a gradient divided by the fourth root of its summed squares.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate; the first update is G with all singular values 1.
        eps: what the diagonals of L and R start from.
        update_interval: steps between two renewals of the roots (K); above 1, a direction that the last roots have
            not seen is stretched by up to eps^(-1/2).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    refreshed = ("left_root", "right_root")
    last_layer_refusal = "Shampoo needs the full eigenbasis of both sides, and one side of lm_head is the vocabulary"

    def __init__(
        self,
        params,
        lr: float = 0.1,
        *,
        eps: float = 1e-6,
        update_interval: int = 1,
        stagger: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_range("eps", options["eps"], low=0.0, open_low=True)
        check_whole("update_interval", options["update_interval"], low=1)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        left, right = ((m, m), working_dtype(dtype)), ((n, n), working_dtype(dtype))
        return {"left": left, "right": right, "left_root": left, "right_root": right}

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        state["left"].baddbmm_(gradient, gradient.mT)
        state["right"].baddbmm_(gradient.mT, gradient)

    def refresh_due(self, t: int, group: dict) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        for side in ("left", "right"):
            state[f"{side}_root"].copy_(inverse_fourth_root(state[side], group["eps"]))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        return Direction(left=state["left_root"], right=gradient @ state["right_root"])

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, eps: float,
                       update_interval: int, stagger: bool, weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        W, G = weight, gradient
        L = state["L"] = state.get("L", 0) + G @ G.T
        R = state["R"] = state.get("R", 0) + G.T @ G
        if t == 1 or subspace.refresh_clock(t, index, stagger) % update_interval == 0:
            for side, total in (("L_root", L), ("R_root", R)):
                values, U = torch.linalg.eigh(total)
                values = values.clamp(min=ROUNDING * torch.finfo(values.dtype).eps * values.max().item()) + eps
                state[side] = U @ torch.diag(values**-0.25) @ U.T
        W = W - lr * state["L_root"] @ G @ state["R_root"]
        return W - lr * weight_decay * W


def inverse_fourth_root(total: Tensor, eps: float) -> Tensor:
    """(S + eps I)^(-1/4) of a stack of symmetric S [B, k, k] >= 0.

    eps is added to the eigenvalues, not to S: next to a large S it would be rounded away. Eigenvalues that
    drown in rounding, where they may have either sign, are raised to where rounding begins.
    """
    values, vectors = torch.linalg.eigh(total)
    floor = ROUNDING * torch.finfo(values.dtype).eps * values[..., -1:].clamp(min=0.0)
    scaled = vectors * torch.maximum(values, floor).add_(eps).pow_(-0.25).unsqueeze(-2)
    return scaled @ vectors.mT
