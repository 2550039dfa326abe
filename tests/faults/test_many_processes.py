"""Two processes (gloo) under accelerate's launcher: they agree, and one's failure is everyone's."""

import os
import signal
import socket
import sys

import pytest

import train
from tests import tiny
from tests.processes import ONE, TWO, launch, launch_faulty, started, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.distributed]


def test_two_processes_train_on_the_same_rows_and_one_goes_on(text, whole_run, tmp_path):
    """SIGTERM to one of two stops both at the same step; one process ends the run."""
    argv = tiny.command(text, tmp_path / "run")
    output = launch_faulty("term:training.loop.Trainer._update:7:1", argv)
    assert "step 7 is saved" in output
    assert tiny.saved_steps(tmp_path / "run") == [6, 7]
    assert train.main(argv) == 0
    tiny.assert_nearly_same_end(tmp_path / "run", whole_run)


def test_a_process_that_dies_is_named(text, tmp_path):
    output = launch_faulty("kill:training.loop.Trainer._update:5:1", tiny.command(text, tmp_path / "run"))
    assert "process 1 of 2 died" in output
    assert tiny.saved_steps(tmp_path / "run") == [3]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_a_process_whose_others_never_come_ends_at_a_signal(text, tmp_path, signum):
    """It waits in C++, where no handler of Python's runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "train.py", *tiny.command(text, tmp_path / "run")]
    with started(command, env=os.environ | alone) as process:
        wait_until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None
        process.send_signal(signum)
        assert process.wait(60) == -signum


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_non_finite_loss_on_one_process_stops_the_step_on_all(text, whole_run, tmp_path):
    argv = tiny.command(text, tmp_path / "run", "train.checkpoint_every=1")
    output = launch_faulty("nan:models.llama.LlamaForCausalLM.forward:4:1", argv)  # the first two form DDP's buckets
    assert output.count("step 2 was not applied: its loss is nan") == 1
    assert tiny.saved_steps(tmp_path / "run") == [1]


def test_bad_data_of_one_process_end_both_after_a_checkpoint(text, tmp_path):
    lines = (text / "train.jsonl").read_text().splitlines()
    lines[113] = '{"text": '  # dealt to the last stream, as its last documents
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join(lines))
    argv = tiny.command(text, tmp_path / "run", f"data.path={broken}", "train.checkpoint_every=0")
    with launch(TWO, "train.py", *argv) as process:
        output, _ = process.communicate(timeout=90)
    assert "process 1" in output and "broken.jsonl, line 114" in output
    assert len(tiny.saved_steps(tmp_path / "run")) == 1


def test_a_mistake_that_the_main_process_finds_is_said_once(text, tmp_path):
    """The evaluation text is read by the main process alone; the other one raises the same error."""
    with launch(TWO, "train.py", *tiny.command(text, tmp_path / "run", "data.eval_tokens=1_000_000")) as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    said = [line for line in output.splitlines() if "data.eval_tokens=1000000" in line]
    assert len(said) == 1 and said[0].startswith("data.eval_tokens=1000000, but the 60 documents of")
    assert "failed:" not in output and not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("layout", [ONE, TWO], ids=["one", "two"])
def test_a_signal_to_the_launcher_ends_everybody(text, tmp_path, layout):
    run = tmp_path / "run"
    argv = tiny.command(text, run, "train.steps=100000", "train.checkpoint_every=0")
    with launch(layout, "train.py", *argv) as process:
        wait_until((run / "metrics.jsonl").exists)
        wait_until(lambda: len(tiny.metrics(run)) > 3)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=90)  # ends when the last holder of the pipe does
    assert "is saved" in output
    (step,) = tiny.saved_steps(run)
    assert step == max(row["step"] for row in tiny.metrics(run))
