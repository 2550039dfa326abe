"""Lists of parameters that are stepped together, bounded in memory."""

from torch import Tensor

from ..functional.numerics import working_dtype
from ..parallel import shards

# The most bytes of copies in the working precision for parameters that are stepped as one list.
LIST_BYTES = {"cpu": 0, "cuda": 1 << 28}


def bounded_lists(parameters: list[Tensor], device_type: str | None = None) -> list[list[Tensor]]:
    """`parameters`, in order, in lists that are stepped together, on their one device or one of this type.

    On a GPU that saves launches, and where parameters are sharded it saves messages. A CPU gains nothing by it.
    """
    if shards.processes(parameters[0]) > 1:
        return [parameters]
    most = LIST_BYTES.get(device_type or parameters[0].device.type, 0)
    lists: list[list[Tensor]] = []
    held = 0
    for parameter in parameters:
        size = parameter.numel() * working_dtype(parameter.dtype).itemsize
        if not lists or held + size > most or parameter.device != lists[-1][-1].device:
            lists.append([])
            held = 0
        lists[-1].append(parameter)
        held += size
    return lists
