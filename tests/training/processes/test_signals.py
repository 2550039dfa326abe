"""Signals: at once before the training, at step boundaries during it."""

import os
import signal

import pytest

from training.processes.signals import Interrupted, Signals


@pytest.fixture
def signals():
    # Those that nohup and a shell's background jobs ignore.
    numbers = signal.SIGHUP, signal.SIGINT, signal.SIGQUIT
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signals = Signals()
    signals.catch()
    yield signals
    signals.release()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_the_start_at_once(signals):
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM


def test_deferred_signals_wait_and_the_first_counts(signals):
    signals.defer()
    assert signals.requested == 0
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.requested == signal.SIGINT


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_signals_of_terminals_and_batch_systems_wait_too(signals, name):
    signals.defer()
    os.kill(os.getpid(), signal.Signals[name])
    assert signals.requested == signal.Signals[name]
    signals.release()
    assert signal.getsignal(signal.Signals[name]) == signal.SIG_DFL


def test_a_hang_up_that_is_ignored_stays_ignored():
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = Signals()
        signals.catch()
        signals.release()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("launched", [True, False])
def test_a_launched_process_stops_when_its_launcher_is_gone(monkeypatch, launched):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    signals = Signals()
    try:
        assert signals.requested == 0
        monkeypatch.setattr(os, "getppid", lambda: -1)  # no process has it, whoever started this one
        assert signals.requested == (signal.SIGTERM if launched else 0)
    finally:
        signals.release()
