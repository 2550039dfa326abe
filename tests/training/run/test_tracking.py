"""wandb: off unless asked for, read back from what a real offline run wrote, and never in the way."""

import logging
import os
import pty
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.processes import started
from tests.training.run.rows import train_row
from training.run import tracking
from training.run.tracking import Tracker

wandb = pytest.importorskip("wandb")
CONFIG = {"model": {"name": "llama_nano"}, "optimizer": {"name": "alice", "lr": 0.02, "rank": 16}, "tags": []}
SECRET = "correct-horse-battery-staple"


def settings(mode: str) -> SimpleNamespace:
    return SimpleNamespace(mode=mode, project="llama", entity=None, group="table2", tags=["cpu", "nano"])


@pytest.fixture
def quiet_wandb(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    yield monkeypatch
    wandb.teardown()


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == tracking.__name__]


def stored(folder: Path) -> list:
    """The protobuf records of a wandb run's file: LevelDB's log format, 32 KiB blocks behind a 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    data, at, parts, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records


def history(records: list) -> list[dict]:
    def key(item) -> str:
        return item.key or "/".join(item.nested_key)

    rows = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    return [{key(i): float(i.value_json) for i in row.item if not key(i).startswith("_")} for row in rows]


@pytest.mark.slow
def test_disabled_does_not_even_import_wandb(tmp_path):
    code = (
        "import pathlib, sys, types; from training.run.tracking import Tracker\n"
        "t = Tracker(types.SimpleNamespace(mode='disabled'), pathlib.Path(sys.argv[1]), name='a', config={})\n"
        "t.log({'kind': 'train'}); t.finish({}); assert 'wandb' not in sys.modules"
    )
    root = Path(tracking.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_offline_run_and_its_resume(tmp_path, quiet_wandb, caplog):
    tracker = Tracker(settings("offline"), tmp_path, name="nano_alice_s0", config=CONFIG)
    for step in (1, 2, 3):
        tracker.log(train_row(step))
    tracker.log({"kind": "eval", "step": 3, "tokens": 30, "perplexity": 9.5, "loss": 2.25, "train_seconds": 0.75})
    tracker.finish(exit_code=130)
    (first,) = tmp_path.glob("wandb/offline-run-*")

    tracker = Tracker(settings("offline"), tmp_path, name="nano_alice_s0", config=CONFIG)
    for step in (3, 4):  # resumed from step 2
        tracker.log(train_row(step))
    tracker.finish({"final_loss": 1.25, "versions": {"torch": "2"}})
    wandb.teardown()  # its service may write a moment longer
    (second,) = set(tmp_path.glob("wandb/offline-run-*")) - {first}
    assert said(caplog) == []

    records = stored(first)
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (run.display_name, run.project, run.run_group) == ("nano_alice_s0", "llama", "table2")
    assert list(run.tags) == ["cpu", "nano"]
    assert {item.key: item.value_json for item in run.config.update}["optimizer"].count("0.02") == 1
    expected = [{"step": n, "tokens": 10 * n, "train_seconds": n / 4, "train/loss": 1 / 3 / n} for n in (1, 2, 3)]
    evaluation = {"step": 3, "tokens": 30, "train_seconds": 0.75, "eval/perplexity": 9.5, "eval/loss": 2.25}
    assert history(records) == [*expected, evaluation]
    metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    assert {m.name for m in metrics} >= {"step", "tokens", "train_seconds"}
    assert {m.glob_name: m.step_metric for m in metrics if m.glob_name} == {"train/*": "step", "eval/*": "step"}

    again = stored(second)
    assert [r.run.run_id for r in again if r.WhichOneof("record_type") == "run"] == [run.run_id]
    assert [row["step"] for row in history(again)] == [3, 4]
    updates = [r.summary.update for r in again if r.WhichOneof("record_type") == "summary"]
    assert [item.value_json for update in updates for item in update if item.key == "final_loss"] == ["1.25"]

    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_run_of_a_sweep_is_the_agents_and_stays_it(tmp_path, quiet_wandb, caplog):
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("wandb_version: 1\n\nonly:\n  value: racs_lr=0.01\n")
    environment = {"SWEEP_ID": "sweep1", "RUN_ID": "agents1", "SWEEP_PARAM_PATH": str(chosen), "PROJECT": "theirs"}
    for name, value in environment.items():
        quiet_wandb.setenv(f"WANDB_{name}", value)
    Tracker(settings("offline"), tmp_path, name="a", config=CONFIG).finish(exit_code=143)
    wandb.teardown()
    (first,) = tmp_path.glob("wandb/offline-run-*")
    (run,) = [r.run for r in stored(first) if r.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.sweep_id, run.project) == ("agents1", "sweep1", "theirs")
    assert {item.key for item in run.config.update} >= {"model", "optimizer", "only"}

    for name in environment:
        quiet_wandb.delenv(f"WANDB_{name}")
    Tracker(settings("offline"), tmp_path, name="a", config=CONFIG).finish()
    wandb.teardown()
    (second,) = set(tmp_path.glob("wandb/offline-run-*")) - {first}
    assert [r.run.run_id for r in stored(second) if r.WhichOneof("record_type") == "run"] == ["agents1"]
    assert said(caplog) == []


@pytest.mark.slow
def test_an_unreachable_server_makes_the_run_offline(tmp_path, quiet_wandb, caplog):
    quiet_wandb.setenv("WANDB_API_KEY", "0" * 40)
    quiet_wandb.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    quiet_wandb.setattr(tracking, "START_TIMEOUT", 1)
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(settings("online"), tmp_path, name="a", config=CONFIG)
    assert ["wandb is offline" in text for text in said(caplog)] == [True]
    tracker.log(train_row(1))
    tracker.finish({"final_loss": 1.0})
    wandb.teardown()  # its service may write a moment longer
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert [row["step"] for row in history(stored(folder))] == [1]
    assert len(said(caplog)) == 1


def test_no_key_makes_the_run_offline(tmp_path, quiet_wandb, caplog):
    quiet_wandb.setenv("HOME", str(tmp_path / "home"))
    quiet_wandb.setenv("NETRC", str(tmp_path / "none"))
    Tracker(settings("online"), tmp_path, name="a", config=CONFIG).finish()
    assert ["wandb is offline" in text and "No API key" in text for text in said(caplog)] == [True]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_no_key_on_a_terminal_is_not_asked_for(tmp_path):
    """wandb would wait for an answer, and the other processes of the run for this one."""
    program = (
        "import pathlib, sys, types\nfrom training.run.tracking import Tracker\n"
        "settings = types.SimpleNamespace(mode='online', project='x', entity=None, group=None, tags=[])\n"
        "Tracker(settings, pathlib.Path(sys.argv[1]), name='a', config={}).finish()\n"
    )
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    ours, terminal = pty.openpty()
    try:
        command = [sys.executable, "-c", program, str(tmp_path)]
        environment = {**mine, "HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "none")}
        with started(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
            assert process.wait(60) == 0
    finally:
        os.close(terminal)
        os.close(ours)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


@pytest.mark.parametrize("method", ["log", "finish", "init"])
def test_a_failure_of_wandb_is_said_once_and_ends_nothing(tmp_path, monkeypatch, caplog, method):
    def fail(*_, **__):
        raise RuntimeError("the service is gone\nwith a long story")

    def work(*_, **__):
        return None

    run = SimpleNamespace(log=work, finish=work, define_metric=work, summary={})
    if method != "init":
        setattr(run, method, fail)
    monkeypatch.setattr(wandb, "init", fail if method == "init" else lambda **_: run)
    tracker = Tracker(settings("offline"), tmp_path, name="a", config=CONFIG)
    tracker.log(train_row(1))
    tracker.log(train_row(2))
    tracker.finish({"final_loss": 1.0})
    tracker.finish()
    assert said(caplog) == ["wandb failed and is switched off: the service is gone"]
