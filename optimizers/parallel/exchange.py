"""Messages between the processes that hold the shards of parameters and the parameters' owners."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .shards import processes, rows


class Exchange:
    """Carries tensors of the shapes of `parameters` from shards to owners and back. All processes must take part."""

    def __init__(self, parameters: list[DTensor], owners: list[int | None]):
        mesh = parameters[0].device_mesh
        self._group, self._me, count = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self._device = parameters[0].device
        self._shapes = [parameter.shape for parameter in parameters]
        self._rows = [[rows(parameter, process) for process in range(count)] for parameter in parameters]
        self._of = [[i for i, owner in enumerate(owners) if owner == process] for process in range(count)]

    def gather(self, shards: list[Tensor]) -> list[Tensor]:
        """From this process's rows of every parameter to the whole tensors of the parameters that it owns."""
        mine = self._of[self._me]
        sent = torch.cat([shards[i].flatten() for owned in self._of for i in owned])
        given = [self._elements(owned, self._me) for owned in self._of]
        taken = [self._elements(mine, process) for process in range(len(self._of))]
        received = sent.new_empty(sum(map(sum, taken)))
        self._all_to_all(received, sent, taken, given)
        # Ordered by process, then by parameter.
        parts = received.split([elements for of_process in taken for elements in of_process])
        return [torch.cat(parts[k :: len(mine)]).view(self._shapes[i]) for k, i in enumerate(mine)]

    def scatter(self, wholes: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """From whole tensors (of `dtype`) of the parameters that this process owns to its rows of every parameter."""
        mine = self._of[self._me]
        send = [
            whole[self._rows[i][process]].flatten()
            for process in range(len(self._of))
            for i, whole in zip(mine, wholes, strict=True)
        ]
        given = [self._elements(mine, process) for process in range(len(self._of))]
        taken = [self._elements(owned, self._me) for owned in self._of]
        sent = torch.cat(send) if send else torch.empty(0, dtype=dtype, device=self._device)
        received = sent.new_empty(sum(map(sum, taken)))
        self._all_to_all(received, sent, taken, given)
        parts = iter(received.split([elements for of_owner in taken for elements in of_owner]))
        shards = {i: next(parts) for owned in self._of for i in owned}
        return [shards[i].view(-1, *shape[1:]) for i, shape in enumerate(self._shapes)]

    def _elements(self, parameters: list[int], process: int) -> list[int]:
        """The number of elements in the rows of `process`, for each of `parameters`."""
        spans = (self._rows[i][process] for i in parameters)
        return [
            (span.stop - span.start) * self._shapes[i][1:].numel() for i, span in zip(parameters, spans, strict=True)
        ]

    def _all_to_all(self, received: Tensor, sent: Tensor, taken: list[list[int]], given: list[list[int]]) -> None:
        dist.all_to_all_single(received, sent, [*map(sum, taken)], [*map(sum, given)], group=self._group)


def exchanges(
    parameters: list[DTensor], owner: Callable[[Tensor], int | None]
) -> Iterator[tuple[Exchange, list[DTensor]]]:
    """An exchange for every W of `parameters`, together with these: as a rule each process owns one of them."""
    step = processes(parameters[0]) if parameters else 1
    for i in range(0, len(parameters), step):
        members = parameters[i : i + step]
        yield Exchange(members, [owner(parameter) for parameter in members]), members


def whole_norms(local_rows: list[Tensor], parameters: list[Tensor]) -> Tensor:
    """Frobenius norms of tensors that are sharded as `parameters` are, float64 [len(parameters)], by one all-reduce.

    parameters: all sharded, over one mesh, or all whole. local_rows: this process's rows of each. In float64 the
    squares of small float32 numbers do not underflow.
    """
    norms = torch.stack(torch._foreach_norm(local_rows, 2, torch.float64))
    if not isinstance(parameters[0], DTensor):
        return norms
    squares = norms.square_()
    dist.all_reduce(squares, group=parameters[0].device_mesh.get_group())
    return squares.sqrt_()
