"""Parameters sharded by rows: what this process holds of them, and who owns each."""

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def local(tensor: Tensor) -> Tensor:
    """The rows of `tensor` that this process holds: all, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
    """The owner of each sharded one of `parameters`.

    Parameters of one shape (or its transpose) are dealt to the processes in turn, beginning with process `first` mod W.
    The next shape continues with the next process.
    """
    alike: dict[tuple[int, ...], list[Tensor]] = {}
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
    in_turn = (parameter for members in alike.values() for parameter in members)
    return {parameter: (first + i) % processes(parameter) for i, parameter in enumerate(in_turn)}


def rows(parameter: Tensor, process: int) -> slice:
    """The rows of the whole `parameter` that `process` holds."""
    each, total = -(-parameter.shape[0] // processes(parameter)), parameter.shape[0]
    return slice(min(process * each, total), min((process + 1) * each, total))
