"""The times and counts of the steps between two rows of metrics."""

import contextlib
import time
from collections.abc import Iterator

import torch

from training.clock import DeviceClock


class Meter:
    """Adds up steps, targets and seconds since the last row of metrics.

    `optimizer_clock` measures the optimizer's part of the steps, on `device`.
    """

    def __init__(self, device: torch.device):
        self.optimizer_clock = DeviceClock(device)
        self._reset()

    def _reset(self) -> None:
        self._steps = self._targets = 0
        self._seconds = self._data_seconds = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around the part of a step that waits for its batch."""
        started = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - started

    def add(self, *, targets: int, seconds: float) -> None:
        """Count a step of `seconds` with `targets` targets, all processes together."""
        self._steps += 1
        self._targets += targets
        self._seconds += seconds

    def take(self) -> dict[str, float]:
        """The means since the last call: targets per second; seconds a step in the optimizer and waiting for data."""
        means = {
            "tokens_per_second": self._targets / self._seconds,
            "optimizer_seconds": self.optimizer_clock.take() / self._steps,
            "data_seconds": self._data_seconds / self._steps,
        }
        self._reset()
        return means
