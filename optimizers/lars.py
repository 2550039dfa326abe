"""LARS: layer-wise adaptive rate scaling (Eq. 34 of arXiv 2502.07752; arXiv 1708.03888, with the clipped norm of
arXiv 1904.00962).

    m1 <- b1 m1 + (1 - b1) G
    W <- W - lr phi(||W||) m1 / ||m1||          # phi(x) = x clipped to [0, 10]; norms over a whole parameter

An update is a share lr of the weight, up to a norm of 10: the trajectory is the same for G and c G, and a parameter
that is zero stays zero (biases belong in a group with algorithm="adam").
State per parameter: one tensor of its shape and dtype.
"""

import torch
from torch import Tensor

from . import sharded
from .base import BaseOptimizer
from .checks import check_decay, options_of
from .chunk import working_dtype
from .registry import register

LARGEST_NORM = 10.0


class NormScaled(BaseOptimizer):
    """Parameters of any shape; each moves lr phi(||W||) along `directions`. A subclass says which way that is."""

    sharding = "rows"
    averages: tuple[str, ...]  # names of the state's tensors

    def allocate(self, parameter: Tensor, group: dict) -> dict:
        return {key: torch.zeros_like(parameter) for key in self.averages}

    def directions(self, gradients: list[Tensor], states: list[dict], group: dict) -> list[Tensor]:
        """Advance `states` by gradients in the working precision; where to go, of any length, not to be written to."""
        raise AssertionError(f"{type(self).__name__} does not say where it goes")

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        # All at once are few launches on a GPU, and one message where they are sharded; a CPU gains nothing by holding
        # what comes in between of all of them.
        alone = parameters[0].device.type == "cpu" and sharded.processes(parameters[0]) == 1
        at_once = 1 if alone else len(parameters)
        for start in range(0, len(parameters), at_once):
            self._step_list(group, parameters[start : start + at_once])

    def _step_list(self, group: dict, parameters: list[Tensor]) -> None:
        weights = [sharded.local(parameter) for parameter in parameters]
        gradients = [sharded.local(p.grad).to(working_dtype(p.dtype)) for p in parameters]
        directions = self.directions(gradients, [self.state[parameter] for parameter in parameters], group)
        lengths = sharded.whole_norms(directions, parameters)
        torch._foreach_clamp_min_(lengths, torch.finfo(torch.float32).tiny)  # a zero direction stays zero
        sizes = sharded.whole_norms([w.to(g.dtype) for w, g in zip(weights, gradients, strict=True)], parameters)
        torch._foreach_clamp_max_(sizes, LARGEST_NORM)
        updates = torch._foreach_div(directions, lengths)
        torch._foreach_mul_(updates, sizes)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])


@register("lars")
class LARS(NormScaled):
    """Momentum of unit norm, times the norm of the weight.

    Args:
        params: parameters or groups, of any shape; a group with algorithm="adam" is stepped by Adam.
        lr: the share of the weight's norm that an update has.
        momentum: decay of the average of gradients.
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    averages = ("m1",)

    def __init__(self, params, lr: float = 1e-2, *, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_decay("momentum", options["momentum"])

    def directions(self, gradients: list[Tensor], states: list[dict], group: dict) -> list[Tensor]:
        return foreach_average([state["m1"] for state in states], gradients, group["momentum"])

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, lr: float, momentum: float,
                       weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before the first."""
        m1 = state["m1"] = momentum * state.get("m1", 0) + (1 - momentum) * gradient
        if m1.any():
            weight = weight - lr * min(weight.norm().item(), LARGEST_NORM) * m1 / m1.norm()
        return weight - lr * weight_decay * weight


def foreach_average(means: list[Tensor], news: list[Tensor], decay: float) -> list[Tensor]:
    """`chunk.average` of many tensors: mean <- decay mean + (1 - decay) new; returns the unrounded averages."""
    exact = [mean.to(new.dtype) for mean, new in zip(means, news, strict=True)]
    torch._foreach_lerp_(exact, news, 1 - decay)
    for mean, unrounded in zip(means, exact, strict=True):
        if mean is not unrounded:
            mean.copy_(unrounded)
    return exact
