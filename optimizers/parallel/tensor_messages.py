"""Tensors that each of several replicas sends to all others."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

ALONE_FROM = 1 << 20  # bytes from which on a tensor is sent where it lies, without a copy
MESSAGE_BYTES = 1 << 25  # smaller ones are joined to messages of up to this size


@dataclass(frozen=True)
class Message:
    """Tensors on their way: `sent` holds all of them, one after the other, or is the only one itself."""

    tensors: list[Tensor]
    sent: Tensor
    works: list[dist.Work]
    mine: bool

    def finish(self) -> None:
        """Return when the tensors have their new values; on CUDA when all later work of the stream will find them."""
        for work in self.works:
            work.wait()
        if not self.mine and self.sent is not self.tensors[0]:
            parts = self.sent.split([tensor.numel() for tensor in self.tensors])
            torch._foreach_copy_(self.tensors, [p.view(t.shape) for p, t in zip(parts, self.tensors, strict=True)])


def send_to_all(tensors: list[list[Tensor]], processes: dist.ProcessGroup) -> list[Message]:
    """Give `tensors[p]` of every process the values that process p has.

    Every process calls it with tensors of the same shapes and dtypes. They must not change before all messages are
    finished: messages of different processes are under way at the same time.
    """
    messages = []
    for process, own in enumerate(tensors):
        for joined in _joined(own):
            mine = process == processes.rank()
            if len(joined) == 1 and joined[0].is_contiguous():
                sent = joined[0]
            elif mine:
                sent = torch.cat([tensor.flatten() for tensor in joined])
            else:
                sent = joined[0].new_empty(sum(tensor.numel() for tensor in joined))
            messages.append(Message(joined, sent, _works(sent, process, processes), mine))
    return messages


def _joined(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """`tensors` in messages: large ones alone, others of one dtype together."""
    small: dict[torch.dtype, list[list[Tensor]]] = {}
    for tensor in tensors:
        if tensor.nbytes >= ALONE_FROM:
            yield [tensor]
            continue
        messages = small.setdefault(tensor.dtype, [[]])
        if sum(each.nbytes for each in messages[-1]) + tensor.nbytes > MESSAGE_BYTES:
            messages.append([])
        messages[-1].append(tensor)
    for messages in small.values():
        yield from messages


def _works(tensor: Tensor, source: int, processes: dist.ProcessGroup) -> list[dist.Work]:
    """Begin to send `tensor` of the process `source` to all others."""
    if not tensor.is_cpu:
        return [dist.broadcast(tensor, group=processes, group_src=source, async_op=True)]
    # gloo's broadcast passes through a thread of its own, which costs more than the copy (docs/distributed.md).
    if processes.rank() == source:
        others = (process for process in range(processes.size()) if process != source)
        works = [dist.isend(tensor, group=processes, group_dst=process) for process in others]
    else:
        works = [dist.irecv(tensor, group=processes, group_src=source)]
    return [work for work in works if work is not None]  # None: for processes outside of the group
