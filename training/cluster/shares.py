"""What each of several processes steps, and holds as the optimizer's state, counted on the meta device."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from optimizers import BaseOptimizer
from optimizers.engine.eight_bit import is_narrow
from optimizers.engine.matrix import MatrixOptimizer
from optimizers.parallel.dealt_steps import deal
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


Sharing = Literal["whole", "dealt", "rows"]


def parts_of_processes(optimizer: BaseOptimizer, processes: int, sharing: Sharing) -> list[list[Part]]:
    """For each process what it steps. "whole": everything. "dealt": its share of the matrices, and all that cannot be
    dealt. "rows", with FSDP2: its own rows of a parameter, or the whole of one that it owns.

    `optimizer` holds the parameters of one process, on the meta device.
    """
    parts: list[list[Part]] = [[] for _ in range(processes)]
    owned: dict[Tensor, int] = {}
    for group in optimizer.param_groups:
        owners = _owners(optimizer, group, processes, sharing, owned)
        owned |= owners
        for parameter in group["params"]:
            if parameter in owners:
                parts[owners[parameter]].append(part_of(optimizer, parameter, group))
                continue
            for process, mine in enumerate(parts):
                rows = span(len(parameter), process, processes) if sharing == "rows" else slice(None)
                mine.append(part_of(optimizer, parameter[rows], group))
    return parts


def _owners(
    optimizer: BaseOptimizer, group: dict[str, Any], processes: int, sharing: Sharing, owned: dict[Tensor, int]
) -> dict[Tensor, int]:
    """The process that alone steps a parameter, of those of the group that one process steps."""
    parameters = group["params"]
    if sharing == "rows" and optimizer.steps_whole(group):
        return dict(zip(parameters, dealt([p.shape for p in parameters], len(owned), processes), strict=True))
    return deal(parameters, owned, processes) if sharing == "dealt" and _is_dealt(optimizer, group) else {}


def dealt_bytes(optimizer: BaseOptimizer) -> int:
    """Bytes of the weights that each process gets from the process that stepped them, where steps are dealt."""
    return sum(p.nbytes for group in optimizer.param_groups if _is_dealt(optimizer, group) for p in group["params"])


def _is_dealt(optimizer: BaseOptimizer, group: dict[str, Any]) -> bool:
    matrices = isinstance(optimizer, MatrixOptimizer) and optimizer.traits.sharding == "owner"
    return matrices and group["algorithm"] != "adam"


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
