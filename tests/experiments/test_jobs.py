"""The queue of commands with real processes: which run, which are skipped, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.paths import ROOT
from experiments.jobs import Job, run_all, since_start, training
from tests.processes import started, wait_until

# Writes `started`, at SIGTERM `told`, and half a second later `saved`.
SCRIPT = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    (folder / "told").touch()
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
    starts = (tmp_path / "bad.log").read_text().split("$ ")[1:]
    assert [started.splitlines()[1:] for started in starts] == [["the disk is full"], []]
    assert since_start(tmp_path / "bad.log") == []
    assert run_all([]) == 0


def test_jobs_run_in_order_and_as_many_at_a_time_as_asked(tmp_path):
    """The first two wait for each other, so they run together; a third would be seen by the one that ends last."""
    arrive = 'echo "$CUDA_VISIBLE_DEVICES" > "$1.begun"; cd "$(dirname "$1")"; '
    until = "i=0; until {}; do sleep 0.05; i=$((i + 1)); [ $i -lt 600 ] || exit 1; done; "
    meet = until.format("[ -e a.begun ] && [ -e b.begun ]")
    jobs = [
        shell(tmp_path, "a", arrive + meet + 'touch "$1"'),
        shell(tmp_path, "b", arrive + meet + until.format("[ -e a.seen ]") + 'touch "$1"'),
        shell(tmp_path, "c", arrive + '[ -e a ] && touch a.seen "$1"'),
    ]
    assert run_all(jobs, at_once=2, devices=["4", "7"]) == 0
    devices = [(tmp_path / f"{name}.begun").read_text().strip() for name in "abc"]
    assert devices == ["4", "7", "4"]


def test_what_comes_after_each_job_does_not_wait_for_the_last(tmp_path):
    jobs, seen = [shell(tmp_path, name, 'touch "$1"') for name in "abc"], []
    assert run_all(jobs, after_each=lambda: seen.append(sum(job.proof.exists() for job in jobs)) or ()) == 0
    assert seen == [1, 2, 3]


def test_what_a_job_makes_possible_comes_before_the_rest_unless_it_is_finished(tmp_path, capfd):
    jobs = [shell(tmp_path, name, 'touch "$1"') for name in "abcd"]
    jobs[3].proof.touch()
    later = [[jobs[2], jobs[3]], [], []]
    assert run_all(jobs[:2], after_each=lambda: later.pop(0)) == 0
    started = [line.split(":")[0] for line in capfd.readouterr().out.splitlines() if "started" in line]
    assert started == ["a", "c", "b"] and not later


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
    driver = [sys.executable, "-c", DRIVER, str(tmp_path), *command]
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    with started(driver, env=environment, stdout=subprocess.PIPE) as driver:
        wait_until((tmp_path / "a" / "started").exists)
        driver.send_signal(signum)
        wait_until((tmp_path / "a" / "told").exists)
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
    command = ["nohup", sys.executable, "-c", DRIVER, str(tmp_path), sys.executable, str(script)]
    with started(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as driver:
        wait_until((tmp_path / "a" / "started").exists)
        driver.send_signal(signal.SIGHUP)
        assert driver.wait(60) == 0
    assert (tmp_path / "b" / "started").exists()
