"""LARS: layer-wise adaptive rate scaling (Eq. 34 of arXiv 2502.07752; arXiv 1708.03888, with the clipped norm of
arXiv 1904.00962).

    m <- b1 m + (1 - b1) G
    W <- W - lr phi(||W||) m / ||m||          # phi(x) = x clipped to [0, 10]; norms over a whole parameter

An update is a share lr of the weight, up to a norm of 10: the trajectory is the same for G and c G, and a parameter
that is zero stays zero (biases belong in a group with algorithm="adam").
State per parameter: one tensor of its shape and dtype.
"""

from typing import Any

from torch import Tensor

from .engine import register
from .engine.norm_scaled import NormScaled, foreach_average, reference_unit
from .engine.options import LearningRate, Momentum, Params, WeightDecay


@register("lars")
class LARS(NormScaled):
    """Momentum of unit norm, times the norm of the weight. lr is the ratio of the update's norm to the weight's."""

    averages = ("exp_avg",)

    def __init__(
        self, params: Params, lr: LearningRate = 1e-2, *, momentum: Momentum = 0.9, weight_decay: WeightDecay = 0.0
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def directions(self, gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> list[Tensor]:
        return foreach_average([state["exp_avg"] for state in states], gradients, group["momentum"])

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, weight: Tensor, momentum: float, **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        m = state["m"] = momentum * state.get("m", 0) + (1 - momentum) * G
        return reference_unit(m, weight)
