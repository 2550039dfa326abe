"""Adam with moments in 8 bits, by bitsandbytes' block-wise step (arXiv 2110.02861). It works on CPU and CUDA.

The mathematics are `Adam`'s. State per parameter of N elements: 2 N bytes and N / 32 for the blocks' maxima (8 N
bytes below 4096 elements), and the step count.
"""

import torch
from torch import Tensor

from . import eight_bit
from .adam import Adam
from .registry import register


@register("adam_8bit")
class Adam8bit(Adam):
    """`Adam` with 8-bit moments: the same options. Raises ImportError without bitsandbytes."""

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
            state = self.state[parameter]
            state["step"] += 1
            options = {"t": state["step"], "lr": group["lr"], "betas": group["betas"], "eps": group["eps"]}
            if parameter.dtype != torch.float64 and parameter.is_contiguous():
                gradient = parameter.grad.contiguous()
                eight_bit.step(parameter, gradient, state, weight_decay=group["weight_decay"], **options)
            else:
                # bitsandbytes neither knows float64 nor strides: it steps a zero, and what became of it is added.
                change = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
                eight_bit.step(change, parameter.grad.to(change).contiguous(), state, **options)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)
