"""This process among all processes of a run, and what they agree on.

Two kinds of small collectives are used. Values of the host (`all_gather`, `gather`, `from_main`) travel over a gloo
group of their own and never wait for a device. `World.sum` adds device tensors over the default group, which is NCCL on
CUDA and takes no others. Large tensors (gradients, weights) are the layout's business.
"""

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.processes.signals import Signals
from training.processes.watchdog import DEAD, PeerFailed, Watchdog
from training.run_errors import MachineError

PATIENCE = timedelta(minutes=30)  # longest wait for a live peer: the first compilation, a slow download

T = TypeVar("T")


class World:
    """This process among all of the run: its index, device and precision, and the few things agreed on."""

    def __init__(self, accelerator: Accelerator, signals: Signals):
        self.accelerator = accelerator
        self.signals = signals
        self.index: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        # accelerate numbers CPUs, safetensors knows only one.
        self.device = accelerator.device if accelerator.device.type != "cpu" else torch.device("cpu")
        self.mixed_precision: str = accelerator.mixed_precision
        self.is_main: bool = accelerator.is_main_process
        self._watchdog: Watchdog | None = None
        self._main_error: str | None = None  # the text of an error that `from_main` received
        if self.count > 1:
            self._host_group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._watchdog = Watchdog(self.index, self.count)
            self._watchdog.start()

    def replicate(self, model: nn.Module) -> nn.Module:
        """`model` on this process's device, in DDP where there are several, under autocast if the launcher says so."""
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, is unknown to accelerate.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            replicated: nn.Module = self.accelerator.prepare_model(model)
        if isinstance(replicated, DistributedDataParallel) and any(p.itemsize < 4 for p in model.parameters()):
            replicated.register_comm_hook(None, averaged_in_float32)
        return replicated

    def autocast(self, model: nn.Module) -> None:
        """Let a model that is in no wrapper of accelerate's compute in the launcher's mixed precision."""
        if self.mixed_precision != "no":
            forward = torch.autocast(self.device.type, torch.bfloat16)(model.forward)
            model.forward = forward

    def all_gather(self, *numbers: int) -> list[list[int]]:
        """The `numbers` of every process, by process index. Host only: the device is not waited for."""
        if self.count == 1:
            return [list(numbers)]
        rows = torch.empty(self.count, len(numbers), dtype=torch.int64)
        dist.all_gather_single(rows, torch.tensor([numbers], dtype=torch.int64), group=self._host_group)
        return rows.tolist()

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` added up over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, on the main process; an empty list on the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, group=self._host_group)
        return values or []

    def from_main(self, function: Callable[[], T]) -> T:
        """Call `function` on the main process; every process returns its answer, or raises the error it raised."""
        if self.count == 1:
            return function()
        answer, error = None, None
        if self.is_main:
            try:
                answer = function()
            except Exception as raised:
                error = raised
        box: list[Any] = [(answer, error and _picklable(error))]
        dist.broadcast_object_list(box, group=self._host_group)
        if error is not None:
            raise error
        answer, error = box[0]
        if error is not None:
            self._main_error = str(error)
            raise error
        return answer

    def stop_signal(self) -> int:
        """The signal that any process was sent, or 0: the same answer everywhere."""
        return max(signum for (signum,) in self.all_gather(self.signals.requested))

    def fail(self, sentence: str, code: int) -> None:
        """Say on stderr why this process ends, once for all processes with the same reason, and tell the others.

        With more than one process it ends here, with `code`: the interpreter's own end would wait for
        collectives that never come.
        """
        if self._watchdog is None:
            print(sentence, file=sys.stderr, flush=True)
            return
        of_main = self.is_main or sentence == self._main_error
        line = sentence if of_main else f"process {self.index}: {sentence}"
        try:
            self._watchdog.leave_note(sentence, code)
            self._watchdog.announce(sentence, line)
        except RuntimeError:  # the store went with the launcher
            print(line, file=sys.stderr, flush=True)
        os._exit(code)

    def peer_failure(self, *, wait: bool = True) -> PeerFailed | None:
        """The failure of another process that explains an error here, if there is one; `wait` until it is known."""
        if self._watchdog is None:
            return None
        return self._watchdog.wait_for_failure() if wait else self._watchdog.failure(DEAD)

    def raise_agreed(self, error: Exception | None) -> NoReturn:
        """After a failure that all processes know of: raises `error`, or, where it is None, the failure of another
        process."""
        raise error or self.peer_failure() or MachineError("another process failed")

    def close(self) -> None:
        """Leave together: waits for all processes. After it each may end in its own time."""
        if self._watchdog is not None:
            self.all_gather(0)
            self._watchdog.stop()
            dist.destroy_process_group()


def averaged_in_float32(
    _: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """DDP's hook for a bucket of bfloat16 gradients: their mean over all processes, rounded once."""
    total = bucket.buffer().float().div_(dist.get_world_size())
    future = dist.all_reduce(total, async_op=True).get_future()
    return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))


def _picklable(error: Exception) -> Exception:
    """`error`, or a MachineError of the same text if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return MachineError(f"{type(error).__name__}: {error}")
    return error
