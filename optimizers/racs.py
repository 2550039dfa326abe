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

from collections.abc import Callable

import torch
from torch import Tensor

from . import native
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
    takes_squares = True

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

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        steps = {parameter: step for parameter in parameters if (step := self._native_step(parameter, group))}
        if steps:
            native.for_each(lambda step: step(), steps.values())
            torch.autograd.graph.increment_version(list(steps))
            if group["weight_decay"]:
                torch._foreach_mul_(list(steps), 1 - group["lr"] * group["weight_decay"])
        rest = [parameter for parameter in parameters if parameter not in steps]
        if rest:
            super().step_group(group, rest)

    def _companions(self, parameter: Tensor, group: dict) -> list[Tensor]:
        return [parameter] if self._native_step(parameter, group) else super()._companions(parameter, group)

    def _native_step(self, parameter: Tensor, group: dict) -> Callable[[], None] | None:
        """The step of a matrix that racs.cpp can step: a whole float32 or float64 one in the memory of a CPU."""
        step = native.function("racs.cpp", "racs_step", parameter, parameter.grad)
        if step is None:
            return None

        def run() -> None:
            state, (rows, columns) = self.state[parameter], parameter.shape
            scales = [state.get("row_scale"), state.get("column_scale")]
            if rows > columns:  # the vectors of the transpose
                scales.reverse()
            settings = (group["beta"], group["gamma"], group["iterations"], group["lr"] * group["alpha"])
            step(parameter, parameter.grad, rows, columns, *scales, state["phi"], *settings)

        return run

    def update(self, power: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        columns, rows = fixed_point(power, group["iterations"])
        live = columns.amax(-1, keepdim=True) > 0
        if group["ema"]:
            weight = (1 - group["beta"]) * live.to(columns.dtype)  # a zero gradient must not decay the averages
            columns = state["column_scale"].lerp_(columns, weight)
            rows = state["row_scale"].lerp_(rows, weight)
        columns, rows = reciprocal(columns), reciprocal(rows)
        # ||X||^2 = (1/Q)^T P (1/S): X itself is never formed.
        weighted = torch.empty_like(rows)
        products(power)(columns, weighted)
        norm = torch.linalg.vecdot(rows, weighted).sqrt_()
        eta, limited = limit_growth(norm, state["phi"], group["gamma"])
        state["phi"].copy_(torch.where(live.squeeze(-1), limited, state["phi"]))
        rows = rows.sqrt_().mul_(eta.unsqueeze(-1)).unsqueeze(-1)
        return Direction(rows=rows, columns=columns.sqrt_().unsqueeze(-2), scale=group["alpha"], scratch=power)

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

    Whatever the gradient's scale, nothing may underflow or overflow, so both vectors are iterated at unit sum,
    s_k = x_k a_k and q_k = y_k b_k, and Eq. 16's lengths are found at the end: with P^T b_k-1 = alpha_k a_k and
    P a_k = beta_k b_k they are x_k = alpha_k / (y_k-1 |b_k-1|^2) and y_k = beta_k / (x_k |a_k|^2).
    """
    batch, m, n = power.shape
    a, b = power.new_empty(iterations, batch, n), power.new_empty(iterations + 1, batch, m)
    alpha, beta = power.new_empty(iterations, batch, 1), power.new_empty(iterations, batch, 1)
    times, transposed_times = products(power), products(power.mT)
    a_, b_, alpha_, beta_ = a.unbind(), b.unbind(), alpha.unbind(), beta.unbind()
    b_[0].fill_(1 / m)
    for k in range(iterations):
        if k == 0:
            torch.mul(power.sum(-2), 1 / m, out=a_[0])
        else:
            transposed_times(b_[k], a_[k])
        a_[k].div_(torch.sum(a_[k], -1, keepdim=True, out=alpha_[k]))
        times(a_[k], b_[k + 1])
        b_[k + 1].div_(torch.sum(b_[k + 1], -1, keepdim=True, out=beta_[k]))
    a_square = torch.linalg.vector_norm(a, dim=-1, keepdim=True).square_()
    b_square = torch.linalg.vector_norm(b[:-1], dim=-1, keepdim=True).square_()
    y = (beta / alpha * (b_square / a_square)).prod(0).mul_(m)
    x = beta[-1] / (y * a_square[-1])
    live = alpha[0] > 0  # a zero gradient has gone through as 0 / 0
    return torch.where(live, a[-1].mul_(x), 0.0), torch.where(live, b[-1].mul_(y), 0.0)


def products(matrices: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """For a stack [B, m, n], the function of vectors [B, n] and out [B, m] that puts each product into out."""
    if matrices.device.type != "cpu":
        return lambda vectors, out: torch.bmm(matrices, vectors.unsqueeze(-1), out=out.unsqueeze(-1))
    if len(matrices) == 1:
        (only,) = matrices.unbind()
        return lambda vectors, out: torch.mv(only, vectors.view(-1), out=out.view(-1))
    parts = matrices.unbind()

    def one_by_one(vectors: Tensor, out: Tensor) -> None:
        # A CPU's batched product takes ten times as long as one product after the other.
        for matrix, vector, result in zip(parts, vectors.unbind(), out.unbind(), strict=True):
            torch.mv(matrix, vector, out=result)

    return one_by_one


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
