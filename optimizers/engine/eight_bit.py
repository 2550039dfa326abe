"""bitsandbytes' block-wise 8-bit Adam step on plain tensors, for `Adam8bit` and `GaLore8bit`.

A moment is held as one byte an element, an index into a map of 256 values that are densest near 0, and one float32
maximum for each block of 256 elements. Tensors of fewer than 4096 elements keep float32 moments, as in bitsandbytes'
own optimizers: they take little memory and are the most sensitive to rounding.
"""

import functools
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # elements that share a maximum: fixed in bitsandbytes' kernels
SMALLEST = 4096  # elements from which on moments are held in 8 bits

# The distance from the plain float64 form that tests allow for small tensors, whose moments are float32. With 8-bit
# moments an update is off by some per cent.
REFERENCE_TOLERANCE = 1e-5


def library() -> ModuleType:
    """bitsandbytes.functional. Raises ImportError saying what to install."""
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ImportError("8-bit optimizers need bitsandbytes: pip install bitsandbytes") from error
    return functional


def state_shapes(shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name -> (shape, dtype) of the moments of a tensor of `shape`; all start at zero."""
    elements = math.prod(shape)
    if elements < SMALLEST:
        return {"exp_avg": (shape, torch.float32), "exp_avg_sq": (shape, torch.float32)}
    moment, blocks = (shape, torch.uint8), ((-(-elements // BLOCK),), torch.float32)
    return {"exp_avg": moment, "exp_avg_sq": moment, "exp_avg_absmax": blocks, "exp_avg_sq_absmax": blocks}


def step(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam with decoupled weight decay, in place: parameter and the moments in `state`.

    parameter and gradient: contiguous, of one dtype that is not float64, which bitsandbytes does not know.
    """
    moments = [state["exp_avg"], state["exp_avg_sq"]]
    by_rows = [moment.contiguous() for moment in moments]
    shared: dict[str, Any] = {
        "optimizer_name": "adam",
        "g": gradient,
        "p": parameter,
        "state1": by_rows[0],
        "state2": by_rows[1],
        "beta1": betas[0],
        "beta2": betas[1],
        "eps": eps,
        "step": t,
        "lr": lr,
        "weight_decay": weight_decay,
    }
    if moments[0].dtype == torch.uint8:
        signed, unsigned = _maps(parameter.device)
        library().optimizer_update_8bit_blockwise(
            **shared,
            beta3=0.0,
            alpha=0.0,
            qmap1=signed,
            qmap2=unsigned,
            absmax1=state["exp_avg_absmax"],
            absmax2=state["exp_avg_sq_absmax"],
        )
    else:
        library().optimizer_update_32bit(**shared)
    for moment, stepped in zip(moments, by_rows, strict=True):
        if stepped is not moment:
            moment.copy_(stepped)


@functools.cache
def _maps(device: torch.device) -> tuple[Tensor, Tensor]:
    """The values that a byte may have: 256 in [-1, 1] for first moments, and 256 in [0, 1] for second moments."""
    create = library().create_dynamic_map
    return create(signed=True).to(device), create(signed=False).to(device)
