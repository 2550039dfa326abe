"""metrics.jsonl: rows without gaps or repeats, also on a full disk."""

import json
import logging
from pathlib import Path

import pytest

from tests.training.run.rows import eval_row, files_of_at_most, train_row
from training.run.metrics import MetricsLog, read_metrics
from training.run_errors import SaveError


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


@pytest.mark.parametrize("missing", ["loss", "train_seconds", "kind", "step"])
def test_a_resume_drops_a_damaged_row_and_says_so(tmp_path, caplog, missing):
    path = tmp_path / "metrics.jsonl"
    damaged = {key: value for key, value in eval_row(2).items() if key != missing}
    damaged |= {"kind": ["eval"]} if missing == "kind" else {}
    rows = [train_row(1), eval_row(1), damaged, train_row(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = MetricsLog(path, resumed_step=2)
    assert read_metrics(path) == [rows[0], rows[1], rows[3]] and metrics.evaluations == [rows[1]]
    assert f"{path}: lines that are no rows of a run, and are dropped: 1" in caplog.text


def test_an_evaluation_newer_than_the_checkpoint_is_dropped(tmp_path):
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
