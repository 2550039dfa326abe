"""Interruptions of a run of one process: the same command again, and the end is bit for bit the same."""

import errno
import multiprocessing
import os
import shutil
import signal

import pytest

import train
from tests import tiny
from tests.faults import faulty
from tests.processes import hear_signals
from training.run import checkpoint
from training.run.folder import RunFolder

pytestmark = pytest.mark.faults

# A server that has imported everything; each run is a fork of it, with a main thread and signals of its own.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["train", "tests.faults.faulty", "matplotlib.figure"])


def run(faults: list[str], argv: list[str], log) -> int:
    """The exit code of train.py with `faults`; its output is added to `log`."""
    child = processes.Process(target=in_child, args=(faults, argv, str(log)))
    child.start()
    try:
        child.join(120)
        assert child.exitcode is not None
    finally:
        child.kill()
    return child.exitcode


def in_child(faults: list[str], argv: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    hear_signals()
    raise SystemExit(faulty.main(faults, argv))


def assert_same_end(run, whole_run):
    assert tiny.metrics(run) == tiny.metrics(whole_run)
    assert tiny.weights(run) == tiny.weights(whole_run)


def test_killed_again_and_again(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    moments = [
        "kill:training.loop.Trainer._update:2",  # before anything was saved
        "kill:optimizers.alice.Alice.step:5",  # between two checkpoints
        "kill:training.run.atomic.os.fsync:4",  # among the files of a checkpoint
        "kill:training.run.checkpoint.prune:1",  # after a save
        "kill:training.run.metrics.MetricsLog.write:3",
        "kill:training.loop.evaluate:1",
        "kill:training.run.recorder.export_model:1",  # after the last checkpoint
        "kill:training.run.folder.RunFolder.write_summary:1",  # at the very end
    ]
    for moment in moments:
        assert run([moment], argv, tmp_path / "log") == -signal.SIGKILL, moment
    assert run([], argv, tmp_path / "log") == 0
    assert_same_end(tmp_path / "run", whole_run)


@pytest.mark.parametrize("first", ["int", "term"])
def test_signals_save_and_stop(text, whole_run, tmp_path, first):
    argv = tiny.command(text, tmp_path / "run", "train.checkpoint_every=0")
    # A second one arrives while the checkpoint is written.
    faults = [f"{first}:training.loop.Trainer._update:5", "int:training.run.checkpoint.save_file:1"]
    code = run(faults, argv, tmp_path / "log")
    assert code == {"int": 130, "term": 143}[first]
    assert tiny.saved_steps(tmp_path / "run") == [5]
    assert "step 5 is saved" in (tmp_path / "log").read_text()
    assert run([f"{first}:training.loop.evaluate:2"], argv, tmp_path / "log") == code
    assert tiny.saved_steps(tmp_path / "run") == [5, 12]  # the last step, whose evaluation is still to come
    assert run([], argv, tmp_path / "log") == 0
    assert_same_end(tmp_path / "run", whole_run)


def test_a_signal_before_the_first_step_saves_nothing(text, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    assert run(["term:train.load_tokenizer:1"], argv, tmp_path / "log") == 143
    assert (tmp_path / "log").read_text().endswith("\ninterrupted; there is nothing to save\n")
    assert run(["term:training.loop.Trainer._next_batch:1"], argv, tmp_path / "log") == 143
    assert (tmp_path / "log").read_text().endswith("interrupted; there is nothing to save\n")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_full_disk_ends_a_run_only_at_its_end(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    full = "full:training.run.checkpoint.save_file"
    assert run([f"{full}:2"], argv, tmp_path / "log") == 0
    log = (tmp_path / "log").read_text()
    assert "step 6" in log and "No space left on device" in log and "training goes on" in log
    assert_same_end(tmp_path / "run", whole_run)

    argv = tiny.command(text, tmp_path / "other")
    assert run([f"{full}:4", f"{full}:4"], argv, tmp_path / "log2") == 1  # again without the older one
    assert (tmp_path / "log2").read_text().splitlines()[-1].startswith("cannot save the checkpoint of step 12")
    assert tiny.saved_steps(tmp_path / "other") == [9]
    assert run([], argv, tmp_path / "log2") == 0  # room was made
    assert_same_end(tmp_path / "other", whole_run)


def test_a_quota_takes_the_older_checkpoint(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    assert run(["full:training.run.checkpoint.save_file:3"], argv, tmp_path / "log") == 0
    assert "No space left" not in (tmp_path / "log").read_text()
    assert tiny.saved_steps(tmp_path / "run") == [9, 12]
    assert_same_end(tmp_path / "run", whole_run)


@pytest.mark.parametrize("write", ["export.fsync:1", "curve.write_atomically:1", "folder.write_atomically:3"])
def test_a_disk_full_at_the_end_takes_the_room_of_the_older_checkpoint(text, whole_run, tmp_path, write):
    """At the model, the curve and the summary."""
    assert run([f"full:training.run.{write}"], tiny.command(text, tmp_path / "run"), tmp_path / "log") == 0
    assert "older checkpoints were given up for it" in (tmp_path / "log").read_text()
    assert tiny.saved_steps(tmp_path / "run") == [12]
    assert_same_end(tmp_path / "run", whole_run)


def test_a_run_needs_no_more_room_to_resume_than_to_train(text, whole_run, tmp_path, monkeypatch):
    argv, checkpoints = tiny.command(text, tmp_path / "run"), tmp_path / "run" / "checkpoints"
    assert run(["kill:training.loop.Trainer._update:8"], argv, tmp_path / "log") == -signal.SIGKILL
    assert tiny.saved_steps(tmp_path / "run") == [3, 6]
    monkeypatch.setattr("training.run.folder.free_bytes", lambda folder: 10)
    assert checkpoint.reclaimable(checkpoints, None) == 0
    assert train.main([*argv, "train.steps=7", "run.allow_config_change=true"]) == 0  # the older one would be given up
    shutil.rmtree(checkpoints / "step_00000006")
    assert train.main([*argv, "train.steps=7", "run.allow_config_change=true"]) == 0  # the last step is saved
    assert train.main([*argv, "train.steps=7", "run.allow_config_change=true", f"run.dir={tmp_path / 'new'}"]) == 2


def test_a_loss_that_is_not_finite_is_not_applied(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    assert (
        run(["nan:models.llama.LlamaForCausalLM.forward:2"], [*argv, "train.checkpoint_every=1"], tmp_path / "log") == 1
    )
    sentence = (tmp_path / "log").read_text().splitlines()[-1]
    assert sentence.startswith("step 2 was not applied: its loss is nan")
    assert "the last checkpoint is that of step 1" in sentence
    assert run([], argv, tmp_path / "log") == 0
    assert_same_end(tmp_path / "run", whole_run)


def test_a_second_run_in_the_folder_is_refused(text, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    with RunFolder(tmp_path / "run"):
        assert run([], argv, tmp_path / "log") == 2
    assert f"process {os.getpid()}" in (tmp_path / "log").read_text()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_newest_checkpoint_is_damaged(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run")
    assert run(["term:training.loop.Trainer._update:8"], argv, tmp_path / "log") == 143
    assert tiny.saved_steps(tmp_path / "run") == [6, 8]
    damaged = tmp_path / "run" / "checkpoints" / "step_00000008" / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert run([], argv, tmp_path / "log2") == 0
    assert "step_00000008" in (tmp_path / "log2").read_text()
    assert_same_end(tmp_path / "run", whole_run)


def test_a_checkpoint_that_cannot_be_read_changes_nothing(text, whole_run, tmp_path, monkeypatch, capsys):
    argv = tiny.command(text, tmp_path / "run")
    assert run(["kill:training.loop.Trainer._update:8"], argv, tmp_path / "log") == -signal.SIGKILL
    rows = tiny.metrics(tmp_path / "run")

    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint, "_fingerprint", refuse)
    assert train.main(argv) == 1
    assert "step_00000006: Input/output error" in capsys.readouterr().err.splitlines()[-1]
    assert (tiny.metrics(tmp_path / "run"), tiny.saved_steps(tmp_path / "run")) == (rows, [3, 6])
    assert run([], argv, tmp_path / "log") == 0
    assert_same_end(tmp_path / "run", whole_run)
