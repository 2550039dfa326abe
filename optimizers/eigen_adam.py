"""Eigen-Adam: Adam in the eigenspace of E[G G^T] (Alg. 7, Eq. 12-13 of arXiv 2502.07752; also known as AdaDiag and
one-sided SOAP). W is oriented m x n with m <= n.

    Q <- b3 Q + (1 - b3) G G^T;   m1 <- ema(G, b1)
    if t == 1 or t mod K == 0:   U = eigenvectors(Q), descending
    v <- ema((U^T G)^2, b2);   W <- W - lr U [ (U^T m1) / (sqrt(v) + eps) ]      # no bias correction

m1 is not rotated, it is turned into the basis when it is used, so a refresh leaves it whole; v stays where it is.
The paper has no eps. State per matrix: 2 m n + 2 m^2 numbers; Q and U are held in float32 at least, because a
rounded average sticks and a rounded square basis leaks its strong directions into the weak ones, which the
division then blows up.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_betas, check_range, check_whole, options_of
from .chunk import Direction, average, working_dtype
from .matrix import MatrixOptimizer
from .registry import register


@register("eigen_adam")
class EigenAdam(MatrixOptimizer):
    """Adam in the full eigenbasis of the averaged G G^T.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of first moment, second moment, and of the average of G G^T.
        eps: added to the root of the second moment.
        update_interval: steps between two refreshes of the basis (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float, float] = (0.9, 0.9, 0.999),
        eps: float = 1e-8,
        update_interval: int = 10,
        stagger: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_betas(options["betas"], 3)
        check_range("eps", options["eps"], low=0.0, open_low=True)
        check_whole("update_interval", options["update_interval"], low=1)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        square = ((m, m), working_dtype(dtype))
        return {"tracked": square, "basis": square, "m1": ((m, n), dtype), "v": ((m, n), dtype)}

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        average(state["tracked"], gradient @ gradient.mT, group["betas"][2])

    def refresh_due(self, t: int, group: dict) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        new = subspace.leading_eigenvectors(state["tracked"], gradient.shape[-2])
        state["basis"].copy_(subspace.keep_signs(new, state["basis"]))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        beta1, beta2, _ = group["betas"]
        basis = state["basis"]
        first = average(state["m1"], gradient, beta1)
        second = average(state["v"], (basis.mT @ gradient).square_(), beta2)
        return Direction(left=basis, right=(basis.mT @ first).div_(second.sqrt().add_(group["eps"])))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, update_interval: int, stagger: bool, weight_decay: float,
                       **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        tall = weight.shape[0] > weight.shape[1]
        W, G = (weight.T, gradient.T) if tall else (weight, gradient)
        b1, b2, b3 = betas
        Q = state["Q"] = b3 * state.get("Q", 0) + (1 - b3) * G @ G.T
        m1 = state["m1"] = b1 * state.get("m1", 0) + (1 - b1) * G
        if t == 1 or subspace.refresh_clock(t, index, stagger) % update_interval == 0:
            state["U"] = torch.linalg.eigh(Q).eigenvectors.flip(1)  # any sign: m1 comes unrotated, v is squared
        U = state["U"]
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * (U.T @ G) ** 2
        W = W - lr * U @ ((U.T @ m1) / (v.sqrt() + eps))
        W = W - lr * weight_decay * W
        return W.T if tall else W
