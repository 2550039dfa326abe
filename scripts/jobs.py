"""Run many commands, several at a time: what is done is skipped, and an interrupt reaches and waits for them all."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """A command for a process of its own. It is done when the file `proof` exists; what it prints goes to `log`."""

    name: str
    command: tuple[str, ...]
    proof: Path
    log: Path


def training(name: str, arguments: Sequence[str], out: Path, launcher: Sequence[str] | None = None) -> Job:
    """A run of train.py with these arguments in the folder out/name; `launcher` stands before train.py (default:
    this Python)."""
    command = (*(launcher or [sys.executable]), "train.py", *arguments, f"run.dir={out / name}")
    return Job(name, command, proof=out / name / "summary.json", log=out / f"{name}.log")


def run_all(jobs: Sequence[Job], *, at_once: int = 1, devices: Sequence[str] = (), dry: bool = False) -> int:
    """Run what is not done, `at_once` at a time, in order; returns an exit code: 0, 1 if any failed, 130 or 143 after
    a signal, when all have saved and ended.

    With `devices` a job gets the CUDA device that the fewest others are on. `dry` prints the commands instead.
    """
    waiting = [job for job in jobs if not job.proof.exists()]
    if dry:
        for number, job in enumerate(waiting):
            device = f"CUDA_VISIBLE_DEVICES={devices[number % len(devices)]} " if devices else ""
            print(device + shlex.join(job.command))
        return 0
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} are finished", flush=True)
    caught: list[int] = []
    before = {
        signum: signal.signal(signum, lambda s, _: caught.append(s)) for signum in (signal.SIGINT, signal.SIGTERM)
    }
    running: dict[subprocess.Popen, tuple[Job, str | None]] = {}
    failed = False
    try:
        while running or (waiting and not caught):
            while waiting and not caught and len(running) < at_once:
                job = waiting.pop(0)
                used = [device for _, device in running.values()]
                device = min(devices, key=used.count) if devices else None
                running[_start(job, device)] = job, device
            time.sleep(0.2)
            if caught:
                for process in running:  # the processes of a launcher too
                    os.killpg(process.pid, signal.SIGTERM)
                for process in running:
                    process.wait()
            for process in [process for process in running if process.poll() is not None]:
                job, _ = running.pop(process)
                failed |= process.returncode != 0
                verdict = "" if process.returncode == 0 else f"FAILED, exit code {process.returncode}: "
                print(f"{job.name}: {verdict}{_last_line(job.log)}", flush=True)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 + caught[0] if caught else int(failed)


def _start(job: Job, device: str | None) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})
    with job.log.open("ab") as log:
        # A session of its own: a terminal's ctrl-C comes here, and from here once to each of them.
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""
