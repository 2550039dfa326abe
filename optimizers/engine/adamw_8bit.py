"""bitsandbytes' block-wise step of AdamW on bytes: the step of `Adam` with states in 8 bits.

It computes and writes the weight in one call, as torch's fused AdamW does for wide states. Tensors of fewer than 4096
elements have float32 moments, as in bitsandbytes' own optimizers.
"""

from typing import Any

import torch
from torch import Tensor

from ..functional import rounding
from . import eight_bit, weights

# The distance from the plain float64 form that tests allow for small tensors, whose moments are float32. With 8-bit
# moments an update is off by some per cent.
REFERENCE_TOLERANCE = 1e-5


def allocate(parameter: Tensor) -> dict[str, Any]:
    """exp_avg, exp_avg_sq (shape of the parameter, float32) and the number of steps; not yet in 8 bits."""
    first, second = (torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device) for _ in range(2))
    return {"step": 0, "exp_avg": first, "exp_avg_sq": second}


def step(parameter: Tensor, state: dict[str, Any], group: dict[str, Any], source: torch.Generator | None) -> None:
    """One step by the group's lr, betas, eps and weight_decay. With a `source` the weight is computed in float32 and
    rounded stochastically.

    bitsandbytes takes neither float64 nor strides, so for such a weight it steps a contiguous zero in its place.
    """
    gradient = parameter.grad
    assert gradient is not None
    state["step"] += 1
    if source is not None:
        exact = parameter.float().contiguous()
        _step(exact, gradient.float().contiguous(), state, group, group["weight_decay"])
        rounding.write(parameter, exact, source)
    elif parameter.dtype != torch.float64 and parameter.is_contiguous():
        _step(parameter, gradient.to(parameter.dtype).contiguous(), state, group, group["weight_decay"])
    else:
        change = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
        _step(change, gradient.to(change).contiguous(), state, group, weight_decay=0.0)
        decay = group["lr"] * group["weight_decay"]
        weights.subtract_changes([parameter], [change], step=-1.0, decay=decay, decays_first=True)


def _step(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any], weight_decay: float
) -> None:
    """The step of `parameter` and of the moments in `state`, in place; parameter and gradient are contiguous and of one
    dtype."""
    moments = [state["exp_avg"], state["exp_avg_sq"]]
    by_rows = [moment.contiguous() for moment in moments]
    shared: dict[str, Any] = {
        "optimizer_name": "adam",
        "g": gradient,
        "p": parameter,
        "state1": by_rows[0],
        "state2": by_rows[1],
        "beta1": group["betas"][0],
        "beta2": group["betas"][1],
        "eps": group["eps"],
        "step": state["step"],
        "lr": group["lr"],
        "weight_decay": weight_decay,
    }
    if moments[0].dtype == torch.uint8:
        maps = eight_bit.maps(parameter.device)
        eight_bit.library().optimizer_update_8bit_blockwise(
            **shared,
            beta3=0.0,
            alpha=0.0,
            qmap1=maps[True].values,
            qmap2=maps[False].values,
            absmax1=state["exp_avg_absmax"],
            absmax2=state["exp_avg_sq_absmax"],
        )
    else:
        eight_bit.library().optimizer_update_32bit(**shared)
    for moment, stepped in zip(moments, by_rows, strict=True):
        if stepped is not moment:
            moment.copy_(stepped)
