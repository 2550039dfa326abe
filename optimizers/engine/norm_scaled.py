"""The base of LARS and LAMB: a direction of unit norm, times the norm of the weight.

W <- W - lr phi(||W||) d / ||d||            # phi(x) = x clipped to [0, 10]; norms over a whole parameter
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..functional.numerics import widened
from ..parallel import shards
from ..parallel.exchange import whole_norms
from . import weights
from .base import BaseOptimizer
from .bounded_lists import bounded_lists
from .traits import Traits

LARGEST_NORM = 10.0


class NormScaled(BaseOptimizer):
    """Steps parameters of any shape: each moves by lr phi(||W||) along the direction that a subclass gives it."""

    traits = Traits(sharding="rows")
    averages: ClassVar[tuple[str, ...]]  # names of the state's tensors

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {key: torch.zeros_like(parameter) for key in self.averages}

    def directions(self, gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> list[Tensor]:
        """Advance `states` by gradients in the working precision; return d, of any norm, which the caller only
        reads."""
        raise AssertionError(f"{type(self).__name__} must define directions")

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for members in bounded_lists(parameters):
            self._step_list(group, members)

    def _step_list(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        rows = [shards.local(parameter) for parameter in parameters]
        gradients = widened([shards.local(p.grad) for p in parameters if p.grad is not None])
        directions = self.directions(gradients, [self.state[parameter] for parameter in parameters], group)
        sizes = whole_norms(rows, parameters).clamp(max=LARGEST_NORM)
        # phi / ||d|| may overflow float32 where d is tiny, so d is multiplied by 1 / sqrt(||d||) twice. 0 / 0 is 0.
        lengths = whole_norms(directions, parameters)
        roots = torch.where(lengths > 0, lengths.rsqrt(), 0.0)
        updates = list(torch._foreach_mul(directions, list(roots.unbind())))
        torch._foreach_mul_(updates, list((roots * sizes).unbind()))
        decay = group["lr"] * group["weight_decay"]
        weights.subtract_changes(rows, updates, step=group["lr"], decay=decay, decays_first=False)


def foreach_average(means: list[Tensor], news: list[Tensor], decay: float) -> list[Tensor]:
    """`numerics.average` of many tensors: mean <- decay mean + (1 - decay) new; returns the unrounded averages."""
    exact = widened(means)
    torch._foreach_lerp_(exact, news, 1 - decay)
    rounded = [(mean, unrounded) for mean, unrounded in zip(means, exact, strict=True) if mean is not unrounded]
    if rounded:
        torch._foreach_copy_([mean for mean, _ in rounded], [unrounded for _, unrounded in rounded])
    return exact


def reference_unit(direction: Tensor, weight: Tensor) -> Tensor:
    """phi(||W||) d / ||d||, 0 for d = 0, in plain float64."""
    if not direction.any():
        return direction
    return min(weight.norm().item(), LARGEST_NORM) * direction / direction.norm()
