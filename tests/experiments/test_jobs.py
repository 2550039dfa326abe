"""The queue of commands with real processes: which run, which are skipped, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.paths import ROOT
from experiments.jobs import Job, run_all, training

# Writes `started`, and `saved` half a second after SIGTERM.
SCRIPT = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "started").touch()
time.sleep(60)
"""
# As accelerate's: told to end, it kills its child, which has a session of its own.
LAUNCHER = """
trap 'kill -9 $child; exit 1' TERM
setsid "$PYTHON" -u "$@" & child=$!
wait $child
"""
DRIVER = """
import signal, sys
from pathlib import Path
from experiments.jobs import Job, run_all
folder, command = Path(sys.argv[1]), sys.argv[2:]
sys.exit(run_all([Job(name, (*command, str(folder / name)), folder / "none", folder / f"{name}.log") for name in "ab"]))
"""


def shell(folder: Path, name: str, text: str) -> Job:
    """A job that is done when it has made the file of its name in `folder`."""
    return Job(name, ("sh", "-c", text, "sh", str(folder / name)), folder / name, folder / f"{name}.log")


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.05)


def test_a_failed_job_stops_no_other_and_finished_ones_are_skipped(tmp_path, capfd):
    jobs = [
        shell(tmp_path, "bad", "echo the disk is full; exit 3"),
        Job("missing", ("no-such-program",), tmp_path / "missing", tmp_path / "missing.log"),
        shell(tmp_path, "good", 'touch "$1"; echo perplexity 9'),
    ]
    assert run_all(jobs, at_once=2) == 1
    said = capfd.readouterr().out
    assert f"bad: FAILED with exit code 3, see {tmp_path}/bad.log: the disk is full\n" in said
    assert "missing: FAILED to start: " in said and "good: perplexity 9\n" in said
    assert run_all(jobs[2:]) == 0
    assert capfd.readouterr().out == "1 of 1 are finished\n"
    jobs[0] = shell(tmp_path, "bad", 'touch "$1"')
    assert run_all([jobs[0], jobs[2]]) == 0
    assert (tmp_path / "bad.log").read_text() == "the disk is full\n"  # and nothing from the second run
    assert run_all([]) == 0


def test_jobs_run_in_order_and_as_many_at_a_time_as_asked(tmp_path):
    text = 'echo "$(basename "$1") $CUDA_VISIBLE_DEVICES $(date +%s%N)" >> "$(dirname "$1")/times"; sleep 0.5; '
    text += 'echo "end 0 $(date +%s%N)" >> "$(dirname "$1")/times"'
    assert run_all([shell(tmp_path, name, text) for name in "abc"], at_once=2, devices=["4", "7"]) == 0
    rows = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    events = [row[0] for row in sorted(rows, key=lambda row: int(row[2]))]
    assert sorted(events[:2]) == ["a", "b"] and events[2] == "end" and events.index("c") > 2
    devices = {row[0]: row[1] for row in rows}
    assert (devices["a"], devices["b"]) == ("4", "7") and devices["c"] in ("4", "7")


def test_dry_prints_commands_that_can_be_pasted(tmp_path, capfd):
    job = training("a b", ["x.yaml", "optimizer.betas=[0.9, 0.99]"], tmp_path, ["accelerate", "launch"])
    assert run_all([job, training("c", ["x.yaml"], tmp_path)], devices=["3"], dry=True) == 0
    first, second = capfd.readouterr().out.splitlines()
    arguments = f"accelerate launch train.py x.yaml 'optimizer.betas=[0.9, 0.99]' 'run.dir={tmp_path}/a b'"
    assert first == f"CUDA_VISIBLE_DEVICES=3 {arguments}"
    assert second == f"CUDA_VISIBLE_DEVICES=3 {sys.executable} train.py x.yaml run.dir={tmp_path}/c"
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
@pytest.mark.parametrize("launched", [False, True], ids=["alone", "launched"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_a_signal_reaches_running_jobs_and_is_waited_for(tmp_path, signum, launched):
    script, launcher = tmp_path / "script.py", tmp_path / "launcher.sh"
    script.write_text(SCRIPT)
    launcher.write_text(LAUNCHER)
    for name in "ab":
        (tmp_path / name).mkdir()
    command = ["bash", str(launcher), str(script)] if launched else [sys.executable, str(script)]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), *command],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),  # the tests themselves may run under nohup
    )
    wait_for(tmp_path / "a" / "started")
    driver.send_signal(signum)
    time.sleep(0.3)
    driver.send_signal(signum)  # an impatient second one
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 128 + signum
    assert (tmp_path / "a" / "saved").exists()
    assert not (tmp_path / "b" / "started").exists()
    assert "interrupted; waiting for 1 to save and end\n" in said and "FAILED" not in said


@pytest.mark.faults
def test_nohup_stays_in_force(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, pathlib, time; pathlib.Path(sys.argv[1], 'started').touch(); time.sleep(1)")
    for name in "ab":
        (tmp_path / name).mkdir()
    driver = subprocess.Popen(
        ["nohup", sys.executable, "-c", DRIVER, str(tmp_path), sys.executable, str(script)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "a" / "started")
    driver.send_signal(signal.SIGHUP)
    assert driver.wait(60) == 0
    assert (tmp_path / "b" / "started").exists()
