"""A run resumes exactly on another number of processes and with another layout."""

import sys

import pytest

import train
from configs.checks import check_layout
from configs.schema import SettingsError, load
from tests import tiny
from tests.processes import TWO, launch, launch_faulty, started
from training.processes.start import start_world


@pytest.mark.distributed
@pytest.mark.parametrize("model", [(), tiny.GROUPED_AND_TIED], ids=["llama", "grouped and tied"])
def test_one_process_then_replicas_then_shards_then_one(model, text, tmp_path):
    """Every row of metrics, also those of earlier layouts: same rows of data, tokens, losses and learning rates. Rows
    end in padding, of which each process leaves out its own."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train.main(tiny.command(text, whole, "data.packing=false", *model)) == 0
    argv = tiny.command(text, run, "data.packing=false", *model)
    step = "term:training.loop.Trainer._update"
    with started([sys.executable, "tests/faults/faulty.py", f"{step}:4", *argv]) as process:
        process.wait(90)
    assert tiny.saved_steps(run)[-1] == 4
    launch_faulty(f"{step}:4:1", argv)
    assert tiny.saved_steps(run)[-1] == 8
    launch_faulty(f"{step}:2:0", [*argv, "train.parallel=fsdp2"])
    assert tiny.saved_steps(run)[-1] == 10
    assert train.main(argv) == 0
    tiny.assert_nearly_same_end(run, whole)


@pytest.mark.distributed
def test_four_replicas_resume_to_the_same_bits(text, tmp_path):
    """With more than two the order counts in which gradients are added up."""
    runs = {}
    for name, fault in (("whole", "none"), ("resumed", "term:training.loop.Trainer._update:3")):
        argv = tiny.command(text, tmp_path / name, "train.steps=6", "optimizer=adam")
        for again in (fault, "none")[: 1 + (fault != "none")]:
            script = ["train.py"] if again == "none" else ["tests/faults/faulty.py", again]
            with launch((*TWO, "--num_processes", "4"), *script, *argv) as process:
                output, _ = process.communicate(timeout=240)
            assert (process.returncode == 0) == (again == "none"), output
        runs[name] = tiny.weights(tmp_path / name), tiny.metrics(tmp_path / name)
    assert runs["whole"] == runs["resumed"]


def test_accelerates_own_sharding_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError, match=r"configured for FSDP: .*train\.parallel=fsdp2"):
        start_world(seed=0, threads=None, deterministic=False, dtype="float32")


def test_processes_that_do_not_divide_the_streams_are_refused(text, tmp_path):
    config = load(tiny.command(text, tmp_path)).config
    with pytest.raises(SettingsError, match=r"data\.streams must be divisible by the number of processes 3, got 4"):
        check_layout(config, processes=3)
