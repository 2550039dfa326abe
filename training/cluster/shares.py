"""What each of several processes steps, and holds as the optimizer's state, counted on the meta device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizers import BaseOptimizer
from optimizers.engine.eight_bit import is_narrow
from optimizers.parallel.shards import dealt, span


class Part(NamedTuple):
    """A tensor that a process steps, with the options of its group, and the elements of its moments that are bytes."""

    tensor: Tensor
    group: dict[str, Any]
    byte_elements: int


def part_of(optimizer: BaseOptimizer, tensor: Tensor, group: dict[str, Any]) -> Part:
    """`tensor`, on the meta device, as a part that `optimizer` steps."""
    held = optimizer.template(tensor, group).values() if is_narrow(group) else ()
    elements = sum(value.numel() for value in held if isinstance(value, Tensor) and value.dtype == torch.uint8)
    return Part(tensor, group, elements)


def parts_of_processes(optimizer: BaseOptimizer, processes: int) -> list[list[Part]]:
    """For each process of an FSDP2 run what it steps: its own rows of a parameter, or the whole of one that it owns.

    `optimizer` holds the parameters of one process, on the meta device.
    """
    parts: list[list[Part]] = [[] for _ in range(processes)]
    owned = 0
    for group in optimizer.param_groups:
        parameters = group["params"]
        if optimizer.steps_whole(group):
            owners = dealt([parameter.shape for parameter in parameters], owned, processes)
            owned += len(parameters)
            for parameter, owner in zip(parameters, owners, strict=True):
                parts[owner].append(part_of(optimizer, parameter, group))
        else:
            for parameter in parameters:
                for process, mine in enumerate(parts):
                    rows = parameter[span(len(parameter), process, processes)]
                    mine.append(part_of(optimizer, rows, group))
    return parts


def state_bytes(optimizer: BaseOptimizer, parts: list[Part]) -> int:
    """Bytes of the optimizer's state of these parts."""
    total = 0
    for tensor, group, _ in parts:
        state = optimizer.template(tensor, group)
        total += sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
    return total


def row_elements(tensors: Sequence[Tensor], processes: int) -> int:
    """Elements of the rows of `tensors` that a process holds: those of the first, to which FSDP2 pads all."""
    return sum(-(-len(tensor) // processes) * tensor[:1].numel() for tensor in tensors)
