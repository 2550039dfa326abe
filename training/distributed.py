"""Processes under accelerate: their start, what they agree on at a step boundary, signals, and the end of all
of them when one fails.

Two kinds of small collectives are used. Values of the host (`World.exchange`, `gather`, `broadcast`) travel over a
gloo group of their own and never wait for a device; `World.sum` adds device tensors over the default group, which is
NCCL on CUDA and takes no others. Large tensors (gradients, weights) are training.parallel's business.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import warnings
from datetime import timedelta
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from configs.schema import SettingsError
from training.errors import MachineError

BEAT = 1.0  # seconds between two signs of life of a process
DEAD = 8.0  # seconds without one, once a collective has failed, until a process counts as dead
HUNG = 20.0  # the same while this process still waits in a collective (NCCL does not notice a lost peer)
GRACE = 10.0  # seconds a process has to end by itself once the failure of another is known
PATIENCE = timedelta(minutes=30)  # longest wait for a live peer: the first compilation, a slow download


class PeerFailed(MachineError):
    """Another process of the run failed; `code` is the exit code that one ends with."""

    def __init__(self, sentence: str, code: int):
        super().__init__(sentence)
        self.code = code


class Interrupted(BaseException):
    """SIGINT or SIGTERM before there was anything to save. `signum` is the signal."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Signals:
    """SIGINT, SIGTERM and the launcher's death, as one flag that is read at step boundaries.

    Until `defer()` a signal raises `Interrupted` at once. Afterwards it is only noted, however often it comes,
    so that a second ctrl-C cannot tear a checkpoint. accelerate's launcher with one process dies at ctrl-C and
    with SIGTERM never tells its child, so a launched process also watches its parent.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._deferred = False
        self._parent = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: object) -> None:
        if not self._deferred:
            raise Interrupted(signum)
        self._noted = self._noted or signum

    def defer(self) -> None:
        """From now on signals wait for the next step boundary."""
        self._deferred = True

    def release(self) -> None:
        """The handlers Python starts with."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def noted(self) -> int:
        """The signal that asked for the end of the run (SIGTERM when the launcher is gone), or 0."""
        if not self._noted and self._parent is not None and os.getppid() != self._parent:
            self._noted = int(signal.SIGTERM)
        return self._noted


class Watch(threading.Thread):
    """Knows which process of the run failed or fell silent.

    Every process counts up a number of its own in the launcher's store, once a second, and looks whether the
    others' numbers move; clocks of different machines are never compared. A process that fails leaves a note
    there. A process whose peer is gone ends itself, because the collective it waits in may never return.
    """

    def __init__(self, index: int, count: int):
        super().__init__(name="watch", daemon=True)
        self._index, self._peers = index, [peer for peer in range(count) if peer != index]
        self._ended = threading.Event()
        client = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # A restarted group meets the store of its predecessor.
        self._store = dist.PrefixStore(f"watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", client)
        self._seen = dict.fromkeys(self._peers, (0, time.monotonic()))

    def run(self) -> None:
        known = 0.0
        while not self._ended.wait(BEAT):
            try:
                self._look()
                failure = self.failure(HUNG)
            except RuntimeError:  # the store is gone, and with it the launcher: `Signals` sees to that
                return
            if failure is None:
                known = 0.0
            elif not known:
                known = time.monotonic()
            elif time.monotonic() - known > GRACE and not self._ended.is_set():
                self.announce(str(failure), str(failure))
                os._exit(failure.code)

    def _look(self) -> None:
        self._store.add(f"beat/{self._index}", 1)
        for peer in self._peers:
            beat = self._store.add(f"beat/{peer}", 0)
            if beat != self._seen[peer][0]:
                self._seen[peer] = (beat, time.monotonic())

    def end(self) -> None:
        """Stop watching: from here on processes may leave."""
        self._ended.set()

    def failure(self, silence: float) -> PeerFailed | None:
        """A peer that left a note or was silent for `silence` seconds."""
        if self._store.add("notes", 0) and self._store.check(["note"]):
            note = json.loads(self._store.get("note"))
            if note["process"] != self._index:
                return PeerFailed(f"process {note['process']} failed: {note['sentence']}", note["code"])
        for peer, (_, last) in self._seen.items():
            if time.monotonic() - last > silence:
                return PeerFailed(f"process {peer} of {len(self._peers) + 1} died", 1)
        return None

    def wait_for_failure(self) -> PeerFailed | None:
        """After a failed collective: the peer to blame, as soon as it is known."""
        for _ in range(int(2 * DEAD / BEAT)):
            try:
                failure = self.failure(DEAD)
            except RuntimeError:
                return PeerFailed("the launcher died", 1)
            if failure is not None:
                return failure
            time.sleep(BEAT)
        return None

    def report(self, sentence: str, code: int) -> None:
        """Leave the first failure's note for the others."""
        if self._store.add("notes", 1) == 1:
            note = {"process": self._index, "sentence": sentence, "code": code}
            self._store.set("note", json.dumps(note))

    def announce(self, sentence: str, line: str) -> None:
        """Print `line` on stderr, unless another process has already given the same `sentence`."""
        if self._store.add(f"said/{sentence}", 1) == 1:
            print(line, file=sys.stderr, flush=True)


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
        self._watch, self._host = None, None
        if self.count > 1:
            self._host = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._watch = Watch(self.index, self.count)
            self._watch.start()

    def replicate(self, model: nn.Module) -> nn.Module:
        """`model` on this process's device, in DDP where there are several, under autocast if the launcher says so."""
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, is unknown to accelerate.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare_model(model)

    def exchange(self, *row: int) -> list[list[int]]:
        """The `row` of every process, by process index. Host only: the device is not waited for."""
        if self.count == 1:
            return [list(row)]
        rows = torch.empty(self.count, len(row), dtype=torch.int64)
        dist.all_gather_single(rows, torch.tensor([row], dtype=torch.int64), group=self._host)
        return rows.tolist()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` added up over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: object) -> list:
        """The `value` of every process, on the main process; an empty list on the others."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, group=self._host)
        return values or []

    def broadcast(self, value: object) -> object:
        """The main process's `value`."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self._host)
        return box[0]

    def stop_signal(self) -> int:
        """The signal that any process was sent, or 0: the same answer everywhere."""
        return max(row[0] for row in self.exchange(self.signals.noted))

    def fail(self, sentence: str, code: int) -> None:
        """Say on stderr why this process ends, once for all processes with the same reason, and tell the others.

        With more than one process it ends here, with `code`: the interpreter's own end would wait for
        collectives that never come.
        """
        if self._watch is None:
            print(sentence, file=sys.stderr, flush=True)
            return
        line = sentence if self.is_main else f"process {self.index}: {sentence}"
        try:
            self._watch.report(sentence, code)
            self._watch.announce(sentence, line)
        except RuntimeError:  # the store went with the launcher
            print(line, file=sys.stderr, flush=True)
        os._exit(code)

    def peer_failure(self, *, wait: bool = True) -> PeerFailed | None:
        """The other process whose failure explains an error here, if there is one; `wait` until it is known."""
        if self._watch is None:
            return None
        return self._watch.wait_for_failure() if wait else self._watch.failure(DEAD)

    def abandon(self, error: Exception | None) -> NoReturn:
        """After an agreed failure: raises `error`, or, where it is None, what another process says."""
        raise error or self.peer_failure() or MachineError("another process failed")

    def close(self) -> None:
        """Leave together: waits for all processes, after which each may end in its own time."""
        if self._watch is not None:
            self.exchange(0)
            self._watch.end()
            dist.destroy_process_group()


def start(*, seed: int, threads: int | None, deterministic: bool, dtype: str) -> World:
    """Start this process under accelerate (or alone), with its threads and random states set.

    Raises SettingsError when the launcher and accelerate disagree about the number of processes, or when the
    launcher's mixed precision does not go with weights of `dtype`, or when accelerate would shard the model itself.
    """
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "false") == "true":
            raise SettingsError(
                f"accelerate is configured for {plugin}: launch with a file of configs/accelerate; "
                "train.parallel=fsdp2 shards the model"
            )
    signals = Signals()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # The model's one buffer (rotary frequencies) is a constant.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
        ],
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise SettingsError(
            f"the launcher started {launched} processes, accelerate sees {accelerator.num_processes}: "
            "launch with a file of configs/accelerate, e.g. configs/accelerate/cpu_2.yaml"
        )
    precision = accelerator.mixed_precision
    if precision not in ("no", "bf16"):
        raise SettingsError(f"accelerate's mixed_precision is {precision}: use no, or bf16 with train.dtype=float32")
    if precision != "no" and dtype != "float32":
        raise SettingsError(
            f"train.dtype={dtype} with accelerate's mixed_precision={precision}: bfloat16 weights are trained "
            "as they are, launch with --mixed_precision no"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return World(accelerator, signals)
