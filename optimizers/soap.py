"""SOAP: Adam in the eigenspaces of both sides of the gradient (arXiv 2409.11321; Alg. 6 of arXiv 2502.07752).
W is oriented m x n with m <= n; S = U_L^T G U_R, and rotated back, U_L N U_R^T.

bases="official", the habits of the authors' code:
    t = 1:   L = (1 - b2) G G^T;  R = (1 - b2) G^T G;  U_L, U_R = their eigenvectors, descending;  no update
    t > 1:   k = t - 1;   m1 <- ema(S, b1);   v <- ema(S^2, b2);   L <- ema(G G^T, b2);   R <- ema(G^T G, b2)
             W <- W - lr sqrt(1 - b2^k) / (1 - b1^k) U_L [ m1 / (sqrt(v) + eps) ] U_R^T
             if k mod K == 0, each side:   sort U by diag(U^T L U), and v's entries with it;   U <- qr(L U)
                                           m1 is carried over to the new bases, v is not
bases="exact", Alg. 6 as printed (which has no eps):
    L <- ema(G G^T, b2);   R <- ema(G^T G, b2);   m1 <- ema(G, b1), not rotated
    if t == 1 or t mod K == 0:   U_L, U_R = eigenvectors of L and R
    v <- ema(S^2, b2);   W <- W - lr U_L [ (U_L^T m1 U_R) / (sqrt(v) + eps) ] U_R^T
    A gradient is diagonal in its own bases: at t = 1 the rest of S is rounding, which Adam normalizes like the
    diagonal (float32: unit updates of noise, once). The official first step without an update is there for that.

After t gradients R has rank t m at most. While that is less than n its null space has no basis of its own, and
what a solver returns there is rounding. Those eigenvectors are a Householder complement of the others instead, and
the power iteration leaves such an R's basis as it is (only K + 1 < n / m ever sees that).
A side longer than `max_precond_dim` keeps its own coordinates: U = I.
State per matrix: 2 m n + 2 m^2 + 2 n^2 numbers; L, R and the bases in float32 at least, as Eigen-Adam's.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_betas, check_choice, check_range, check_whole, options_of
from .chunk import Direction, average, working_dtype
from .matrix import MatrixOptimizer
from .registry import register


@register("soap")
class SOAP(MatrixOptimizer):
    """Adam in Shampoo's eigenspaces.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of the first moment, and of the second moment, L and R.
        eps: added to the root of the second moment.
        update_interval: steps between two refreshes of the bases (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        bases: "official" (power iteration, bias correction, no first update) or "exact" (Alg. 6).
        max_precond_dim: the longest side that gets a basis.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    refreshed = ("left_basis", "right_basis", "m1", "v")

    def __init__(
        self,
        params,
        lr: float = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        update_interval: int = 10,
        stagger: bool = False,
        bases: str = "official",
        max_precond_dim: int = 10000,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_betas(options["betas"], 2)
        check_range("eps", options["eps"], low=0.0, open_low=True)
        check_whole("update_interval", options["update_interval"], low=1)
        check_choice("bases", options["bases"], ("official", "exact"))
        check_whole("max_precond_dim", options["max_precond_dim"], low=0)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        shapes = {"m1": ((m, n), dtype), "v": ((m, n), dtype)}
        for side, length in (("left", m), ("right", n)):
            if length <= group["max_precond_dim"]:
                shapes[side] = shapes[f"{side}_basis"] = ((length, length), working_dtype(dtype))
        return shapes

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        if group["bases"] == "exact":
            _average_sides(gradient, state, group["betas"][1])

    def refresh_due(self, t: int, group: dict) -> bool:
        # The official refresh ends a step; here it begins the next one, whose gradient it has not seen.
        if group["bases"] == "exact":
            return t == 1 or t % group["update_interval"] == 0
        return t == 1 or (t > 2 and (t - 2) % group["update_interval"] == 0)

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        m = gradient.shape[-2]
        for side, rows, axis in (("left", gradient, -2), ("right", gradient.mT, -1)):
            if side not in state:
                continue
            old = state[f"{side}_basis"]
            if t == 1:
                old.copy_(_eigenbasis(rows @ rows.mT, m))
            elif group["bases"] == "exact":
                old.copy_(subspace.keep_signs(_eigenbasis(state[side], t * m), old))
            elif old.shape[-1] <= (t - 1) * m:
                _iterate(state, side, axis)

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        (beta1, beta2), exact = group["betas"], group["bases"] == "exact"
        if not exact:
            _average_sides(gradient, state, beta2)
            if t == 1:
                return Direction(dense=torch.zeros_like(gradient))
        rotated = _rotated(gradient, state)
        first = average(state["m1"], gradient if exact else rotated, beta1)
        first = _rotated(first, state) if exact else first
        second = average(state["v"], rotated.square_(), beta2)
        dense = _rotated_back(first / second.sqrt().add_(group["eps"]), state)
        k = t - 1
        return Direction(dense=dense, scale=1.0 if exact else (1 - beta2**k) ** 0.5 / (1 - beta1**k))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, update_interval: int, stagger: bool, bases: str, max_precond_dim: int,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        tall = weight.shape[0] > weight.shape[1]
        W, G = (weight.T, gradient.T) if tall else (weight, gradient)
        (m, n), (b1, b2), K = G.shape, betas, update_interval
        if not state:
            state.update(L=0, R=0, m1=0 * G, v=0 * G)
            state.update(UL=torch.eye(m, dtype=G.dtype), UR=torch.eye(n, dtype=G.dtype))
        L = state["L"] = b2 * state["L"] + (1 - b2) * G @ G.T
        R = state["R"] = b2 * state["R"] + (1 - b2) * G.T @ G
        sides = [side for side in (("UL", L, 0), ("UR", R, 1)) if len(side[1]) <= max_precond_dim]

        if t == 1 or (bases == "exact" and subspace.refresh_clock(t, index, stagger) % K == 0):
            for U, total, _axis in sides:
                leading = torch.linalg.eigh(total).eigenvectors.flip(1)[:, : t * m]
                state[U] = torch.cat([leading, torch.linalg.qr(leading, mode="complete").Q[:, t * m :]], 1)
        UL, UR = state["UL"], state["UR"]
        S = UL.T @ G @ UR

        if bases == "exact":
            m1 = state["m1"] = b1 * state["m1"] + (1 - b1) * G
            v = state["v"] = b2 * state["v"] + (1 - b2) * S**2
            W = W - lr * UL @ ((UL.T @ m1 @ UR) / (v.sqrt() + eps)) @ UR.T
        elif t > 1:
            k = t - 1
            m1 = b1 * state["m1"] + (1 - b1) * S
            v = b2 * state["v"] + (1 - b2) * S**2
            W = W - lr * (1 - b2**k) ** 0.5 / (1 - b1**k) * UL @ (m1 / (v.sqrt() + eps)) @ UR.T
            m1 = UL @ m1 @ UR.T  # projected back, to be projected on the new bases
            if (subspace.refresh_clock(t + 1, index, stagger) - 2) % K == 0:
                for U, total, axis in sides:
                    if len(total) <= t * m:
                        order = torch.diag(state[U].T @ total @ state[U]).argsort(descending=True)
                        v = v.index_select(axis, order)
                        state[U] = torch.linalg.qr(total @ state[U][:, order]).Q
            state["m1"], state["v"] = state["UL"].T @ m1 @ state["UR"], v
        W = W - lr * weight_decay * W
        return W.T if tall else W


def _average_sides(gradient: Tensor, state: dict[str, Tensor], decay: float) -> None:
    """L <- ema(G G^T), R <- ema(G^T G) where they are held."""
    for side, rows in (("left", gradient), ("right", gradient.mT)):
        if side in state:
            average(state[side], rows @ rows.mT, decay)


def _eigenbasis(symmetric: Tensor, rank: int) -> Tensor:
    """[B, k, k] of rank at most `rank` -> [B, k, k]: eigenvectors, descending, and a complement of what has rank."""
    leading = subspace.leading_eigenvectors(symmetric, min(rank, symmetric.shape[-1]))
    return leading if rank >= symmetric.shape[-1] else torch.linalg.qr(leading, mode="complete").Q


def _iterate(state: dict[str, Tensor], side: str, axis: int) -> None:
    """One power iteration and QR of a side's basis; v is re-ordered along that axis, and m1 carried over."""
    old = state[f"{side}_basis"]
    image = state[side] @ old
    order = (old * image).sum(-2, keepdim=True).argsort(-1, descending=True)
    new = torch.linalg.qr(image.gather(-1, order.expand_as(image))).Q
    new = subspace.keep_signs(new, old.gather(-1, order.expand_as(old)))
    entries = order if axis == -1 else order.mT
    state["v"].copy_(state["v"].gather(axis, entries.expand_as(state["v"])))
    turn, m1 = new.mT @ old, state["m1"].to(new.dtype)
    state["m1"].copy_(m1 @ turn.mT if axis == -1 else turn @ m1)
    old.copy_(new)


def _rotated(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U_L^T X U_R, X [B, m, n]."""
    matrix = state["left_basis"].mT @ matrix if "left" in state else matrix
    return matrix @ state["right_basis"] if "right" in state else matrix


def _rotated_back(matrix: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U_L X U_R^T, X [B, m, n]."""
    matrix = matrix @ state["right_basis"].mT if "right" in state else matrix
    return state["left_basis"] @ matrix if "left" in state else matrix
