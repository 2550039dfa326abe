"""Lists of parameters that are stepped together, bounded in memory."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..functional.numerics import working_dtype
from ..parallel import shards

# The most bytes of copies in the working precision for parameters that are stepped as one list.
LIST_BYTES = {"cpu": 0, "cuda": 1 << 28}


def bounded_lists(parameters: list[Tensor], device_type: str | None = None) -> list[list[Tensor]]:
    """`parameters`, in order, in lists that are stepped together, on their devices or one of this type. Those of a list
    are all sharded or all whole, of one dtype and on one device.

    On a GPU that saves launches, and where parameters are sharded it saves messages. A CPU gains nothing by it.
    """
    lists: list[list[Tensor]] = []
    held = 0
    for parameter in parameters:
        size = parameter.numel() * working_dtype(parameter.dtype).itemsize
        whole = shards.processes(parameter) == 1
        full = whole and held + size > LIST_BYTES.get(device_type or parameter.device.type, 0)
        if not lists or full or _kind(parameter) != _kind(lists[-1][-1]):
            lists.append([])
            held = 0
        lists[-1].append(parameter)
        held += size
    return lists


def _kind(parameter: Tensor) -> tuple[bool, torch.dtype, torch.device]:
    return isinstance(parameter, DTensor), parameter.dtype, parameter.device
