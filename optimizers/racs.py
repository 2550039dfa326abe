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

from . import native, threads
from .checks import check_decay, check_range, check_whole, options_of
from .chunk import Direction, working_dtype
from .limiter import limit_growth, reference_limit
from .matrix import MatrixOptimizer
from .registry import register
from .scaling import fixed_point, reciprocal, reference_fixed_point, scaled_norm


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
            threads.for_each(lambda step: step(), [(step,) for step in steps.values()])
            if group["weight_decay"]:
                torch._foreach_mul_(list(steps), 1 - group["lr"] * group["weight_decay"])
        rest = [parameter for parameter in parameters if parameter not in steps]
        if rest:
            super().step_group(group, rest)

    def _companions(self, parameter: Tensor, group: dict) -> list[Tensor]:
        alone = group["algorithm"] == "method" and self._native_step(parameter, group)
        return [parameter] if alone else super()._companions(parameter, group)

    def _native_step(self, parameter: Tensor, group: dict) -> Callable[[], None] | None:
        """The step of a matrix that racs.cpp can step: a whole float32 or float64 one in the memory of a CPU."""
        state, (rows, columns) = self.state.get(parameter, {}), parameter.shape
        tensors = (parameter, parameter.grad, *state.values())
        step = native.function("racs.cpp", "racs_step", "ppllpppddld", *tensors)
        if step is None:
            return None

        def run() -> None:
            scales = [state.get("row_scale"), state.get("column_scale")]
            if rows > columns:  # the vectors of the transpose
                scales.reverse()
            settings = (group["beta"], group["gamma"], group["iterations"], float(group["lr"] * group["alpha"]))
            step(parameter, parameter.grad, rows, columns, *scales, state["phi"], *settings)
            torch.autograd.graph.increment_version([parameter, *state.values()])

        return run

    def _stackable(self, parameter: Tensor, device_type: str) -> int:
        alone = device_type == "cpu" and parameter.dtype in native.C_TYPES and native.library("racs.cpp") is not None
        return 1 if alone else super()._stackable(parameter, device_type)

    def update(self, power: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        columns, rows = fixed_point(power, group["iterations"])
        live = columns.amax(-1, keepdim=True) > 0
        if group["ema"]:
            weight = (1 - group["beta"]) * live.to(columns.dtype)  # a zero gradient must not decay the averages
            columns = state["column_scale"].lerp_(columns, weight)
            rows = state["row_scale"].lerp_(rows, weight)
        columns, rows = reciprocal(columns), reciprocal(rows)
        eta, limited = limit_growth(scaled_norm(power, rows, columns), state["phi"], group["gamma"])
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
