"""Weights that replicas on one host read where their owner keeps them, instead of getting them by message. CPU only."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

FILES = Path("/dev/shm")  # files that are memory


@dataclass(frozen=True)
class Reading:
    """Weights here, and the memory of their owners, from which they are copied when all processes have stepped."""

    weights: list[Tensor]
    windows: list[Tensor]
    processes: dist.ProcessGroup

    def finish(self) -> None:
        """Return when all processes have copied: an owner may write again."""
        _meet(self.processes)
        if self.weights:
            torch._foreach_copy_(self.weights, self.windows)
        _meet(self.processes)


def share(weights: list[list[Tensor]], processes: dist.ProcessGroup) -> dict[Tensor, Tensor]:
    """Move `weights[p]` of every process p to memory that all others see. All processes call it.

    Returns the memory of each weight. It is empty, and nothing was moved, if processes are on several hosts or the
    memory does not suffice.
    """
    windows: dict[Tensor, Tensor] = {}
    with contextlib.ExitStack() as until_all_have_opened:
        folders: list[str | None] = [None] * processes.size()
        own = None
        with contextlib.suppress(OSError):
            own = until_all_have_opened.enter_context(tempfile.TemporaryDirectory(dir=FILES))
            for i, weight in enumerate(weights[processes.rank()]):
                _reserve(Path(own, str(i)), weight.nbytes)
        dist.all_gather_object(folders, own, processes)
        with contextlib.suppress(OSError, RuntimeError):
            for folder, tensors in zip(folders, weights, strict=True):
                if folder is None:
                    break
                windows |= {weight: _window(Path(folder, str(i)), weight) for i, weight in enumerate(tensors)}
        opened = torch.tensor(len(windows) == sum(map(len, weights)))
        dist.all_reduce(opened, dist.ReduceOp.MIN, processes)
    if not opened:
        return {}
    for weight in weights[processes.rank()]:
        weight.data = windows[weight].copy_(weight)
    return windows


def _reserve(file: Path, size: int) -> None:
    """Make a file of memory. Raises OSError if there is too little of it: a later write would end the process."""
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _window(file: Path, weight: Tensor) -> Tensor:
    """The memory of `file` as a tensor like `weight`. Raises OSError where there is no such file."""
    if file.stat().st_size != weight.nbytes:  # torch would make it
        raise FileNotFoundError(file)
    return torch.from_file(str(file), shared=True, size=weight.numel(), dtype=weight.dtype).view(weight.shape)


def _meet(processes: dist.ProcessGroup) -> None:
    """Return when every process has called it."""
    dist.all_reduce(torch.zeros(1), group=processes)
