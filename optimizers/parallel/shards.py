"""Parameters sharded by rows: what this process holds of them, and who owns each."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def local(tensor: Tensor) -> Tensor:
    """The rows of `tensor` that this process holds: all, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor of the shape of all rows of `tensor`, of any values if that is sharded, else `tensor` itself."""
    return (
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) if isinstance(tensor, DTensor) else tensor
    )


def processes(parameter: Tensor) -> int:
    """The number of processes over which `parameter` is sharded."""
    return parameter.device_mesh.size() if isinstance(parameter, DTensor) else 1


def process(parameter: Tensor) -> int:
    """The index of this process among them."""
    return parameter.device_mesh.get_local_rank() if isinstance(parameter, DTensor) else 0


def check(parameter: Tensor) -> None:
    """Raises ValueError if `parameter` is sharded in another way than by rows."""
    if isinstance(parameter, DTensor) and (parameter.device_mesh.ndim != 1 or parameter.placements != (Shard(0),)):
        raise ValueError(
            f"sharded parameters must be sharded by rows, Shard(0), on a mesh of one dimension; got "
            f"{parameter.placements}"
        )


def owners(parameters: list[Tensor], first: int) -> dict[Tensor, int]:
    """The owner of each sharded one of `parameters`, as `dealt` says, beginning with process `first` mod W."""
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    if not sharded:
        return {}
    dealt_to = dealt([parameter.shape for parameter in sharded], first, processes(sharded[0]))
    return dict(zip(sharded, dealt_to, strict=True))


def dealt(shapes: Sequence[Sequence[int]], first: int, count: int) -> list[int]:
    """The process, of `count`, that owns each matrix of these shapes.

    Matrices of one shape (or its transpose) are dealt to the processes in turn, beginning with process `first` mod
    `count`. The next shape continues with the next process.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        alike.setdefault(tuple(sorted(shape)), []).append(i)
    in_turn = [i for members in alike.values() for i in members]
    owner = {i: (first + place) % count for place, i in enumerate(in_turn)}
    return [owner[i] for i in range(len(shapes))]


def rows(parameter: Tensor, process: int) -> slice:
    """The rows of the whole `parameter` that `process` holds."""
    return span(parameter.shape[0], process, processes(parameter))


def span(total: int, process: int, count: int) -> slice:
    """The part of `total` rows that `process` of `count` holds, as torch.chunk cuts them."""
    each = -(-total // count)
    return slice(min(process * each, total), min((process + 1) * each, total))
