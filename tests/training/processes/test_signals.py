"""Signals: at once before the training, at step boundaries during it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.processes.launch_variables import BY_ACCELERATE
from training.processes.signals import Interrupted, Signals

ROOT = Path(__file__).parents[3]


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


# Says what it is, and what it was asked after the end of the process that started it.
WATCHED = """
import os, sys, time
from training.processes.signals import Signals
signals, parent = Signals(), os.getppid()
print(os.getpid(), flush=True)
while os.getppid() == parent:
    time.sleep(0.02)
print(signals.requested, flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["accelerate", "a shell with defaults of accelerate"])
def test_a_process_stops_when_its_launcher_is_gone_but_not_with_a_shell(tmp_path, launcher):
    """As after `nohup python train.py &` and a logout."""
    (tmp_path / "watched.py").write_text(WATCHED)
    if launcher == "accelerate":
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    else:
        command = ["sh", "-c", '"$0" "$1"; true', sys.executable]
    environment = {name: value for name, value in os.environ.items() if name not in BY_ACCELERATE}
    environment |= {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no", "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [*command, str(tmp_path / "watched.py")], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert parent.stdout is not None
    with parent.stdout as said:
        assert int(said.readline()) != parent.pid
        parent.kill()
        parent.wait()
        assert int(said.readline()) == (signal.SIGTERM if launcher == "accelerate" else 0)
