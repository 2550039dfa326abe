"""A queue of commands, several at a time: finished ones are skipped, an interrupt reaches and waits for all."""

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from analysis.paths import ROOT
from configs.reading import argument
from training.processes.logs import say
from training.processes.signals import STOPS

STARTED = "$ "  # begins the line of a log that says a command starts


@dataclass(frozen=True)
class Job:
    """A command for a process of its own, which runs in the project's folder.

    proof: a file that exists when the job is done; again: run it all the same; log: the file of its output; result: in
    its lines, what tells an exit code other than 0 from a failure. Paths are relative to the project's folder.
    """

    name: str
    command: tuple[str, ...]
    proof: Path
    log: Path
    again: bool = False
    result: re.Pattern[str] | None = None


def training(
    name: str, arguments: Sequence[str], out: Path, launcher: Sequence[str] | None = None, *, again: bool = False
) -> Job:
    """A run of train.py with these arguments in the folder out/name.

    launcher: the words before train.py (default: this Python); again: run it although it is finished.
    """
    command = (*(launcher or [sys.executable]), "train.py", *arguments, argument("run.dir", str(out / name)))
    return Job(name, command, proof=out / name / "summary.json", log=out / f"{name}.log", again=again)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def run_all(
    jobs: Sequence[Job],
    *,
    at_once: int = 1,
    devices: Sequence[str] = (),
    dry: bool = False,
    after_each: Callable[[], Iterable[Job]] = lambda: (),
) -> int:
    """Run the jobs that are not done in order, `at_once` at a time. A job that fails does not stop the others.

    Returns an exit code: 0, 1 if any failed, 128 + the signal after one of `signals.STOPS`, when all have saved and
    ended.

    With `devices` a job gets the CUDA device that the fewest others are on. `dry` prints the commands instead.
    `after_each` is called when a job has ended, while others run; the jobs that it returns are next, before those that
    wait. It must not raise.
    """
    waiting = _left(jobs)
    if dry:
        for number, job in enumerate(waiting):
            device = f"CUDA_VISIBLE_DEVICES={devices[number % len(devices)]} " if devices else ""
            say(device + shlex.join(job.command))
        return 0
    if len(waiting) < len(jobs):
        say(f"{len(jobs) - len(waiting)} of {len(jobs)} are finished")
    return _Queue(waiting, at_once, devices, after_each).run()


def _left(jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if job.again or not (ROOT / job.proof).exists()]


class _Queue:
    """Jobs that wait and jobs that run."""

    def __init__(
        self, waiting: list[Job], at_once: int, devices: Sequence[str], after_each: Callable[[], Iterable[Job]]
    ):
        self.waiting, self.at_once, self.devices, self.after_each = waiting, at_once, devices, after_each
        self.running: dict[subprocess.Popen[bytes], tuple[Job, str | None]] = {}
        self.failed = False

    def run(self) -> int:
        """Run all; returns the exit code of `run_all`."""
        with _caught_signals() as caught:
            passed_on = 0
            while self.running or (self.waiting and not caught):
                while self.waiting and not caught and len(self.running) < self.at_once:
                    self._start_next()
                time.sleep(0.2)
                if len(caught) > passed_on:
                    passed_on = len(caught)
                    say(f"interrupted; waiting for {len(self.running)} to save and end")
                    for process in self.running:
                        _interrupt(process.pid)
                self._collect_ended(interrupted=bool(caught))
        return 128 + caught[0] if caught else int(self.failed)

    def _start_next(self) -> None:
        job = self.waiting.pop(0)
        used = [device for _, device in self.running.values()]
        device = min(self.devices, key=used.count) if self.devices else None
        try:
            self.running[_start(job, device)] = job, device
            say(f"{job.name}: started, log in {job.log}")
        except OSError as error:
            self.failed = True
            say(f"{job.name}: FAILED to start: {error}")

    def _collect_ended(self, *, interrupted: bool) -> None:
        """Print the result of each job that has ended. After an interrupt an exit code other than 0 is no failure."""
        for process in [process for process in self.running if process.poll() is not None]:
            job, _ = self.running.pop(process)
            verdict = ""
            if process.returncode != 0 and not interrupted and not _has_result(job):
                self.failed = True
                verdict = f"FAILED with exit code {process.returncode}, see {job.log}: "
            say(f"{job.name}: {verdict}{_last_line(ROOT / job.log)}")
            self.waiting[:0] = _left(self.after_each())


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Inside, signals that ask for an end are only appended to the list that `with` gives."""
    caught: list[int] = []
    before: dict[int, Any] = {}
    for signum in map(int, STOPS):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            before[signum] = signal.signal(signum, lambda received, _: caught.append(received))
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _start(job: Job, device: str | None) -> subprocess.Popen[bytes]:
    log = ROOT / job.log
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})
    with log.open("ab") as output:
        output.write(f"{STARTED}{shlex.join(job.command)}\n".encode())
        output.flush()
        # In a session of its own, a job does not get a terminal's ctrl-C itself, but once from here.
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip


def _interrupt(pid: int) -> None:
    """SIGTERM to the Python scripts that the process `pid` is or has started, or else to itself.

    A launcher gets none: accelerate's leaves a single process alone, and kills several that need more than 30 seconds.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for script in _scripts(process) or [process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                script.terminate()


def _scripts(process: psutil.Process) -> list[psutil.Process]:
    try:
        program = next((argument for argument in process.cmdline()[1:] if not argument.startswith("-")), "")
        if program.endswith(".py"):
            return [process]
        return [script for child in process.children() for script in _scripts(child)]
    except psutil.NoSuchProcess:
        return []


def since_start(log: Path) -> list[str]:
    """The lines that a job's log has had since its last start."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    starts = [number for number, line in enumerate(lines, start=1) if line.startswith(STARTED)]
    return lines[starts[-1] if starts else 0 :]


def _has_result(job: Job) -> bool:
    return job.result is not None and any(map(job.result.search, since_start(ROOT / job.log)))


def _last_line(log: Path) -> str:
    return next(reversed(since_start(log)), "")
