"""Adam with moments in 8 bits, by bitsandbytes' block-wise step (arXiv 2110.02861). It works on CPU and CUDA.

The mathematics are `Adam`'s. State per parameter of N elements: 2 N bytes and N / 32 for the blocks' maxima (8 N
bytes below 4096 elements), and the step count.
"""

import torch
from torch import Tensor

from . import eight_bit, sharded
from .adam import Adam
from .registry import register


@register("adam_8bit")
class Adam8bit(Adam):
    """`Adam` with 8-bit moments: the same options. Raises ImportError without bitsandbytes."""

    sharding = "owner"
    rounds_stochastically = False
    reference_tolerance = eight_bit.REFERENCE_TOLERANCE
    steps_everything = True  # Table 4's memory counts 8-bit moments for every parameter

    def add_param_group(self, param_group: dict) -> None:
        eight_bit.library()  # what is not installed is missed here, not at the first step
        super().add_param_group(param_group)

    def allocate(self, parameter: Tensor, group: dict) -> dict:
        state = {"step": 0}
        for key, (shape, dtype) in eight_bit.state_shapes(tuple(parameter.shape)).items():
            state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
        return state

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        whole = [parameter for parameter in parameters if self.owner(parameter) is None]
        for parameter in whole:
            if parameter.dtype != torch.float64 and parameter.is_contiguous():
                state, gradient = self.state[parameter], parameter.grad.contiguous()
                options = {**_options(state, group), "weight_decay": group["weight_decay"]}
                eight_bit.step(parameter, gradient, state, **options)
            else:
                self._add(parameter, self._change(parameter, parameter.grad, group), group)
        # A block of 256 elements may lie in the rows of two processes.
        for exchange, members in sharded.exchanges([p for p in parameters if self.owner(p) is not None], self):
            gradients = exchange.gather([parameter.grad.to_local() for parameter in members])
            owned = [parameter for parameter in members if self.owns(parameter)]
            changes = [self._change(p, gradient, group) for p, gradient in zip(owned, gradients, strict=True)]
            for parameter, change in zip(members, exchange.scatter(changes, torch.float32), strict=True):
                self._add(parameter.to_local(), change, group)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict) -> Tensor:
        """What the step adds, without weight decay. bitsandbytes knows neither float64 nor strides: it steps a zero."""
        change = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
        state = self.state[parameter]
        eight_bit.step(change, gradient.to(change).contiguous(), state, **_options(state, group))
        return change

    @staticmethod
    def _add(weight: Tensor, change: Tensor, group: dict) -> None:
        weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def _options(state: dict, group: dict) -> dict:
    return {"t": state["step"], "lr": group["lr"], "betas": group["betas"], "eps": group["eps"]}
