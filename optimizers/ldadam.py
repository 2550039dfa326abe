"""LDAdam: Adam in a low-rank basis that moves every step, with error feedback (arXiv 2410.16103; official code:
IST-DASLab/LDAdam). W is oriented m x n with m <= n; P_ is the basis of the step before, E the error, 0 at first.

    A = G + E
    t = 1:   P = the r leading left singular vectors of A
    t > 1:   B = rho P_ m / (1 - b1^(t-1)) + (1 - rho) A;   P = qr( B (B^T P_) )
    g = P^T A;   T = P^T P_;   m' = T m
    E = A - P g + b1 / (1 - b1) (P_ m - P m')
    t > 1, k1 = 1 - b1^(t-1), k2 = 1 - b2^(t-1), squares elementwise:
             v <- | k2 [ T^2 ( v / k2 - (m / k1)^2 ) + (m' / k1)^2 ] |
    m <- b1 m' + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    W <- W - lr wd W;   W <- W - lr P [ ( m / (1 - b1^t) ) / ( sqrt(v / (1 - b2^t)) + eps ) ]

The moments are carried over by T, so signs of P's columns do not matter. The official code keeps E in p.grad; here it
is a state, added after any clipping. While all gradients of a matrix are zero nothing happens, and t does not count.
Later zero gradients leave momentum and error to move the weights.
State per matrix: 2 r n + m r + m n numbers, without error feedback 2 r n + m r.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import Betas, EpsAboveZero, LearningRate, Params, Rank, WeightDecay
from .functional.moving_basis import followed_basis, left_out
from .functional.numerics import working_dtype
from .functional.subspace import leading_left_singular_vectors, project

ErrorDtype = Annotated[
    Literal["parameter", "float32"], Option("hold the error in the parameter's dtype, or in float32 at least")
]


@register("ldadam")
class LDAdam(MatrixOptimizer):
    """Adam in a subspace tracked by one power iteration a step; what is outside comes back with the next gradient."""

    traits = Traits(decays_first=True, awaits_gradient=True, same_every_step=False)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        betas: Betas = (0.908, 0.99),
        eps: EpsAboveZero = 1e-8,
        rank: Rank = 128,
        rho: Annotated[float, Option("share of the momentum in what the basis follows", least=0, below=1)] = 0.908,
        error_feedback: Annotated[bool, Option("add what was left out to the next gradient")] = True,
        error_dtype: ErrorDtype = "parameter",
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, rank=rank, rho=rho, error_feedback=error_feedback,
            error_dtype=error_dtype, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r = min(group["rank"], m)
        shapes: dict = {"basis": ((m, r), dtype), "exp_avg": ((r, n), dtype), "exp_avg_sq": ((r, n), dtype)}
        if group["error_feedback"]:
            shapes["error"] = ((m, n), dtype if group["error_dtype"] == "parameter" else working_dtype(dtype))
        return shapes

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1  # later ones follow the momentum, in `update`

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        state["basis"].copy_(leading_left_singular_vectors(gradient, state["basis"].shape[-1]))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        (beta1, beta2), dtype = group["betas"], gradient.dtype
        basis, first, second = (state[key].to(dtype) for key in ("basis", "exp_avg", "exp_avg_sq"))
        total = gradient + state["error"] if "error" in state else gradient
        before = None
        if t > 1:
            rho = group["rho"]
            basis, before = followed_basis(total, basis, first, rho / (1 - beta1 ** (t - 1)), 1 - rho)
            first, second = _turned(basis.mT @ before.basis, first, second, group["betas"], t)
        sigma = project(basis, total)
        if "error" in state:
            state["error"].copy_(left_out(total, basis, sigma, first, before, beta1 / (1 - beta1)))
        first, second = torch.lerp(sigma, first, beta1), torch.lerp(sigma.square(), second, beta2)
        for key, new in (("basis", basis), ("exp_avg", first), ("exp_avg_sq", second)):
            state[key].copy_(new)
        normalized = first / ((second / (1 - beta2**t)).sqrt_() + group["eps"])
        return Direction(left=basis, right=normalized, scale=1 / (1 - beta1**t))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, betas: tuple[float, float], eps: float, rank: int, rho: float,
        error_feedback: bool, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        (b1, b2), A = betas, G + state.get("E", 0)
        if t == 1:
            P = torch.linalg.svd(A, full_matrices=False).U[:, :rank]
            g = P.T @ A
            m, v, E = (1 - b1) * g, (1 - b2) * g**2, A - P @ g
        else:
            k1, k2 = 1 - b1 ** (t - 1), 1 - b2 ** (t - 1)
            P_, m, v = state["P"], state["m"], state["v"]
            B = rho * P_ @ m / k1 + (1 - rho) * A
            P = torch.linalg.qr(B @ (B.T @ P_)).Q
            T = P.T @ P_
            g, carried = P.T @ A, T @ m
            E = A - P @ g + b1 / (1 - b1) * (P_ @ m - P @ carried)
            v = (k2 * (T**2 @ (v / k2 - (m / k1) ** 2) + (carried / k1) ** 2)).abs()
            m, v = b1 * carried + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        state.update(P=P, m=m, v=v, **({"E": E} if error_feedback else {}))
        return P @ ((m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps))


def _turned(turn: Tensor, first: Tensor, second: Tensor, betas: tuple[float, float], t: int) -> tuple[Tensor, Tensor]:
    """The moments m, v [B, r, n] of step t - 1, carried over to the new basis by T = `turn` [B, r, r]."""
    k1, k2 = 1 - betas[0] ** (t - 1), 1 - betas[1] ** (t - 1)
    carried = turn @ first
    variance = second / k2 - (first / k1).square_()
    return carried, torch.baddbmm((carried / k1).square_(), turn.square(), variance).mul_(k2).abs_()
