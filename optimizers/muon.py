"""Muon: momentum orthogonalized by Newton-Schulz (torch.optim.Muon's mathematics; Keller Jordan et al. 2024).

    B <- mu B + (1 - mu) G;   M = mu B + (1 - mu) G with Nesterov, else B
    X = M / max(||M||, eps);   five times:  A = X X^T;  X <- a X + (b A + c A^2) X       # on the side m <= n
    W <- W - lr wd W;   W <- W - lr f(rows, columns) X

torch steps one matrix at a time and iterates in bfloat16, which CPUs without bfloat16 arithmetic emulate many
times slower than float32. Here same-shape matrices are iterated together, in bfloat16 on CUDA alone.
State per matrix: m n numbers.
"""

import math

import torch
from torch import Tensor

from .checks import check_choice, check_decay, check_range, check_whole, options_of
from .chunk import Direction, average
from .matrix import MatrixOptimizer
from .newton_schulz import newton_schulz
from .registry import register


@register("muon")
class Muon(MatrixOptimizer):
    """Momentum with all singular values driven towards 1.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        momentum: decay of the average of gradients.
        nesterov: look one step ahead: average the gradient in once more.
        ns_coefficients: a, b, c of the iteration.
        ns_steps: its steps.
        ns_dtype: its precision: "bfloat16", "float32", or "auto": bfloat16 on CUDA, float32 elsewhere.
            float64 parameters are always iterated in float64.
        eps: the least norm divided by.
        adjust_lr_fn: f: "match_rms_adamw" is 0.2 sqrt(max(rows, columns)), which makes updates about as large as
            Adam's; "original" is sqrt(max(1, rows / columns)).
        weight_decay: W <- W - lr weight_decay W, before the update, as torch's.
    """

    counts_steps = False
    decay_first = True

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        ns_steps: int = 5,
        ns_dtype: str = "auto",
        eps: float = 1e-7,
        adjust_lr_fn: str = "match_rms_adamw",
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_decay("momentum", options["momentum"])
        if len(options["ns_coefficients"]) != 3:
            raise ValueError(f"ns_coefficients must be 3 numbers, got {len(options['ns_coefficients'])}")
        check_whole("ns_steps", options["ns_steps"], low=1)
        check_choice("ns_dtype", options["ns_dtype"], ("auto", "float32", "bfloat16"))
        check_range("eps", options["eps"], low=0.0, open_low=True)
        check_choice("adjust_lr_fn", options["adjust_lr_fn"], ("match_rms_adamw", "original"))

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        return {"momentum_buffer": ((m, n), dtype)}

    def lr_factor(self, rows: int, columns: int, group: dict) -> float:
        if group["adjust_lr_fn"] == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        mean = average(state["momentum_buffer"], gradient, group["momentum"])
        ahead = torch.lerp(gradient, mean, group["momentum"]) if group["nesterov"] else mean
        ahead = ahead.to(_iteration_dtype(ahead, group["ns_dtype"]))
        unit = ahead / ahead.norm(dim=(-2, -1), keepdim=True).clamp(min=group["eps"])
        return Direction(dense=newton_schulz(unit, group["ns_coefficients"], group["ns_steps"]).to(gradient.dtype))

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, lr: float, momentum: float, nesterov: bool,
                       ns_coefficients, ns_steps: int, eps: float, adjust_lr_fn: str, weight_decay: float,
                       **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before the first."""
        (rows, columns), (a, b, c), W, G = weight.shape, ns_coefficients, weight, gradient
        B = state["B"] = momentum * state.get("B", 0) + (1 - momentum) * G
        M = momentum * B + (1 - momentum) * G if nesterov else B
        X = M / max(M.norm().item(), eps)
        X = X.T if rows > columns else X
        for _ in range(ns_steps):
            A = X @ X.T
            X = a * X + (b * A + c * A @ A) @ X
        X = X.T if rows > columns else X
        original = adjust_lr_fn == "original"
        factor = max(1, rows / columns) ** 0.5 if original else 0.2 * max(rows, columns) ** 0.5
        return W - lr * weight_decay * W - lr * factor * X


def _iteration_dtype(matrix: Tensor, ns_dtype: str) -> torch.dtype:
    if matrix.dtype == torch.float64:
        return torch.float64
    bfloat16 = ns_dtype == "bfloat16" or (ns_dtype == "auto" and matrix.is_cuda)
    return torch.bfloat16 if bfloat16 else torch.float32
