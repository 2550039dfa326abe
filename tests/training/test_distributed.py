"""The start of a process, and its signals."""

import os
import signal

import pytest
from accelerate.state import AcceleratorState

from configs.schema import SettingsError
from training import distributed


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps its state for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def signals():
    handlers = distributed.Signals()
    yield handlers
    handlers.release()


@pytest.mark.parametrize(
    ("precision", "dtype", "refusal"),
    [("bf16", "bfloat16", "mixed_precision=bf16"), ("fp16", "float32", "mixed_precision is fp16")],
)
def test_precisions_that_do_not_go_together(monkeypatch, fresh_accelerate, precision, dtype, refusal):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    try:
        with pytest.raises(SettingsError, match=refusal):
            distributed.start(seed=0, threads=None, deterministic=False, dtype=dtype)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_signal_ends_the_start_at_once(signals):
    with pytest.raises(distributed.Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM


def test_deferred_signals_wait_and_the_first_counts(signals):
    signals.defer()
    assert signals.noted == 0
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.noted == signal.SIGINT


@pytest.mark.parametrize("launched", [True, False])
def test_a_launched_process_stops_when_its_launcher_is_gone(monkeypatch, launched):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    signals = distributed.Signals()
    try:
        assert signals.noted == 0
        monkeypatch.setattr(os, "getppid", lambda: -1)  # no process has it, whoever started this one
        assert signals.noted == (signal.SIGTERM if launched else 0)
    finally:
        signals.release()
