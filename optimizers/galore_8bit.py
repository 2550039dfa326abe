"""GaLore with moments in 8 bits, by bitsandbytes' block-wise step.

The mathematics are `GaLore`'s; the basis keeps the parameter's dtype. State per matrix: m r numbers, 2 r n bytes and
r n / 32 bytes for the blocks' maxima (8 r n bytes where r n < 4096).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .engine import Direction, eight_bit, register
from .galore import GaLore


@register("galore_8bit")
class GaLore8bit(GaLore):
    """`GaLore` with 8-bit moments: the same options. Raises ImportError without bitsandbytes."""

    traits = replace(
        GaLore.traits, last_layer="adam", reference_tolerance=eight_bit.REFERENCE_TOLERANCE, same_every_step=False
    )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        eight_bit.library()  # a missing package is noticed here, not at the first step
        super().add_param_group(param_group)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r = min(group["rank"], m)
        return {"basis": ((m, r), dtype), **eight_bit.state_shapes((r, n))}

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        sigma = (basis.mT @ gradient).float().contiguous()
        # Adam adds eps to the root of the corrected second moment, GaLore to that of the uncorrected one.
        eps = group["eps"] / (1 - group["betas"][1] ** t) ** 0.5
        # A zero that was stepped with lr 1 is minus the normalised moment. Blocks must not span two matrices.
        stepped = torch.zeros_like(sigma)
        for i, (zero, projected) in enumerate(zip(stepped, sigma, strict=True)):
            moments = {key: tensor[i] for key, tensor in state.items() if key != "basis"}
            eight_bit.step(zero, projected, moments, t=t, lr=1.0, betas=group["betas"], eps=eps)
        return Direction(left=basis, right=stepped.to(basis.dtype), scale=-group["scale"])
