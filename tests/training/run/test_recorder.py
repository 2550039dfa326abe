"""The recorder of the processes that record nothing, and a picture that cannot be drawn."""

import inspect

import pytest
import torch

from configs.schema import load
from training.run.folder import RunFolder
from training.run.recorder import Recorder, RunRecorder
from training.run_errors import SaveError


def methods(cls: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(method) for name, method in inspect.getmembers(cls, inspect.isfunction)}


def test_both_recorders_have_the_same_methods():
    ours, theirs = methods(Recorder), methods(RunRecorder)
    public = {name for name in theirs if not name.startswith("_")}
    assert public == {name for name in ours if not name.startswith("_")}
    assert all(ours[name] == theirs[name] for name in public)


def test_the_recorder_of_other_processes_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Recorder() as recorder:
        recorder.begin()
        recorder.write({"kind": "train", "step": 1})
        with recorder.recording_bases(1):
            recorder.sync()
        recorder.finish({})
    assert list(tmp_path.iterdir()) == []


def fail(error: Exception):
    def draw(folder):
        raise error

    return draw


@pytest.fixture
def recorder(tmp_path):
    with (
        RunFolder(tmp_path) as folder,
        RunRecorder(folder, load([]).config, None, None, torch.device("cpu")) as recorder,
    ):
        recorder.begin()
        yield recorder


SUMMARY = {"final_loss": 2.5, "tokens_per_second": 10.0}


def test_a_curve_that_cannot_be_drawn_costs_no_summary(recorder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("training.run.curve.draw", fail(ValueError("no\nfont")))
    recorder.finish(SUMMARY)
    assert (tmp_path / "summary.json").exists() and f"cannot draw {tmp_path}/curve.png: no font" in caplog.text


def test_a_disk_that_takes_no_curve_leaves_the_run_unfinished(recorder, tmp_path, monkeypatch):
    """The same command writes both when there is room."""
    monkeypatch.setattr("training.run.curve.draw", fail(SaveError("cannot write curve.png: full")))
    with pytest.raises(SaveError, match=r"curve\.png"):
        recorder.finish(SUMMARY)
    assert not (tmp_path / "summary.json").exists()
