"""SOAP: Adam in the eigenspaces of both sides of the gradient (arXiv 2409.11321; Alg. 6 of arXiv 2502.07752).
W is oriented m x n with m <= n; S = U_L^T G U_R, and rotated back, U_L N U_R^T.

bases="official", the habits of the authors' code:
    t = 1:   L = (1 - b2) G G^T;  R = (1 - b2) G^T G;  U_L, U_R = their eigenvectors, descending;  no update,
             only weight decay, which the authors' code leaves out at this step
    t > 1:   k = t - 1;   m <- ema(S, b1);   v <- ema(S^2, b2);   L <- ema(G G^T, b2);   R <- ema(G^T G, b2)
             W <- W - lr sqrt(1 - b2^k) / (1 - b1^k) U_L [ m / (sqrt(v) + eps) ] U_R^T
             if k mod K == 0, each side:   sort U by diag(U^T L U), and v's entries with it;   U <- qr(L U)
                                           m is carried over to the new bases, v is not
bases="exact", Alg. 6, with b2 in the place of its third decay for L and R, and an eps, which it has not:
    L <- ema(G G^T, b2);   R <- ema(G^T G, b2);   m <- ema(G, b1), not rotated
    if t == 1 or t mod K == 0:   U_L, U_R = eigenvectors of L and R
    v <- ema(S^2, b2);   W <- W - lr U_L [ (U_L^T m U_R) / (sqrt(v) + eps) ] U_R^T
    A gradient is diagonal in its own bases: at t = 1 the rest of S is rounding, which Adam normalizes like the
    diagonal (float32: unit updates of noise, once). The official first step without an update is there for that.

After t gradients R has rank t m at most. While that is less than n its null space has no basis of its own, and
what a solver returns there is rounding. Those eigenvectors are a Householder complement of the others instead, and
the power iteration leaves such an R's basis as it is (only K + 1 < n / m ever sees that).
A side longer than `max_precond_dim` keeps its own coordinates: U = I.
State per matrix: 2 m n + 2 m^2 + 2 n^2 numbers; L, R and the bases in float32 at least, as Eigen-Adam's.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import EpsAboveZero, LearningRate, Params, Stagger, UpdateInterval, WeightDecay
from .functional.numerics import average, working_dtype
from .functional.subspace import keep_signs, leading_eigenvectors

SoapBetas = Annotated[
    tuple[float, float], Option("decay of the first moment, and of the second moment, L and R", least=0, below=1)
]
Bases = Annotated[
    Literal["official", "exact"], Option("power iteration, bias correction and no first update; or Alg. 6")
]


@register("soap")
class SOAP(MatrixOptimizer):
    """Adam in Shampoo's eigenspaces."""

    traits = Traits(
        awaits_gradient=True,
        refreshed=("left_basis", "right_basis", "exp_avg", "exp_avg_sq"),
        same_every_step=False,
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 3e-3,
        *,
        betas: SoapBetas = (0.95, 0.95),
        eps: EpsAboveZero = 1e-8,
        update_interval: UpdateInterval = 10,
        stagger: Stagger = False,
        bases: Bases = "official",
        max_precond_dim: Annotated[int, Option("the longest side that gets a basis", least=0)] = 10000,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, update_interval=update_interval, stagger=stagger, bases=bases,
            max_precond_dim=max_precond_dim, weight_decay=weight_decay,
        )  # fmt: skip

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        shapes: dict = {"exp_avg": ((m, n), dtype), "exp_avg_sq": ((m, n), dtype)}
        for side, length in (("left", m), ("right", n)):
            if length <= group["max_precond_dim"]:
                shapes[side] = shapes[f"{side}_basis"] = ((length, length), working_dtype(dtype))
        return shapes

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if group["bases"] == "exact":
            _average_sides(gradient, state, group["betas"][1])

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        # The official refresh ends a step; here it begins the next one, whose gradient it has not seen.
        if group["bases"] == "exact":
            return t == 1 or t % group["update_interval"] == 0
        return t == 1 or (t > 2 and (t - 2) % group["update_interval"] == 0)

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        m = gradient.shape[-2]
        for side, rows, axis in (("left", gradient, -2), ("right", gradient.mT, -1)):
            if side not in state:
                continue
            old = state[f"{side}_basis"]
            if t == 1:
                old.copy_(_eigenbasis(rows @ rows.mT, m))
            elif group["bases"] == "exact":
                old.copy_(keep_signs(_eigenbasis(state[side], t * m), old))
            elif old.shape[-1] <= (t - 1) * m:
                _iterate(state, side, axis)

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        (beta1, beta2), exact = group["betas"], group["bases"] == "exact"
        if not exact:
            _average_sides(gradient, state, beta2)
            if t == 1:
                return Direction(dense=torch.zeros_like(gradient))
        rotated = _rotated(gradient, state)
        first = average(state["exp_avg"], gradient if exact else rotated, beta1)
        first = _rotated(first, state) if exact else first
        second = average(state["exp_avg_sq"], rotated.square(), beta2)
        dense = _rotated_back(first / second.sqrt().add_(group["eps"]), state)
        k = t - 1
        return Direction(dense=dense, scale=1.0 if exact else (1 - beta2**k) ** 0.5 / (1 - beta1**k))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, betas: tuple[float, float], eps: float,
        update_interval: int, bases: str, max_precond_dim: int, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64. The official refresh at the end of a step begins the next one here."""
        (m, n), (b1, b2), K = G.shape, betas, update_interval
        if not state:
            state.update(L=0, R=0, m=0 * G, v=0 * G)
            state.update(UL=torch.eye(m, dtype=G.dtype), UR=torch.eye(n, dtype=G.dtype))
        sides = [side for side in (("UL", "L", 0, m), ("UR", "R", 1, n)) if side[3] <= max_precond_dim]
        if bases == "official" and t > 2 and (clock - 2) % K == 0:
            m1 = state["UL"] @ state["m"] @ state["UR"].T  # projected back, to be projected on the new bases
            for U, total, axis, length in sides:
                if length <= (t - 1) * m:
                    order = torch.diag(state[U].T @ state[total] @ state[U]).argsort(descending=True)
                    state["v"] = state["v"].index_select(axis, order)
                    state[U] = torch.linalg.qr(state[total] @ state[U][:, order]).Q
            state["m"] = state["UL"].T @ m1 @ state["UR"]

        state["L"] = b2 * state["L"] + (1 - b2) * G @ G.T
        state["R"] = b2 * state["R"] + (1 - b2) * G.T @ G
        if t == 1 or (bases == "exact" and clock % K == 0):
            for U, total, _axis, _length in sides:
                leading = torch.linalg.eigh(state[total]).eigenvectors.flip(1)[:, : t * m]
                state[U] = torch.cat([leading, torch.linalg.qr(leading, mode="complete").Q[:, t * m :]], 1)
        UL, UR = state["UL"], state["UR"]
        S = UL.T @ G @ UR

        if bases == "exact":
            m1 = state["m"] = b1 * state["m"] + (1 - b1) * G
            v = state["v"] = b2 * state["v"] + (1 - b2) * S**2
            return UL @ ((UL.T @ m1 @ UR) / (v.sqrt() + eps)) @ UR.T
        if t == 1:
            return 0 * G
        k = t - 1
        m1 = state["m"] = b1 * state["m"] + (1 - b1) * S
        v = state["v"] = b2 * state["v"] + (1 - b2) * S**2
        return (1 - b2**k) ** 0.5 / (1 - b1**k) * UL @ (m1 / (v.sqrt() + eps)) @ UR.T


def _average_sides(gradient: Tensor, state: dict[str, Tensor], decay: float) -> None:
    """L <- ema(G G^T), R <- ema(G^T G) where they are held."""
    for side, rows in (("left", gradient), ("right", gradient.mT)):
        if side in state:
            average(state[side], rows @ rows.mT, decay)


def _eigenbasis(symmetric: Tensor, rank: int) -> Tensor:
    """[B, k, k] of rank at most `rank` -> [B, k, k]: eigenvectors, descending, and a complement of what has rank."""
    leading = leading_eigenvectors(symmetric, min(rank, symmetric.shape[-1]))
    return leading if rank >= symmetric.shape[-1] else torch.linalg.qr(leading, mode="complete").Q


def _iterate(state: dict[str, Tensor], side: str, axis: int) -> None:
    """One power iteration and QR of a side's basis.

    The second moment is re-ordered along that axis, the first is carried over to the new basis.
    """
    old = state[f"{side}_basis"]
    image = state[side] @ old
    order = (old * image).sum(-2, keepdim=True).argsort(-1, descending=True)
    new = torch.linalg.qr(image.gather(-1, order.expand_as(image))).Q
    new = keep_signs(new, old.gather(-1, order.expand_as(old)))
    entries = order if axis == -1 else order.mT
    state["exp_avg_sq"].copy_(state["exp_avg_sq"].gather(axis, entries.expand_as(state["exp_avg_sq"])))
    turn, first = new.mT @ old, state["exp_avg"].to(new.dtype)
    state["exp_avg"].copy_(first @ turn.mT if axis == -1 else turn @ first)
    old.copy_(new)


def _rotated(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U_L^T X U_R, X [B, m, n]."""
    matrix = state["left_basis"].mT @ matrix if "left" in state else matrix
    return matrix @ state["right_basis"] if "right" in state else matrix


def _rotated_back(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U_L X U_R^T, X [B, m, n]."""
    matrix = matrix @ state["right_basis"].mT if "right" in state else matrix
    return state["left_basis"] @ matrix if "left" in state else matrix
