"""Means of the steps between two rows of metrics."""

import time

import pytest
import torch

from training.meter import Meter


def test_means_are_over_the_steps_since_the_last_row(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 14.0, 20.0, 23.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = Meter(torch.device("cpu"))
    with meter.waiting_for_data():
        pass
    with meter.optimizer_clock:
        pass
    meter.add(targets=100, seconds=6.0)
    meter.add(targets=140, seconds=2.0)
    expected = {"tokens_per_second": 30.0, "optimizer_seconds": 2.0, "data_seconds": 0.5}
    assert meter.take() == pytest.approx(expected)
    with meter.optimizer_clock:
        pass
    meter.add(targets=3, seconds=1.0)
    assert meter.take() == pytest.approx({"tokens_per_second": 3.0, "optimizer_seconds": 3.0, "data_seconds": 0.0})
