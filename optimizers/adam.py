"""Adam: the baseline, and the optimizer of every parameter a matrix method leaves alone.

    m <- b1 m + (1 - b1) G;   v <- b2 v + (1 - b2) G^2
    W <- W - lr wd W;   W <- W - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

The step is torch's fused AdamW, the fastest there is: a baseline must not be handicapped.
State per parameter: two tensors of its shape and dtype, and the step count. With state_bits=8 the step is
bitsandbytes' block-wise one, on bytes.
"""

from typing import Any

from torch import Tensor

from .engine import BaseOptimizer, Traits, adamw, adamw_8bit, eight_bit, register
from .engine.options import Betas, EpsAboveZero, LearningRate, Params, WeightDecay


@register("adam")
class Adam(BaseOptimizer):
    """Adam with decoupled weight decay before the update (as torch's AdamW), for parameters of any shape."""

    traits = Traits(sharding="rows", rounds_stochastically=True, decays_first=True)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        betas: Betas = (0.9, 0.999),
        eps: EpsAboveZero = 1e-8,
        weight_decay: WeightDecay = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return adamw_8bit.allocate(parameter) if eight_bit.is_narrow(group) else adamw.allocate(parameter)

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        self.step_adam(group, parameters)

    def step_narrow(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        noise = self.rounding_noise(parameters)
        for i, parameter in enumerate(parameters):
            adamw_8bit.step(parameter, self.state[parameter], group, noise[i] if noise else None)

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, betas: tuple[float, float], eps: float, **_: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        b1, b2 = betas
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * G
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * G**2
        return (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
