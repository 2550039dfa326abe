"""LAMB: Adam's direction at the weight's norm (arXiv 1904.00962).

    m <- b1 m + (1 - b1) G;   v <- b2 v + (1 - b2) G^2
    r = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
    W <- W - lr phi(||W||) r / ||r||            # phi(x) = x clipped to [0, 10]; norms over a whole parameter

As with LARS, an update is a share lr of the weight, and a parameter that is zero stays zero.
State per parameter: two tensors of its shape and dtype.
"""

from typing import Any

import torch
from torch import Tensor

from .engine import register
from .engine.norm_scaled import NormScaled, foreach_average, reference_unit
from .engine.options import Betas, EpsAboveZero, LearningRate, Params, WeightDecay


@register("lamb")
class LAMB(NormScaled):
    """Adam's direction at unit norm, times the norm of the weight. lr is the ratio of the update's norm to the
    weight's."""

    averages = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        *,
        betas: Betas = (0.9, 0.999),
        eps: EpsAboveZero = 1e-8,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": 0, **super().allocate(parameter, group)}

    def directions(self, gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        for state in states:
            state["step"] += 1
        first = foreach_average([state["exp_avg"] for state in states], gradients, beta1)
        held = [state["exp_avg_sq"] for state in states]
        # One expression: no step of it outlives its use, so four copies of the parameters exist at the most.
        roots = torch._foreach_sqrt(foreach_average(held, list(torch._foreach_mul(gradients, gradients)), beta2))
        # The length is lost anyway, so only eps needs the corrections: r ~ m / (sqrt(v) + eps sqrt(1 - b2^t)).
        torch._foreach_add_(roots, [group["eps"] * (1 - beta2 ** state["step"]) ** 0.5 for state in states])
        return list(torch._foreach_div(first, roots))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, weight: Tensor, betas: tuple[float, float], eps: float, **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        b1, b2 = betas
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * G
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * G**2
        return reference_unit((m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps), weight)
