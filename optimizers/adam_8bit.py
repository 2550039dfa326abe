"""Adam with moments in 8 bits, by bitsandbytes' block-wise step (arXiv 2110.02861). It works on CPU and CUDA.

The mathematics are `Adam`'s. State per parameter of N elements: 2 N bytes, N / 32 bytes for the blocks' maxima (8 N
bytes below 4096 elements), and the step count.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .adam import Adam
from .engine import Traits, eight_bit, register, weights
from .parallel.exchange import exchanges


@register("adam_8bit")
class Adam8bit(Adam):
    """`Adam` with 8-bit moments: the same options. Raises ImportError without bitsandbytes."""

    # Table 4's memory counts 8-bit moments for every parameter, embeddings and norms too. Sharded parameters have
    # owners, because a block of elements may span the rows of two processes.
    traits = Traits(
        steps_everything=True,
        rounds_stochastically=False,
        decays_first=True,
        reference_tolerance=eight_bit.REFERENCE_TOLERANCE,
    )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        eight_bit.library()  # a missing package is noticed here, not at the first step
        super().add_param_group(param_group)

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {"step": 0}
        for key, (shape, dtype) in eight_bit.state_shapes(tuple(parameter.shape)).items():
            state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
        return state

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        decay = group["lr"] * group["weight_decay"]
        for parameter in (p for p in parameters if self.owner(p) is None):
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if parameter.dtype != torch.float64 and parameter.is_contiguous():
                options = {**_options(state, group), "weight_decay": group["weight_decay"]}
                eight_bit.step(parameter, gradient.contiguous(), state, **options)
            else:
                change = self._change(parameter, gradient, group)
                weights.subtract_changes([parameter], [change], step=-1.0, decay=decay, decays_first=True)
        sharded = [p for p in parameters if isinstance(p, DTensor)]
        for exchange, members in exchanges(sharded, self.owner):
            gradients = exchange.gather([p.grad.to_local() for p in members if isinstance(p.grad, DTensor)])
            owned = [parameter for parameter in members if self.owns(parameter)]
            changes = [self._change(p, gradient, group) for p, gradient in zip(owned, gradients, strict=True)]
            rows, changes = [p.to_local() for p in members], exchange.scatter(changes, torch.float32)
            weights.subtract_changes(rows, changes, step=-1.0, decay=decay, decays_first=True)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """The change of the weight, without weight decay.

        bitsandbytes takes neither float64 nor strides, so it steps a contiguous zero in place of the weight.
        """
        change = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
        state = self.state[parameter]
        eight_bit.step(change, gradient.to(change).contiguous(), state, **_options(state, group))
        return change


def _options(state: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    return {"t": state["step"], "lr": group["lr"], "betas": group["betas"], "eps": group["eps"]}
