"""Processes that a test starts, and that end with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[1]
TWO = ("--config_file", "configs/accelerate/cpu_2.yaml", "--main_process_port", "0")
ONE = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def hear_signals() -> None:
    """Put those back to their defaults that nohup and a shell's background jobs ignore: children inherit that."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process in a session of its own. At the end it is killed, and whatever it has started."""
    options = {"cwd": ROOT, "text": True, **options}
    with subprocess.Popen(command, start_new_session=True, preexec_fn=hear_signals, **options) as process:
        try:
            yield process
        finally:
            kill_all(process)


def kill_all(process: subprocess.Popen) -> None:
    family = []
    if process.poll() is None:  # launchers start sessions of their own, which only the family knows
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def launch(layout: tuple[str, ...], *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """accelerate launch with `arguments`, its output as one text."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *layout, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def launch_faulty(fault: str, argv: list[str]) -> str:
    """Two processes of train.py with a fault; their output, once all have ended."""
    with launch(TWO, "tests/faults/faulty.py", fault, *argv) as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    return output


def measured(worker: str, folder: Path, *arguments: str) -> Any:
    """What two processes of the file `worker` of tests/distributed wrote."""
    out = folder / "found.json"
    with launch(TWO, f"tests/distributed/{worker}", str(out), *arguments) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return json.loads(out.read_text())


def wait_until(holds: Callable[[], Any], seconds: float = 90) -> None:
    """Fails the test if it does not hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            pytest.fail("never happened")
        time.sleep(0.02)
