"""GaLore with moments in 8 bits, by bitsandbytes' block-wise step.

The mathematics are `GaLore`'s; the basis stays in the parameter's dtype. State per matrix: m r numbers, 2 r n bytes
and r n / 32 for the blocks' maxima (8 r n bytes where r n < 4096).
"""

import torch
from torch import Tensor

from . import eight_bit
from .chunk import Direction
from .galore import GaLore
from .registry import register


@register("galore_8bit")
class GaLore8bit(GaLore):
    """`GaLore` with 8-bit moments: the same options. Raises ImportError without bitsandbytes."""

    last_layer = "adam"
    lie_with_gradient = ()  # bitsandbytes takes what lies by rows
    reference_tolerance = eight_bit.REFERENCE_TOLERANCE

    def add_param_group(self, param_group: dict) -> None:
        eight_bit.library()  # what is not installed is missed here, not at the first step
        super().add_param_group(param_group)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        r = min(group["rank"], m)
        return {"basis": ((m, r), dtype), **eight_bit.state_shapes((r, n))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        sigma = (basis.mT @ gradient).float().contiguous()
        moments = {key: tensor.unbind(0) for key, tensor in state.items() if key != "basis"}
        # Adam adds eps to the root of the corrected second moment, GaLore to that of the uncorrected one.
        eps = group["eps"] / (1 - group["betas"][1] ** t) ** 0.5
        # A zero that was stepped with lr 1 is minus the normalised moment. Blocks must not span two matrices.
        stepped = torch.zeros_like(sigma)
        for i, (zero, projected) in enumerate(zip(stepped, sigma, strict=True)):
            held = {key: tensors[i] for key, tensors in moments.items()}
            eight_bit.step(zero, projected, held, t=t, lr=1.0, betas=group["betas"], eps=eps)
        return Direction(left=basis, right=stepped.to(basis.dtype), scale=-group["scale"])
