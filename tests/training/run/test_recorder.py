"""The recorder of the processes that record nothing."""

import inspect

from training.run.recorder import Recorder, RunRecorder


def methods(cls: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(method) for name, method in inspect.getmembers(cls, inspect.isfunction)}


def test_both_recorders_have_the_same_methods():
    ours, theirs = methods(Recorder), methods(RunRecorder)
    public = {name for name in theirs if not name.startswith("_")}
    assert public == {name for name in ours if not name.startswith("_")}
    assert all(ours[name] == theirs[name] for name in public)


def test_the_recorder_of_other_processes_does_nothing():
    with Recorder() as recorder:
        recorder.begin()
        recorder.write({"kind": "train", "step": 1})
        with recorder.recording_bases(1):
            recorder.sync()
        recorder.finish({})
