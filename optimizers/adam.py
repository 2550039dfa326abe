"""Adam: the baseline, and the optimizer of every parameter a matrix method leaves alone.

    m <- b1 m + (1 - b1) G;   v <- b2 v + (1 - b2) G^2
    W <- W - lr wd W;   W <- W - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

The step is torch's fused AdamW, the fastest there is: a baseline must not be handicapped.
State per parameter: two tensors of its shape and dtype, and the step count.
"""

from torch import Tensor

from . import fused_adam
from .base import BaseOptimizer
from .checks import check_betas, check_range, options_of
from .registry import register


@register("adam")
class Adam(BaseOptimizer):
    """Adam with decoupled weight decay, for parameters of any shape.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the corrected second moment.
        weight_decay: decoupled, before the update (as torch's AdamW).
    """

    sharding = "rows"
    rounds_stochastically = True

    def __init__(
        self,
        params,
        lr: float = 1e-3,
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
        check_range("eps", options["eps"], low=0.0)

    def allocate(self, parameter: Tensor, group: dict) -> dict:
        return fused_adam.allocate(parameter)

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        self.step_adam(group, parameters)

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, lr: float, betas, eps: float,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        b1, b2 = betas
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * gradient
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * gradient**2
        weight = weight - lr * weight_decay * weight
        return weight - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
