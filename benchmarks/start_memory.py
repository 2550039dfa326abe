"""The host memory that each process of a run takes until it trains, at the start of the run and at a resume."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import train
from training.loop import Trainer


def measure(argv: list[str]) -> int:
    """train.py with the command line `argv` up to its first step. Returns its exit code if it does not come so far."""
    with mock.patch.object(Trainer, "train", report):
        return train.main(argv)


def report(trainer: Trainer, *_: Any) -> int:
    """In the place of `Trainer.train`: print the peak of each process, without and with the optimizer's state."""
    _print_peaks(trainer, "when training begins")
    trainer.optimizer.allocate_state()
    _print_peaks(trainer, "with the optimizer's state")
    trainer.world.close()
    sys.exit()


def _print_peaks(trainer: Trainer, moment: str) -> None:
    peaks = trainer.world.all_gather(peak_bytes(status()))
    if trainer.world.is_main:
        print(f"{moment}: {', '.join(f'{peak / 2**20:,.0f}' for (peak,) in peaks)} MiB", flush=True)


def status() -> str:
    """What Linux says of this process."""
    return Path("/proc/self/status").read_text()


def peak_bytes(status: str) -> int:
    """The most memory that the process has taken, from its `status`."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    kilobytes, unit = fields["VmHWM"].split()
    assert unit == "kB", fields["VmHWM"]
    return 1024 * int(kilobytes)
