"""Steps dealt to replicas: each process steps some of the matrices and sends their new weights to the others."""

import torch.distributed as dist
from torch import Tensor

from . import host_memory
from .tensor_messages import ALONE_FROM, Message, send_to_all

Sent = Message | host_memory.Reading


def deal(parameters: list[Tensor], dealt: dict[Tensor, int], count: int) -> dict[Tensor, int]:
    """The process, of `count`, that steps each of `parameters`; `dealt` are those that were dealt before.

    The largest are dealt first, each to the process with the fewest elements so far: a step takes about the same time
    for each element of a model's matrices. The result depends on shapes and order alone.
    """
    elements = [sum(p.numel() for p, owner in dealt.items() if owner == process) for process in range(count)]
    owners = {}
    for parameter in sorted(parameters, key=Tensor.numel, reverse=True):
        owners[parameter] = elements.index(min(elements))
        elements[owners[parameter]] += parameter.numel()
    return owners


class SentWeights:
    """Carries new weights from their owners to all other processes. On a CPU large ones are moved to memory that all
    processes of the host see, and need no message."""

    def __init__(self, owners: dict[Tensor, int], processes: dist.ProcessGroup):
        """All processes call it, with parameters of the same shapes."""
        self._owners, self._processes = owners, processes
        large = [p for p in owners if p.is_cpu and p.nbytes >= ALONE_FROM and p.is_contiguous()]
        self._windows = host_memory.share(self._by_owner(large), processes) if large else {}

    def send(self, stepped: list[Tensor]) -> list[Sent]:
        """Begin to give all processes the weights `stepped` of their owners. None may change until all is finished."""
        by_message = [p for p in stepped if p in self._owners and p not in self._windows]
        sent: list[Sent] = [*send_to_all(self._by_owner(by_message), self._processes)]
        if shared := [p for p in stepped if p in self._windows]:
            sent.append(self._read(shared))
        return sent

    def _read(self, shared: list[Tensor]) -> host_memory.Reading:
        mine = self._by_owner(shared)[self._processes.rank()]
        for parameter in mine:
            if not parameter.is_set_to(self._windows[parameter]):  # its memory was replaced
                self._windows[parameter].copy_(parameter)
        others = [parameter for parameter in shared if self._owners[parameter] != self._processes.rank()]
        windows = [self._windows[parameter] for parameter in others]
        return host_memory.Reading([parameter.detach() for parameter in others], windows, self._processes)

    def _by_owner(self, parameters: list[Tensor]) -> list[list[Tensor]]:
        """`parameters` that each process owns, process by process."""
        owned: list[list[Tensor]] = [[] for _ in range(self._processes.size())]
        for parameter in parameters:
            owned[self._owners[parameter]].append(parameter)
        return owned
