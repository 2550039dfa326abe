"""RACS: row and column scaled SGD (Alg. 1, Eq. 16 of arXiv 2502.07752).

The structure it assumes of the Fisher is S (x) Q with both diagonal; Proposition 3's fixed point is found
from the gradient alone:

    P = G^2;  q = 1;  five times:  s = P^T q / (q.q);  q = P s / (s.s)
    S <- beta S + (1 - beta) s;    Q <- beta Q + (1 - beta) q          # from 0, no bias correction
    X = diag(Q)^(-1/2) G diag(S)^(-1/2)
    eta = gamma / max(||X|| / phi, gamma);   phi <- eta ||X||           # eta = 1 while phi = 0
    W <- W - lr alpha eta X

State per matrix: m + n + 1 numbers. The trajectory is the same for G and c G: there is no absolute eps.
A zero row or column gets a zero update, a zero gradient leaves weights and state as they are.
"""

import torch
from torch import Tensor

from .checks import check_decay, check_range, check_whole, options_of
from .chunk import Direction, working_dtype
from .limiter import limit_growth, reference_limit
from .matrix import MatrixOptimizer
from .registry import register


@register("racs")
class RACS(MatrixOptimizer):
    """Row and column scaled SGD for matrices.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate; lr * alpha is the size of an update's elements, as Adam's lr is.
        alpha: scale of the update.
        beta: decay of the averages of both scalings.
        gamma: largest growth of the update's norm from one step to the next.
        iterations: steps of the fixed-point iteration.
        ema: average the scalings over time (Alg. 1); without it they are those of the current gradient.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    counts_steps = False

    def __init__(
        self,
        params,
        lr: float = 0.02,
        *,
        alpha: float = 0.05,
        beta: float = 0.9,
        gamma: float = 1.01,
        iterations: int = 5,
        ema: bool = True,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_range("alpha", options["alpha"], low=0.0)
        check_decay("beta", options["beta"])
        check_range("gamma", options["gamma"], low=1.0)
        check_whole("iterations", options["iterations"], low=1)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        dtype = working_dtype(dtype)
        vectors = {"column_scale": ((n,), dtype), "row_scale": ((m,), dtype)} if group["ema"] else {}
        return {**vectors, "phi": ((), dtype)}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        power = gradient * gradient
        columns, rows = fixed_point(power, group["iterations"])
        live = columns.amax(-1, keepdim=True) > 0
        if group["ema"]:
            weight = (1 - group["beta"]) * live.to(columns.dtype)  # a zero gradient must not decay the averages
            columns = state["column_scale"].lerp_(columns, weight)
            rows = state["row_scale"].lerp_(rows, weight)
        columns, rows = reciprocal(columns).unsqueeze(-1), reciprocal(rows).unsqueeze(-1)
        # ||X||^2 = (1/Q)^T P (1/S): X itself is never formed.
        norm = torch.bmm(rows.mT, torch.bmm(power, columns)).flatten().sqrt_()
        eta, limited = limit_growth(norm, state["phi"], group["gamma"])
        state["phi"].copy_(torch.where(live.squeeze(-1), limited, state["phi"]))
        return Direction(rows=eta.view(-1, 1, 1) * rows.sqrt(), columns=columns.sqrt().mT, scale=group["alpha"])

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, lr: float, alpha: float, beta: float,
                       gamma: float, iterations: int, ema: bool, weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before the first."""
        if not gradient.any():
            return weight - lr * weight_decay * weight
        tall = weight.shape[0] > weight.shape[1]
        W, G = (weight.T, gradient.T) if tall else (weight, gradient)
        s, q = reference_fixed_point(G**2, iterations)
        if ema:
            s = state["S"] = beta * state.get("S", 0) + (1 - beta) * s
            q = state["Q"] = beta * state.get("Q", 0) + (1 - beta) * q
        X = reciprocal(q).sqrt()[:, None] * G * reciprocal(s).sqrt()
        eta, state["phi"] = reference_limit(X.norm().item(), state.get("phi", 0.0), gamma)
        W = W - lr * alpha * eta * X
        W = W - lr * weight_decay * W
        return W.T if tall else W


def fixed_point(power: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16 on a stack: power = G^2 [B, m, n] -> (s [B, n], q [B, m]), power ~ q s^T; both 0 where power is 0.

    Whatever the gradient's scale, nothing may underflow or overflow, so the two vectors are iterated at unit
    norm, each product divided by mean(power), and the norms are put back at the end: with a = |P^T q| for
    a unit q and b = |P s| for a unit s, Eq. 16 gives |s_k| = a_k / |q_k-1| and |q_k| = b_k / |s_k|.
    """
    m = power.shape[-2]
    s = power.sum(-2).unsqueeze(-1)  # P^T 1, to be the first product for the unit vector 1 / sqrt(m)
    mean = s.mean(-2, keepdim=True) / m
    inverse_mean = 1 / mean
    s.mul_(inverse_mean * m**-0.5)
    q_norm = m**0.5
    for remaining in reversed(range(iterations)):
        a = s.norm(dim=-2, keepdim=True)
        q = torch.bmm(power, s.div_(a)).mul_(inverse_mean)
        b = q.norm(dim=-2, keepdim=True)
        q.div_(b)
        s_norm = a / q_norm
        q_norm = b / s_norm
        if remaining:
            s = torch.bmm(power.mT, q).mul_(inverse_mean)
    # A zero gradient has gone through as 0 / 0.
    s, q = s.mul_(s_norm).mul_(mean).squeeze(-1), q.mul_(q_norm).squeeze(-1)
    live = mean.squeeze(-1) > 0
    return torch.where(live, s, 0.0), torch.where(live, q, 0.0)


def reference_fixed_point(P: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16 as printed, for one matrix P [m, n] -> (s [n], q [m]); both 0 for P = 0."""
    s, q = P.new_zeros(P.shape[1]), P.new_ones(P.shape[0])
    if not P.any():
        return s, 0 * q
    for _ in range(iterations):
        s = P.T @ q / (q @ q)
        q = P @ s / (s @ s)
    return s, q


def reciprocal(x: Tensor) -> Tensor:
    """1 / x where x is a positive normal number, else 0 (1 / x of a smaller one would be infinite)."""
    return torch.where(x >= torch.finfo(x.dtype).tiny, 1 / x, 0.0)
