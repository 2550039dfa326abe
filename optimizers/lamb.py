"""LAMB: Adam's direction at the weight's norm (arXiv 1904.00962).

    m1 <- b1 m1 + (1 - b1) G;   v <- b2 v + (1 - b2) G^2
    r = (m1 / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
    W <- W - lr phi(||W||) r / ||r||            # phi(x) = x clipped to [0, 10]; norms over a whole parameter

As with LARS, an update is a share lr of the weight, and a parameter that is zero stays zero.
State per parameter: two tensors of its shape and dtype.
"""

import torch
from torch import Tensor

from .checks import check_betas, check_range, options_of
from .lars import LARGEST_NORM, NormScaled, foreach_average
from .registry import register


@register("lamb")
class LAMB(NormScaled):
    """Adam's direction at unit norm, times the norm of the weight.

    Args:
        params: parameters or groups, of any shape; a group with algorithm="adam" is stepped by Adam.
        lr: the share of the weight's norm that an update has.
        betas: decay of the first and second moment.
        eps: added to the root of the corrected second moment.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    averages = ("m1", "v")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_betas(options["betas"], 2)
        check_range("eps", options["eps"], low=0.0, open_low=True)

    def allocate(self, parameter: Tensor, group: dict) -> dict:
        return {"step": 0, **super().allocate(parameter, group)}

    def directions(self, gradients: list[Tensor], states: list[dict], group: dict) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        for state in states:
            state["step"] += 1
        first = foreach_average([state["m1"] for state in states], gradients, beta1)
        squares = torch._foreach_mul(gradients, gradients)
        second = foreach_average([state["v"] for state in states], squares, beta2)
        roots = torch._foreach_sqrt(second)
        # The length is lost anyway, so only eps has to feel the corrections: r ~ m1 / (sqrt(v) + eps sqrt(1 - b2^t)).
        torch._foreach_add_(roots, [group["eps"] * (1 - beta2 ** state["step"]) ** 0.5 for state in states])
        return torch._foreach_div(first, roots)

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, lr: float, betas, eps: float,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        b1, b2 = betas
        m1 = state["m1"] = b1 * state.get("m1", 0) + (1 - b1) * gradient
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * gradient**2
        r = (m1 / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        if r.any():
            weight = weight - lr * min(weight.norm().item(), LARGEST_NORM) * r / r.norm()
        return weight - lr * weight_decay * weight
