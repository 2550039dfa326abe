"""The run folder: one run at a time, metrics without gaps or repeats, a summary that means finished."""

import json
import logging
import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training import records
from training.environment import environment
from training.errors import RunFolderError, SaveError
from training.records import MetricsLog, Reference, RunFolder, effective_tokens_per_second, read_metrics


def train_row(step: int) -> dict:
    return {"kind": "train", "step": step, "tokens": 10 * step, "loss": 1 / 3 / step}


def eval_row(step: int, loss: float = 2.0) -> dict:
    return {"kind": "eval", "step": step, "loss": loss, "train_seconds": step / 4}


@contextmanager
def files_of_at_most(size: int):
    """The kernel writes a part of a line, then refuses: what a disk does that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the folder and its lock


def test_a_second_run_is_refused_by_process_id(tmp_path):
    path = tmp_path / "runs" / "a"
    with RunFolder(path), pytest.raises(RunFolderError, match=rf"run\.dir.*process {os.getpid()} on"), RunFolder(path):
        pass
    with RunFolder(path):
        pass


def test_kill_9_releases_the_lock(tmp_path):
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with RunFolder(tmp_path):
                os.write(say, b"x")
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        with pytest.raises(RunFolderError, match=f"process {child} on"), RunFolder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with RunFolder(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def test_a_refused_run_changes_nothing(tmp_path):
    with RunFolder(tmp_path):
        owner = (tmp_path / "lock").read_text()
        with pytest.raises(RunFolderError), RunFolder(tmp_path):
            pass
        assert (tmp_path / "lock").read_text() == owner


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/run"])
def test_a_place_that_cannot_hold_a_run(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=rf"^run\.dir: .*{place}[^\n]*$"), RunFolder(tmp_path / place):
        pass


def test_a_disk_too_small_for_a_checkpoint(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.require_space(1)
        with pytest.raises(RunFolderError, match=r"run\.dir: a checkpoint takes 1,000,000,000\.0 GB, but only .* free"):
            folder.require_space(10**18)


def test_a_full_disk_at_the_start(tmp_path):
    with files_of_at_most(0), pytest.raises(RunFolderError, match=r"^run\.dir: cannot use"), RunFolder(tmp_path):
        pass
    with RunFolder(tmp_path) as folder:
        folder.write_config({"old": 1})
        with files_of_at_most(5), pytest.raises(RunFolderError, match=r"^run\.dir: cannot use"):
            folder.write_config({"new": "x" * 100})
        assert folder.read_config() == {"old": 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "lock"]


def test_config_comes_back(tmp_path):
    config = {
        "run": {"name": "llama_nano_alice_s0", "seed": 0, "reference": None, "deterministic": False},
        "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999], "projection": "random"},
        "data": {"path": "Ünïcode: #*.jsonl", "repeat": True, "tokenizer": "1e3"},
    }
    folder = RunFolder(tmp_path)
    assert folder.read_config() is None
    folder.write_config(config)
    assert folder.read_config() == config
    assert list(folder.read_config()) == list(config)


def test_an_unreadable_config_is_refused_in_one_sentence(tmp_path):
    folder = RunFolder(tmp_path)
    folder.config.write_text("run: [1, 2\nname: }")
    with pytest.raises(RunFolderError, match=r"^run\.dir: .*config\.yaml is not readable: [^\n]*$"):
        folder.read_config()


# --- the summary


def test_a_run_is_finished_when_its_summary_is_whole(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    assert folder.read_summary() is None
    folder.write_summary({"name": "a", "final_loss": 2.5, "versions": {"torch": "2"}, "final_perplexity": float("inf")})
    assert folder.read_summary() == {
        "name": "a",
        "final_loss": 2.5,
        "versions": {"torch": "2"},
        "final_perplexity": None,
    }
    folder.summary.write_text('{"name": ')
    with caplog.at_level(logging.WARNING):
        assert folder.read_summary() is None
    assert "counts as unfinished" in caplog.text


def test_a_summary_that_cannot_be_written_is_not_there(tmp_path):
    folder = RunFolder(tmp_path)
    with files_of_at_most(10), pytest.raises(SaveError, match=r"summary\.json: File too large"):
        folder.write_summary({"name": "x" * 100})
    assert list(tmp_path.iterdir()) == []


# --- metrics


def test_rows_are_in_the_file_when_write_returns(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsLog(path)
    for step in (1, 2):
        metrics.write(train_row(step))
        assert read_metrics(path)[-1] == train_row(step)
    metrics.write(eval_row(2))
    metrics.close()
    assert path.read_text().splitlines() == [json.dumps(row) for row in (train_row(1), train_row(2), eval_row(2))]
    assert metrics.evaluations == [eval_row(2)]


def test_numbers_json_does_not_know_become_null(tmp_path):
    metrics = MetricsLog(tmp_path / "m")
    metrics.write({"kind": "eval", "step": 1, "loss": float("nan"), "perplexity": float("inf"), "ok": 1.5})
    row = json.loads((tmp_path / "m").read_text(), parse_constant=pytest.fail)
    assert row == {"kind": "eval", "step": 1, "loss": None, "perplexity": None, "ok": 1.5}


@pytest.mark.parametrize(
    "torn", [b"", b'{"kind": "train", "st', b"\0\0\0\0", b'{"kind": "train", "step": 2}', b"\xff\n"]
)
def test_a_resume_keeps_the_rows_up_to_its_step(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    rows = [train_row(1), train_row(2), eval_row(2), train_row(3), eval_row(3)]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + torn)
    before = path.read_bytes()

    metrics = MetricsLog(path, resumed_step=2)
    assert before.startswith(path.read_bytes())
    assert read_metrics(path) == rows[:3]
    assert metrics.evaluations == [eval_row(2)]
    for row in rows[3:]:
        metrics.write(row)
    metrics.close()
    assert read_metrics(path) == rows
    assert list(tmp_path.iterdir()) == [path]


def test_an_evaluation_that_the_checkpoint_does_not_know_of_is_dropped(tmp_path):
    """A signal during the evaluation of a step saves that step without it; the next start evaluates, and may be cut."""
    path = tmp_path / "metrics.jsonl"
    rows = [eval_row(1), train_row(2), eval_row(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = MetricsLog(path, resumed_step=2, evaluated_step=1)
    assert read_metrics(path) == rows[:2] and metrics.evaluations == rows[:1]


def test_a_run_from_the_beginning_starts_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(eval_row(0)) + "\n")
    MetricsLog(path).close()
    assert path.read_bytes() == b""


def test_a_kill_while_cutting_leaves_the_old_rows_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(train_row(step)) + "\n" for step in (1, 2, 3)))
    before = path.read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(path, resumed_step=1)
    assert path.read_bytes() == before


def test_a_full_disk_delays_rows_and_loses_none(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsLog(path)
    rows = [train_row(step) for step in range(1, 10)]
    metrics.write(rows[0])
    with files_of_at_most(int(2.5 * path.stat().st_size)), caplog.at_level(logging.WARNING):
        for row in rows[1:6]:
            metrics.write(row)
        assert read_metrics(path) == rows[:2]
        assert path.read_bytes().endswith(b"}\n")
        with pytest.raises(SaveError, match="rows waiting: 4"):
            metrics.sync()
    assert caplog.text.count("training goes on") == 1
    for row in rows[6:]:
        metrics.write(row)
    metrics.close()
    assert read_metrics(path) == rows


def test_rows_lost_at_the_end_are_an_error(tmp_path):
    metrics = MetricsLog(tmp_path / "m")
    with files_of_at_most(10), pytest.raises(SaveError, match="rows waiting: 1"):
        metrics.write(train_row(1))
        metrics.close()


# --- the comparison with another run


def test_effective_throughput():
    reference = Reference(name="adam", final_loss=3.0, tokens=6000)
    rows = [eval_row(0, 2.0), eval_row(4, None), eval_row(8, 3.5), eval_row(12, 3.0), eval_row(16, 2.5)]
    assert effective_tokens_per_second(reference, rows[:3]) == 0.0
    assert effective_tokens_per_second(reference, rows) == 6000 / 3.0


def test_a_reference_is_a_run_folder_or_its_summary(tmp_path):
    RunFolder(tmp_path).write_summary({"name": "adam", "final_loss": 3.25, "tokens": 1000})
    assert Reference.read(tmp_path) == Reference.read(tmp_path / "summary.json") == Reference("adam", 3.25, 1000)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"name": "a", "tokens": 3}', '{"name":"a","final_loss":null,"tokens":3}']
)
def test_a_reference_that_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"^run\.reference: [^\n]*summary"):
        Reference.read(tmp_path)


def test_environment_names_commit_device_and_versions():
    found = environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"]
    root = Path(records.__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert found["git_commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert found["git_commit"] is None
